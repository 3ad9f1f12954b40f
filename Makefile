# Everything a fresh machine needs beyond Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow lint types check bench wheel clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/  -/'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,tensorboard,lora]'
	@touch $@

demo: $(INSTALLED)  ## source model, sweep over every depth x 3 seeds on real digits, report
	$(BIN)/thawline train experiments=digits_depth/sweep

# One thread a worker: threads that spin on a shared core cost more than they do.
test: $(INSTALLED)  ## the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: $(INSTALLED)  ## every timm model, real images, real clusters
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(INSTALLED)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

bench: $(INSTALLED)  ## side by side with the plain way; writes docs/performance.md
	$(BIN)/python -m benchmarks

wheel: $(INSTALLED)  ## build the wheel and run it in an empty environment
	$(BIN)/python -m build --outdir dist
	./.ci/smoke dist

check: lint types test wheel  ## what continuous integration runs

clean:  ## remove what was built (not outputs)
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache
