# make help lists the commands. VENV=path shares one environment between clones.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup book test lint bench lock clean

VENV ?= .venv
BENCH_VENV ?= .venv-bench
PYTHON ?= python3
JOBS ?= 2
PROFILE ?= digits
ARGS ?=

# Clones have different clocks, so the environment is stamped with what it was made from, not with a time.
KEY := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/margincons-$(KEY)
# The clone itself is imported, whichever clone a shared environment was installed from.
RUN := PYTHONPATH="$(CURDIR)" "$(VENV)/bin/python" -m

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile
	@echo 'Options: VENV=path  PYTHON=python3.12  JOBS=2  PROFILE=cifar10  ARGS="-p epsilon=0.05" (of margincons book) or ARGS="-k word" (of pytest)'

setup: $(STAMP) ## create the environment in .venv

book: $(STAMP) ## execute every page and build the book into _build/html
	@$(RUN) margincons.cli book --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

test: $(STAMP) ## run the tests; the browser tests read the built book
	@echo "Testing: $(JOBS) processes; the book's own tests read _build/html."
	@OMP_NUM_THREADS=1 $(RUN) pytest -q -n $(JOBS) $(ARGS)
	@echo "What was skipped says above what it needs; slow forms: make test ARGS='-m slow'."

lint: $(STAMP) ## check style, formatting and docstrings
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

bench: ## compare speed and tightness with peers, in an environment of their own
	@$(MAKE) --no-print-directory -C benchmarks VENV="$(abspath $(BENCH_VENV))"

lock: ## pin versions that fit together; ARGS=--upgrade for the newest (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra dask --extra onnx pyproject.toml --output-file requirements.lock \
		--custom-compile-command "make lock" $(ARGS)

clean: ## remove what was built; the environment stays
	rm -rf _build book/executed book/_static/mathjax book/_static/data

$(STAMP):
	@command -v git > /dev/null || { echo "Missing: git. On Debian: apt-get install git" >&2; exit 1; }
	@command -v "$(PYTHON)" > /dev/null || { echo "Missing: $(PYTHON). On Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Missing: Python 3.11 or later; $(PYTHON) is $$("$(PYTHON)" --version). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@command -v uv > /dev/null || "$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "Missing: python3-venv. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): the packages of requirements.lock, about 7 GB on disk, 2 to 7 minutes."
	@# Nothing is resolved: the lock is complete. Bars in a terminal, quiet in a log.
	@if [ -t 1 ]; then quiet=; else quiet=-qq; fi; \
	if command -v uv > /dev/null; then \
		[ -x "$(VENV)/bin/python" ] || uv venv $${quiet:+-q} --python "$(PYTHON)" "$(VENV)"; \
		install="uv pip install $${quiet:+-q} --python $(VENV)/bin/python"; \
	else \
		[ -x "$(VENV)/bin/pip" ] || "$(PYTHON)" -m venv "$(VENV)"; \
		install="$(VENV)/bin/python -m pip $$quiet --disable-pip-version-check install"; \
	fi; \
	$$install --no-deps -r requirements.lock; \
	$$install --no-deps --no-build-isolation -e .
	@rm -f "$(VENV)"/margincons-*
	@touch "$@"
	@echo "Set up: $(VENV)"
