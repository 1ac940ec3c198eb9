# The team in a cluster: docs/kubernetes.md.

##@ The team in a cluster

k8s-apply:  ## apply an overlay to the cluster of kubectl (OVERLAY=dev, production, redis-only, …)
	@deploy/k8s/overlay.sh apply "$(OVERLAY)"

k8s-diff:  ## show what that would change (OVERLAY=…)
	@deploy/k8s/overlay.sh diff "$(OVERLAY)"

helm-lint: $(CHECKS)/.made  ## check the chart, with the values of each transport
	@CHECKS="$(CHECKS)" deploy/helm/lint.sh

.PHONY: k8s-apply k8s-diff helm-lint
