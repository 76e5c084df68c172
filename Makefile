# Each target sets up what it needs: the environment in .venv, at the versions of requirements.lock.

PYTHON ?= python3
# Found here, once: below, the environment's own python3 comes first, and it may have no pip.
override PYTHON := $(or $(shell command -v $(PYTHON)),$(PYTHON))
VENV := .venv
BIN := $(VENV)/bin
# Everything runs inside the environment, also what Snakemake starts.
export PATH := $(abspath $(BIN)):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
PIP_OPTIONS ?=

.PHONY: help setup setup-trainers fetch wheels setup-offline study published test test-newest test-checkpoints test-long fuzz
.PHONY: slurm-up slurm-down test-slurm soak bench gpu-check lint lock schemas clean

help:
	@echo "make study   train the default study on this machine, print its tables"
	@echo "make test    lint, types and tests"
	@echo "make lint    lint and types alone"
	@echo "make test-newest    checkpoints, exports and resumed runs, on the newest supported Python at hand"
	@echo "make test-long    what CI has no time for: the trainer killed 150 times, other trainers on Slurm"
	@echo "make fuzz    500,000 mutated inputs for the readers of files"
	@echo "make bench     our trainer beside transformers', whole runs in turns"
	@echo "make setup-trainers    litgpt, for config/studies/trainers.yaml"
	@echo "make gpu-check    correctness and speed on this machine's GPU, in 8 minutes, without a network"
	@echo "make published      run config/studies/h200.yaml in parts, publish its tables and plots"
	@echo "make wheels, setup-offline    the environment for a machine with torch and no network"
	@echo "make slurm-up, slurm-down, test-slurm, soak    a trial Slurm cluster on this machine, as root"

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock
	@$(PYTHON) python_versions.py check
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -r requirements.lock
	touch $@

# Other people's trainers beside the locked packages, some of which are newer than litgpt pins.
setup-trainers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-trainers.lock

# For a machine that has torch and no network: `make wheels` here, copy the folder, there
# `make setup-offline`. For another Python or platform than this one, say which:
#   make wheels WHEELS_FOR="--python-version 3.12 --platform manylinux_2_28_x86_64 ..."
# WITHOUT is a pattern of packages that are not fetched; what is not there is not installed.
WITHOUT ?= torch|triton|nvidia-[^=]*|cuda-[^=]*
WHEELS_FOR ?=

wheels:
	mkdir -p wheels
	grep -Ev '^($(WITHOUT))==' requirements.lock > wheels/requirements.lock
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps $(WHEELS_FOR) --dest wheels -r wheels/requirements.lock
	@# What is published as source alone is pure Python here, and fits any machine once built.
	for source in wheels/*.tar.gz; do \
		test ! -e "$$source" || { $(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir wheels "$$source" && rm "$$source"; } || exit 1; \
	done

setup-offline:
	@$(PYTHON) python_versions.py check
	@test -e wheels/requirements.lock || { echo "wheels: no packages there; copy the folder that 'make wheels' fills where there is a network"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None and "$(PYTHON) has no torch; name one that has: make setup-offline PYTHON=...")'
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-index --no-deps wheels/*.whl
	@# What the wheels lack comes from where the machine's torch is, also if that is an environment.
	$(PYTHON) -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("torch").origin).parents[1])' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth"
	@# The machine's own torchrun would start ranks that see nothing of the wheels.
	printf '#!%s\nfrom torch.distributed.run import main\n\nmain()\n' "$(abspath $(BIN)/python)" > $(BIN)/torchrun
	chmod +x $(BIN)/torchrun
	touch $(VENV)/installed

study: setup
	snakemake --cores all --quiet rules
	@python -m study show --study results/demo/study.yaml

# In parts: as long as there is more to do it ends with error 75, and the same command goes on.
STUDY ?= config/studies/h200.yaml
PART_S ?= 480

published:
	test -e $(VENV)/installed || $(MAKE) setup
	python -m benchmarks.publish --study $(STUDY) --part-s $(PART_S)

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	snakemake --lint
	python -m study schemas --output workflow/schemas --check
	python -m study document --check --study config/config.yaml --file README.md \
	  --estimates results/published/cpu-demo/time_estimates.csv

# What tests need besides the packages, where it is missing: a browser for the report, as root, and
# Triton. One installation at a time.
define install_for_tests
	flock $(VENV)/installed bash tests/study/show/browser/install.sh
	flock $(VENV)/installed bash tests/trainer/model/install_triton.sh
endef

test: lint
	$(install_for_tests)
	python -m pytest --numprocesses 2 --dist loadgroup --ignore tests/slurm --ignore tests/workflow
	python -m pytest --numprocesses 2 --dist loadgroup tests/workflow

# What another version of Python can break: checkpoints, exports and runs that go on. Tested on the
# newest supported one at hand, in an environment of its own from the same lock.
CHECKPOINT_TESTS := $(addprefix tests/trainer/,folder/test_checkpoint.py commands/test_export.py \
  'loop/test_kills.py::test_killed_and_restarted[1-3-40]')

define on_newest
	@newest=$$(python python_versions.py newest); \
	if test -z "$$newest"; then \
		echo "No supported Python newer than $$(python --version) is at hand."; \
	else \
		$(MAKE) $(1) PYTHON="$$newest" VENV=".venv-$${newest##*/python}" PIP_OPTIONS=--no-compile; \
	fi
endef

test-newest: setup
	$(call on_newest,test-checkpoints)

test-checkpoints: setup
	python --version
	python -m pytest --numprocesses 2 $(CHECKPOINT_TESTS)

# What CI fetches while it lints, which keeps one core busy.
fetch: setup
	$(install_for_tests)
	$(call on_newest,setup)
	flock $(VENV)/installed bash tests/slurm/cluster/install.sh

# Half a million mutated inputs for the readers of files, on all cores; `make test` tries a few.
INPUTS ?= 500000

fuzz: setup
	python -m tests.fuzz --inputs $(INPUTS)

test-long: setup
	python -m pytest -m long tests/trainer
	bash tests/slurm/cluster/install.sh
	TRIAL_CLUSTER_REQUIRED=1 python -m pytest -m long tests/slurm

# Trainers side by side, on whatever device is there.
bench: setup
	python -m benchmarks.side_by_side

# Run it again to continue where it stopped. On a machine without a network: after `make setup-offline`.
MINUTES ?= 8
gpu-check:
	python -m benchmarks.gpu_check --minutes $(MINUTES)

# The trial Slurm cluster: as root, on Debian or Ubuntu.
slurm-up: setup
	bash tests/slurm/cluster/install.sh
	python tests/slurm/cluster/cluster.py up

slurm-down: setup
	python tests/slurm/cluster/cluster.py down

test-slurm: setup
	bash tests/slurm/cluster/install.sh
	TRIAL_CLUSTER_REQUIRED=1 python -m pytest tests/slurm

# 60 runs while jobs, daemons and Snakemake are killed: about half an hour.
soak: setup
	bash tests/slurm/cluster/install.sh
	python -m tests.slurm.soak

# Exact versions, as they are installed now. A local build of torch is written by its public version.
lock: setup
	python -m pip freeze --exclude-editable | sed "s/+cpu//" > requirements.lock
	{ sed '/- pip:$$/q' environment.yml; sed 's/^/      - /' requirements.lock; } > environment.new
	mv environment.new environment.yml

schemas: setup
	python -m study schemas --output workflow/schemas

clean:
	rm -rf $(VENV) .venv-3.* .snakemake .pytest_cache .mypy_cache .ruff_cache
