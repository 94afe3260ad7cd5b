# Every target sets up .venv by itself; only Python 3.11+, make and git are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One more than the cores of a small machine: a third of their time, tests wait for something.
JOBS ?= 3

.PHONY: help demo gallery test proof lint bench clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(STAMP) ## Run the sample shop on real servers, diagnose its jobs, write demo/
	@$(BIN)/jobdoctor demo --output demo $(DEMO)

# GALLERY="--store demo/demo.db" takes new recordings, from `make demo DEMO=--keep` on a calm machine.
gallery: $(STAMP) ## Write reports/ again, from its recordings
	@$(BIN)/python -m reports.gallery $(GALLERY)

DEMO_TEST := tests/integration/test_demo.py

# Compiled code is kept, whatever the environment says: hundreds of processes are started, and import the same.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

test: $(STAMP) ## Run the tests on servers that they start themselves
	$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder $(or $(TESTS),--ignore=$(DEMO_TEST))

# Alone: it measures what other tests beside it would disturb.
proof: $(STAMP) ## Run the demo, and hold what it found to what was planted
	$(PYTEST) $(DEMO_TEST)

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Other agents have an environment of their own: they ask for older libraries.
AGENTS := $(VENV)/agents

bench: $(STAMP) $(AGENTS)/.installed ## Measure what recording costs, and what other agents do
	$(BIN)/python -m benchmarks --python $(AGENTS)/bin/python $(BENCH)

$(AGENTS)/.installed: $(STAMP) benchmarks/agents.txt
	@test -x $(AGENTS)/bin/python || $(PYTHON) -m venv $(AGENTS)
	@grep -Eiv '^(sqlalchemy|wrapt|opentelemetry-[a-z-]+)==' constraints.txt > $(AGENTS)/constraints.txt
	@$(AGENTS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@$(AGENTS)/bin/python -m pip install -qq --disable-pip-version-check -c $(AGENTS)/constraints.txt -e '.[demo]' 'wrapt<2' 'SQLAlchemy<2.1'
	@$(AGENTS)/bin/python -m pip install -q --disable-pip-version-check -c $(AGENTS)/constraints.txt -r benchmarks/agents.txt \
		|| echo "The other agents could not be installed: they are left out"
	@touch $@

clean: ## Remove .venv and what the tools left behind
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist jobdoctor/capture/_accelerator.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `pip install --group` needs a newer pip than some Pythons bring: the pinned one goes first.
$(STAMP): pyproject.toml constraints.txt hatch_build.py jobdoctor/capture/_accelerator.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing jobdoctor into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[demo]' --group dev
	@touch $@
