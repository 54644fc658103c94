# `make` alone lists what there is. Nothing is assumed but Python 3.11 or later, make and, on Debian, apt.
.DEFAULT_GOAL := help
.PHONY: help env demo test check format bench chaos conformance docs lock

# The first Python that is new enough; `make PYTHON=/path/to/python` decides otherwise.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
BOOTSTRAP = $(or $(PYTHON),python3) -m scripts.bootstrap
BIN = .venv/bin

# What `make test` and `make bench` pass on, for example: make test ARGS="tests/unit -x"
ARGS ?=
# Tests run in so many processes (three for two cores); those of one file stay together: they share servers and workers.
JOBS ?=
SUITE ?= throughput
BROKER ?= redis
PAIR ?= redis+redis
SUBJECT ?= umbel

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## Make the development environment .venv from requirements-dev.lock
	@$(BOOTSTRAP)

demo: env ## Run a worker and a few hundred real tasks with no server; ends with a table of what ran
	@$(BIN)/python -m examples.demo

check: env ## Lint, formatting, types, layers and budgets
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(if $(wildcard tests/typing/*.py),$(BIN)/mypy tests/typing)
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.budgets

test: ## Run every test, with private servers on free ports; a few that fail run again, alone (ARGS="tests/unit -x" narrows it)
	@$(BOOTSTRAP) --servers
	@$(BIN)/python -m scripts.suite $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

format: env ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: ## Measure beside Celery: SUITE=throughput|enqueue|latency|footprint|backlog|canvas ARGS="--peers celery,dramatiq"
	@$(BOOTSTRAP) --servers
	$(BIN)/python -m benchmarks $(SUITE) $(ARGS)

chaos: ## Do harm to real workers and a real broker, and count what is left: BROKER=redis|rabbitmq|sqlite ARGS="--seed 1 --seconds 600"
	@$(BOOTSTRAP) --servers
	$(BIN)/python -m chaos --broker $(BROKER) $(ARGS)

conformance: env ## Run Celery's own tests under the name celery: PAIR=redis+redis|rabbitmq+redis|rabbitmq+rpc SUBJECT=umbel|celery
	@$(BOOTSTRAP) --servers
	$(BIN)/python -m conformance celery --pair $(PAIR) --subject $(SUBJECT) $(ARGS)

lock: env ## Renew the lock files from pyproject.toml and the .in files
	@$(BIN)/python -m scripts.lock

docs: env ## Build the documentation into build/docs
	@$(BIN)/python -m scripts.docs
