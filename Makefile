# Everything a fresh machine needs beyond Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

EXTRAS := dev,docs,tensorboard,lora,segmentation,export,slurm,ray,parquet,optuna,huggingface
# Not all of the lowest versions have wheels for newer Pythons.
LOWEST := .venv-lowest
LOWEST_PYTHON ?= python3.11

.PHONY: help demo demo-pages test test-slow breakages test-lowest smoke-lowest lint types constraints check bench wheel architecture docs clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/  -/'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED)  ## source model, sweep over every depth x 3 seeds on real digits, report
	$(BIN)/thawline train experiments=digits_depth/sweep
	@printf '\nthawline is installed in $(VENV). In this shell, once:\n  . $(BIN)/activate\nThen: thawline --help; thawline status digits_depth; thawline train -m dataset=image_folder dataset.root=photos\n'

demo-pages:  ## put the demo's table and figure into the pages that show them
	$(BIN)/python -m tools.demo_pages

# One thread a worker: threads that spin on a shared core cost more than they do. Each worker begins with half of the
# files, so that what the tests of a file share is made once.
test: $(INSTALLED)  ## the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-slow: $(INSTALLED)  ## every timm model, real images, real clusters, a sweep with the lowest versions
	$(BIN)/python -m pytest -m "slow and not gpu"
	$(MAKE) smoke-lowest

breakages: $(INSTALLED)  ## put deliberate faults into a copy: the tests must notice each
	$(BIN)/python -m tests.breakages

$(LOWEST)/.installed: pyproject.toml tools/floors.py tools/requirements.py | $(INSTALLED)
	$(LOWEST_PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/python -m tools.floors > $(LOWEST)/floors.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/floors.txt --editable '.[$(EXTRAS)]'
	@touch $@

test-lowest: $(LOWEST)/.installed  ## the quick tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

smoke-lowest: $(LOWEST)/.installed  ## one sweep with them: ViT, ConvNeXt, ResNet, LoRA, trackers, report
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest tests/test_smoke.py

constraints: $(INSTALLED)  ## write constraints.txt: installed versions, and who asks for each (NEWEST=1: upgrade first)
	$(if $(NEWEST),$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[$(EXTRAS)]')
	$(BIN)/python -m tools.constraints > constraints.new && mv constraints.new constraints.txt

lint: $(INSTALLED)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy, strict, for every Python that is supported
	for version in 3.11 3.12 3.13; do $(BIN)/mypy --python-version $$version || exit 1; done

bench: $(INSTALLED)  ## side by side with the plain way; writes docs/performance.md
	$(BIN)/python -m benchmarks

wheel: $(INSTALLED)  ## build the wheel and run it in an empty environment
	$(BIN)/python -m build --outdir dist
	./.ci/smoke dist

architecture: $(INSTALLED)  ## draw the floors of the source: docs/architecture.svg
	$(BIN)/python -m tools.architecture

docs: $(INSTALLED)  ## the documentation with the API reference, every link checked, into site/
	$(BIN)/python -m mkdocs build --strict

check: lint types test wheel  ## what continuous integration runs

clean:  ## remove what was built (not outputs)
	rm -rf dist build site .mypy_cache .ruff_cache .pytest_cache
