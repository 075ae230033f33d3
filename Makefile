# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
# Needs Python 3.11 with its headers, make, a C++ compiler, and a network to package registries.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Hundreds of processes run the same code, whatever the environment says: each module is compiled once.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help venv demo test lint generate kube bench crash soak lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: .venv/ready ## Create .venv/ with everything that development needs

.venv/ready: requirements/dev.txt pyproject.toml hatch_build.py $(wildcard engine/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setting up .venv (about a minute, once)"
	@$(PYTHON) -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' \
	  || { [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || apt-get install --quiet --yes python3-dev; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: venv ## Start a cluster locally, load real data, search it, stop it
	@$(BIN)/python examples/demo.py

test: lint ## Lint, then every test, with coverage
	@$(BIN)/python -m tests.kube.binaries
	@$(BIN)/python -m pytest -n 4 --dist worksteal --cov --cov-report=term $(PYTEST_ARGS)

lint: venv ## ruff, mypy, import contracts, stale generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.generate --check

generate: venv ## Write the files that are generated from the models
	@$(BIN)/python -m tools.generate

kube: venv ## Build the Kubernetes binaries that the tests run against (once, about 10 minutes)
	@$(BIN)/python -m tests.kube.binaries

bench: venv ## Run the short form of every benchmark
	@failed=; \
	for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || failed+=" $$script"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

crash: export VECTORIZER_CRASH_KILLS ?= 1000
crash: export VECTORIZER_CRASH_WRITES ?= 900
crash: export VECTORIZER_BACKLOG ?= 1000000
crash: venv ## Kill engines a thousand times while they are written to, and flood one with a million writes
	@$(BIN)/python -m pytest tests/crash -s --no-cov --timeout=0

soak: HOURS ?= 24
soak: venv ## Ten users under a 64 MiB limit for HOURS=24, with a plot of memory in build/soak
	@$(BIN)/python benchmarks/soak.py --hours $(HOURS) --report build/soak

lock: venv ## Resolve pyproject.toml into the hashed requirement files
	@for extra in operator engine build dev; do \
	  $(BIN)/uv pip compile --system-certs --quiet --upgrade --universal --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --python-version 3.11 --extra $$extra \
	    pyproject.toml -o requirements/$$extra.txt; done

clean: ## Remove what set-up and tests made in this folder
	@rm -rf .venv engine/vectorizer_engine/_native.abi3.so .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	@find . -name __pycache__ -prune -exec rm -r {} +
