# Each target sets up what it needs: the environment in .venv, at the versions of requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Everything runs inside the environment, also what Snakemake starts.
export PATH := $(abspath $(BIN)):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))

.PHONY: help setup study test test-long slurm-up slurm-down test-slurm lint lock schemas clean

help:
	@echo "make study   train the default study on this machine, print its tables"
	@echo "make test    lint, types and tests"
	@echo "make lint    lint and types alone"
	@echo "make test-long    the trainer's tests that CI has no time for: 90 kills, compiled layouts"
	@echo "make slurm-up, slurm-down, test-slurm    a trial Slurm cluster on this machine, as root"

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

study: setup
	snakemake --cores all --quiet rules
	@python -m study show --study results/demo/study.yaml

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	snakemake --lint
	python -m study schemas --output workflow/schemas --check

test: lint
	python -m pytest --numprocesses 2 --ignore tests/slurm --ignore tests/workflow
	python -m pytest tests/workflow

test-long: setup
	LONG_TESTS=1 python -m pytest tests/trainer/test_kills.py tests/trainer/test_layouts.py

# The trial Slurm cluster: as root, on Debian or Ubuntu.
slurm-up: setup
	bash tests/slurm/cluster/install.sh
	python tests/slurm/cluster/cluster.py up

slurm-down: setup
	python tests/slurm/cluster/cluster.py down

test-slurm: setup
	bash tests/slurm/cluster/install.sh
	TRIAL_CLUSTER_REQUIRED=1 python -m pytest tests/slurm

# Exact versions, as they are installed now. A local build of torch is written by its public version.
lock: setup
	python -m pip freeze --exclude-editable | sed "s/+cpu//" > requirements.lock

schemas: setup
	python -m study schemas --output workflow/schemas

clean:
	rm -rf $(VENV) .snakemake .pytest_cache .mypy_cache .ruff_cache
