# `make demo` and `make test` need a Python from 3.11 to 3.13 and the package index: they make .venv at first use.

# The Python that .venv is made with; by default the first of these that will do (see the rule below).
PYTHON ?= python3 python3.13 python3.12 python3.11
PYTEST_ARGS ?= -n 2 --dist worksteal
# Versions to install. `make test CONSTRAINTS=/dev/null` takes the newest releases instead. An existing .venv keeps its
# Python: for another one, `make clean` first.
CONSTRAINTS ?= constraints.txt
BENCH ?= benchmarks/run.py --suite gibbs
# A Python of a GPU machine, with jax, numpy and jaxtyping, for RBMs of digits optax and flax; the peers where they are to be compared.
BENCH_PYTHON ?= python3

# The stamp names where .venv is (its scripts hold absolute paths, so that one that was moved is of no use) and a
# checksum of all that decides what is in it.
PLACE := $(shell pwd | cksum | cut -d ' ' -f 1)
STAMP := .venv/.installed-$(PLACE)-$(shell cat pyproject.toml $(CONSTRAINTS) | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint typecheck format bench bench-gpu notebooks clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' Makefile | expand -t 12

demo: $(STAMP)  ## train on handwritten digits, write the figures to runs/demo
	@.venv/bin/ebm-jax demo

test: $(STAMP)  ## run the tests on the CPU, list the ten slowest (PYTEST_ARGS='-n 2')
	@JAX_PLATFORMS=cpu .venv/bin/python -m pytest --durations 10 $(PYTEST_ARGS)

lint: $(STAMP)  ## check style and formatting
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check

typecheck: $(STAMP)  ## check types
	@.venv/bin/pyright

format: $(STAMP)  ## format and fix what can be fixed
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

bench: $(STAMP)  ## run a benchmark on one core (BENCH='benchmarks/run.py --suite samplers')
ifneq (,$(findstring run.py,$(BENCH)))
	@.venv/bin/python -c 'import blackjax, ebm, hamon, numba, rbms, thrml, torch, torchebm' 2>/dev/null \
	    || { echo "Installing the peers into .venv (once)" >&2; \
	         .venv/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[bench]'; } \
	    || echo "The peers could not be installed; running without those that are missing" >&2
endif
	@.venv/bin/python $(BENCH)

notebooks: $(STAMP)  ## execute the sources in notebooks/, write each .ipynb beside its .py
	@JAX_PLATFORMS=cpu .venv/bin/python notebooks/_execute.py

bench-gpu:  ## run all suites on a GPU (BENCH_PYTHON=python3)
	@$(BENCH_PYTHON) benchmarks/run.py --suite all --device gpu

clean:  ## remove .venv, builds and caches
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	find ebm_jax tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The stamp is removed first and written last: an installation that was interrupted has none, and starts anew.
$(STAMP):
	@set -eu; \
	if ls .venv/.installed-$(PLACE)-* >/dev/null 2>&1 && .venv/bin/python -c ''; then \
	    echo "Updating .venv" >&2; \
	    rm -f .venv/.installed-*; \
	else \
	    usable='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; \
	    for python in $(PYTHON) none; do \
	        if "$$python" -c "$$usable" 2>/dev/null; then break; fi; \
	    done; \
	    if [ "$$python" = none ]; then \
	        echo "Found no Python from 3.11 to 3.13 (with venv) among: $(PYTHON)." >&2; \
	        echo "Install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making .venv with $$("$$python" -V) (once; a minute or two)" >&2; \
	    rm -rf .venv; \
	    "$$python" -m venv .venv; \
	fi; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c $(CONSTRAINTS) -e '.[dev]'; \
	touch $@
