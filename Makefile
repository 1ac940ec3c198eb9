# Everything a newcomer types. `make` alone lists the targets.
# All paths are relative to this folder, so that it may lie anywhere, in a path with spaces too.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CHECKS := .venv-checks
TEAM ?= orchestrator_service/example_team/team.toml
TEST_PROCESSES ?= $(shell cores=$$(nproc 2>/dev/null || echo 1); echo $$((cores < 7 ? cores + 1 : 8)))
TASK ?= marie: Plan a ten-minute warm-up for adults who dance salsa for the first time.

.DEFAULT_GOAL := help
.PHONY: help run demo test ready-to-test compiled-tests lint bench clean
.SUFFIXES:

# Tests start programs a thousand times. Where their bytecode is not kept, each start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list what can be made
	@awk -F ':[^#]*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z][a-z0-9% -]*:[^#]*## / { printf "  make %-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ On this machine

run: $(VENV)/.run  ## start the example team, give it one task, serve until Ctrl-C
	@$(BIN)/codehornets up --team "$(TEAM)" --shared-dir shared --task "$(TASK)"

demo: $(VENV)/.run  ## the same for one task, then stop
	@$(BIN)/codehornets up --team "$(TEAM)" --shared-dir shared --task "$(TASK)" --once

# One process more than cores, since tests often wait: for a program to notice or to end. With two more they are no faster
# on two cores, and more of them run out of time. Not more than eight: Linux has 128 inotify instances for one user, and
# workers use them.
test:  ## run the checks and all tests
	@$(MAKE) --no-print-directory --jobs=2 ready-to-test
	@$(BIN)/python -m tests.run_suite --numprocesses=$(TEST_PROCESSES) --dist=worksteal $(PYTEST_ARGS)

# What comes before the tests, side by side: mypy keeps one core busy.
ready-to-test: lint $(CHECKS)/.made compiled-tests  ## install what the tests need, and run the checks

# Each process of a run imports all tests; without their bytecode it compiles them, and longer than anything else.
compiled-tests: $(VENV)/.test  ## compile the tests
	@$(BIN)/python -m pytest --collect-only -qq > /dev/null 2>&1 || true

lint: $(VENV)/.test  ## check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.bench  ## measure speed and memory, print one table
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:  ## remove what was made here: environment, caches, build output (not ./shared)
	rm -rf $(VENV) $(CHECKS) $(COMPOSE_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

include deploy/checks/checks.mk
include deploy/compose/containers.mk
include deploy/monitoring/monitoring.mk
include deploy/k8s/k8s.mk

# -- the virtual environment: a stamp for each set of dependencies, renewed when the lists change

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: $(PYTHON) is missing or older than 3.11; install Python 3.11 or later, or say where it is: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make virtual environments; install its venv package (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV) …"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing codehornets-ai and what it needs (once; a minute or two) …"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing what the tests need (once; a minute or two) …"
	@$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing what the measurements need (once; a minute or two) …"
	@$(PIP) install -c constraints.txt -e '.[test,bench]'
	@touch $@ $(VENV)/.run $(VENV)/.test
