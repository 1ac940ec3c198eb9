# The team in a cluster: docs/kubernetes.md.

##@ The team in a cluster

k8s-apply:  ## apply an overlay to the cluster of kubectl (OVERLAY=dev, production, redis-only, …)
	@deploy/k8s/overlay.sh apply "$(OVERLAY)"

k8s-diff:  ## show what that would change (OVERLAY=…)
	@deploy/k8s/overlay.sh diff "$(OVERLAY)"

helm-lint: $(CHECKS)/.made  ## check the chart, with the values of each transport
	@CHECKS="$(CHECKS)" deploy/helm/lint.sh

snapshots: $(VENV)/.test $(CHECKS)/.made  ## renew what the chart has copied and what the tests keep of rendered manifests
	@UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest --quiet tests/deploy/test_kubernetes.py -k "copies or kept"

.PHONY: k8s-apply k8s-diff helm-lint snapshots
