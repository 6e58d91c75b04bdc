# Every target runs in the virtual environment .venv. The targets make it and keep it up to date.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINNED := constraints.txt
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c $(PINNED)
BASE   := $(VENV)/.base-installed
DEV    := $(VENV)/.dev-installed
BENCH  := $(VENV)/.bench-installed
WHAT   ?=
SEED   ?=
MINUTES ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test lint format contract bench faults chaos soak release constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BASE) ## run a realistic day of messages; needs no server
	@$(BIN)/billing-worker demo

test: $(DEV) ## run the tests on a real RabbitMQ and PostgreSQL
	@$(BIN)/python -m tests.support.provision
	@$(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(DEV) ## check format, rules, types and the direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.support.migration_sql | $(BIN)/squawk --stdin-filepath=migrations.sql

format: $(DEV) ## format the code and apply safe fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

contract: $(DEV) ## write the contract's files from the models, and classify what changed
	@$(BIN)/python -m worker.contract
	@$(BIN)/python -m tests.contracts.examples

bench: $(BENCH) ## run the benchmarks; WHAT="name …" chooses, WHAT=list names them
	@$(BIN)/python -m tests.support.provision
	@$(BIN)/python -m tests.benchmarks $(WHAT)

faults: $(DEV) ## run the fault tests at full length
	@$(BIN)/python -m tests.support.provision
	@$(BIN)/python -m pytest tests/faults -m "slow or not slow"

chaos: $(DEV) ## inject every fault at once under load; SEED=… MINUTES=… (3)
	@$(BIN)/python -m tests.support.provision
	@$(BIN)/python -m tests.faults.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

soak: $(DEV) ## run every long test
	@$(BIN)/python -m tests.support.provision
	@$(BIN)/python -m pytest -m slow
	@BILLING_TEST_EXAMPLES=5 $(BIN)/python -m pytest -m hypothesis

release: $(DEV) ## build the wheel of this version, put it beside the tests of the next one, and tag it
	@$(BIN)/python -m tests.support.release

constraints: $(BENCH) ## write the installed versions to constraints.txt
	@$(BIN)/python -m pip freeze --exclude-editable >$(PINNED).new
	@grep -E '^[A-Za-z0-9._-]+==[^ ]+$$' $(PINNED).new >$(PINNED)
	@rm $(PINNED).new
	@touch $(BASE) $(DEV) $(BENCH)

clean: ## remove the virtual environment, caches and build output
	@rm -rf $(VENV) build dist *.egg-info tests/node/node_modules schemas/typescript/node_modules schemas/typescript/dist schemas/typescript/build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): pyproject.toml $(PINNED) | $(BIN)/python
	@echo "installing billing-worker into $(VENV)"
	@$(PIP) -e .
	@touch $@

# The development install includes the base install.
$(DEV): pyproject.toml $(PINNED) | $(BIN)/python
	@echo "installing billing-worker and its development tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $(BASE) $@

# The benchmark install includes the development install.
$(BENCH): pyproject.toml $(PINNED) | $(BIN)/python
	@echo "installing what the benchmarks compare with into $(VENV)"
	@$(PIP) -e '.[dev,bench]'
	@touch $(BASE) $(DEV) $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) not found: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1): Python 3.11 or later is needed; name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing python3-venv with apt-get"; \
			DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
		fi; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module: sudo apt-get update && sudo apt-get install -y python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
