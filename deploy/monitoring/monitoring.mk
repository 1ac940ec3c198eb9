# Watching a team. The rules, boards and receivers are told of in docs/deployment.md, the alerts in docs/troubleshooting.md.

.PHONY: monitoring-up

monitoring-up: $(VENV)/.run  ## watch the team of this machine with Prometheus and its alerts, until Ctrl-C
	@$(BIN)/python deploy/monitoring/local.py --shared-dir shared $(MONITORING_ARGS)
