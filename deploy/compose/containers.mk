# The team in containers. Each recipe is a script of this folder: they say in their heads what they go by.

COMPOSE_DIR := deploy/compose
COMPOSE_VENV := .venv-containers
LOGS_ARGS ?= -f --tail=100

##@ The team in containers

start:  ## start the composed team, polling
	@$(COMPOSE_DIR)/start.sh polling

start-activated:  ## … event-driven
	@$(COMPOSE_DIR)/start.sh activated

start-hooks:  ## … with Claude Code's hooks as events, and pipes
	@$(COMPOSE_DIR)/start.sh hooks

start-hybrid:  ## … with all of that, and Redis
	@$(COMPOSE_DIR)/start.sh hybrid

stop:  ## stop it, in whatever mode it runs; its volumes stay
	@$(COMPOSE_DIR)/stop.sh

stop-hooks: stop  ## the same
stop-hybrid: stop  ## the same

restart-hooks:  ## stop it, start it in the mode hooks
	@$(COMPOSE_DIR)/stop.sh
	@$(COMPOSE_DIR)/start.sh hooks

restart-hybrid:  ## stop it, start it in the mode hybrid
	@$(COMPOSE_DIR)/stop.sh
	@$(COMPOSE_DIR)/start.sh hybrid

rolling-restart:  ## restart one service after the other, each when the last one is ready
	@$(COMPOSE_DIR)/rolling-restart.sh $(SERVICES)

rolling-update:  ## … each from the image and the settings that are there now
	@$(COMPOSE_DIR)/rolling-restart.sh --update $(SERVICES)

logs-watcher-marie:  ## follow what this worker logs
logs-watcher-anga:  ## … this one
logs-watcher-fabien:  ## … this one
logs-watcher-%:  ## … any service
	@$(COMPOSE_DIR)/compose.sh logs $(LOGS_ARGS) $*

build:  ## build both images
	@deploy/build.sh

##@ Looking after a team

test-hooks:  ## the field check of what runs, in containers or here (CHECK_ARGS="--triggers 100 --task")
	@$(COMPOSE_DIR)/field-check.sh $(CHECK_ARGS)

hooks-status:  ## the workers, their hook rules and their pipes
	@$(COMPOSE_DIR)/hooks-status.sh

check-triggers:  ## count the triggers that wait
	@$(COMPOSE_DIR)/triggers.sh count

clean-triggers:  ## delete those, after a question (YES=1: without); dead letters stay
	@$(COMPOSE_DIR)/triggers.sh clean

check-pipes:  ## whether each worker has its pipes
	@$(COMPOSE_DIR)/pipes.sh

backup:  ## save queues, results, ledger and auth homes (FILE=…)
	@$(COMPOSE_DIR)/backup.sh $(if $(FILE),"$(FILE)")

restore:  ## put them back (FILE=…)
	@$(COMPOSE_DIR)/restore.sh $(if $(FILE),"$(FILE)")

test-containers: $(VENV)/.test $(COMPOSE_VENV)/.made  ## build the images, run the composed team in every mode, and break it
	@$(BIN)/python -m pytest tests/containers $(if $(TRANSCRIPT),--transcript "$(TRANSCRIPT)") $(PYTEST_ARGS)

$(COMPOSE_VENV)/.made: deploy/compose/requirements.txt | $(VENV)/.made
	@echo "Installing podman-compose, for machines without Docker …"
	@rm -rf $(COMPOSE_VENV)
	@$(PYTHON) -m venv $(COMPOSE_VENV)
	@$(COMPOSE_VENV)/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@

.PHONY: start start-activated start-hooks start-hybrid stop stop-hooks stop-hybrid restart-hooks restart-hybrid
.PHONY: rolling-restart rolling-update build
.PHONY: test-hooks hooks-status check-triggers clean-triggers check-pipes backup restore test-containers
