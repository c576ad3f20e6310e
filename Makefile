# Every target sets up what it needs: a machine with Python 3.11 or later and make is enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
LOWEST := huggingface,parquet,onnx,codes,parallel,slurm

.DEFAULT_GOAL := help
.PHONY: help setup train test lint format types docs wheel lowest tensorboard test-gpu bench debug-losses pretrain chaos kills launchers stopped faults sweep-chaos soak flips outside mutations clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps open_clip_torch timm
	touch $@

setup: $(READY)  ## make .venv and install the package with everything that tests need

train: setup  ## the layered loss on the embedded default (synthetic data, tiny model; a few minutes on a laptop)
	$(BIN)/python train.py experiment=layered

test: setup  ## the whole test suite, offline
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal -q

test-gpu: setup  ## what needs an NVIDIA GPU: the first thing to run where there is one
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m cuda -rs -q tests/gpu

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## mypy
	$(BIN)/mypy

docs: setup  ## the site in build/site, offline; a dead link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: setup  ## build the wheel and use it in an environment of its own, outside the checkout
	.ci/wheel

lowest:  ## the oldest versions that pyproject.toml allows, in build/lowest, and the tests that meet them most
	$(PYTHON) -m venv build/lowest
	$(PYTHON) .ci/lowest.py $(LOWEST) > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -c build/lowest.txt -e '.[$(LOWEST)]' \
		pytest pytest-timeout hypothesis mapie tifffile imagecodecs
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 build/lowest/bin/python -m pytest -q tests/core tests/conditions tests/data tests/losses \
		tests/models tests/export tests/commands/test_predict.py tests/commands/test_train.py

tensorboard: setup  ## dashboards of every run under logs/
	$(BIN)/tensorboard --logdir logs

bench: setup  ## the table of docs/performance.md (benchmarks/*.py are parts of it, and more, one by one)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks

debug-losses: setup  ## the terms of the loss on fixed batches: raw, coefficient, weighted
	$(BIN)/python -m tools.debug_losses

pretrain: setup  ## train the tiny base again, from nothing (about a quarter of an hour)
	$(BIN)/python -m tools.pretraining export_to=siglip_med/models/siglip_tiny

chaos: setup  ## kill 30 runs at random moments, resume them, compare them with an unbroken one (about ten minutes)
	$(BIN)/python -m tests.reliability.chaos

soak: setup  ## train for half an hour, and watch memory and open handles
	$(BIN)/python -m tests.reliability.soak

kills: setup  ## kill each command at some of its changes of the disk; the same command ends as the unbroken one (a quarter of an hour)
	$(BIN)/python -m tests.reliability.kills --every 10

launchers: setup  ## two processes by Lightning, torchrun and srun's variables: fresh, killed, resumed, named (twenty minutes)
	$(BIN)/python -m tests.launch.launchers

stopped: setup  ## stop every command by signals at many moments (a quarter of an hour)
	$(BIN)/python -m tests.launch.stopped

faults: setup  ## full disks, little memory, few open files, removed folders, done to every command (a quarter of an hour)
	$(BIN)/python -m tests.launch.faults

sweep-chaos: setup  ## kill sweeps of 12, 6 and 8 jobs half-way, give them again, compare their tables with unbroken ones
	$(BIN)/python -m tests.sweeps.chaos

outside: setup  ## 500 changes to checkpoints, bases, exports and predictions: the right answer, or one line
	$(BIN)/python -m tests.reliability.outside_values

flips: setup  ## flip 500 bits in checkpoints, exports, caches, split and code files: each is noticed or changes nothing
	$(BIN)/python -m tests.reliability.flips

mutations: setup  ## 300 random changes to the settings: a run, or one line that names the key
	SIGLIP_MED_MUTATIONS=300 $(BIN)/python -m pytest -q tests/reliability/test_mutations.py

clean:  ## remove caches and build leftovers; keeps logs/ and .venv
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
