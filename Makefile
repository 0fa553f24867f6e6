# Needs Python 3.11 or newer, git and make; the first target that is run makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo test lint docs audit torture bench clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "  Another Python: make test PYTHON=python3.12 VENV=build/py312"

env: $(READY) ## Make the environment, or bring it up to pyproject.toml and constraints.txt.

demo: $(READY) ## Draw scenes, encode, distill and evaluate: the whole way on a CPU, in minutes.
	$(BIN)/python cli.py demo

docs: $(READY) ## Write the tables of options in docs/ anew.
	$(BIN)/python -m tests.support.option_tables

test: $(READY) ## Run the tests; the real-data ones too where PROTORKD_TEST_DATA names the data.
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(READY) audit ## Check style, format, types and security: ruff (bandit's rules among its own), mypy, pip-audit.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: $(READY) ## Look the pinned packages up among known vulnerabilities; says so where there is no network.
	@$(BIN)/python .ci/audit $(BIN)/uv

torture: $(READY) ## Kill every stage at 500 random moments, and go on from what is left; takes some minutes.
	$(BIN)/python -m tests.support.torture --kills 500

bench: $(READY) ## Measure, on one thread, the ratios that README quotes; writes build/benchmarks.json.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

clean: ## Remove the environment and what the targets made; the store stays.
	rm -rf $(VENV) build dist protorkd.egg-info .pytest_cache .mypy_cache .ruff_cache

# uv links files from its cache, and warns at length where it cannot: there it is told to copy. Python compiles what it
# imports once, unless PYTHONDONTWRITEBYTECODE forbids: then all is compiled here, lest every import take twice as long.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; version = sys.version_info[:2]; sys.exit(version < (3, 11) and \
	  "PYTHON must be 3.11 or newer; got $(PYTHON), which is %d.%d. Try make PYTHON=python3.12." % version)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@cache=$$($(BIN)/uv cache dir) && mkdir -p "$$cache" && touch $(VENV)/.probe && \
	  { ln -f $(VENV)/.probe "$$cache/.protorkd-probe" 2>/dev/null || export UV_LINK_MODE="$${UV_LINK_MODE:-copy}"; } && \
	  rm -f $(VENV)/.probe "$$cache/.protorkd-probe" && \
	  $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e . --group dev \
	    $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
	@touch $@
