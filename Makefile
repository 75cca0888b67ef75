# Every task of the project. `make help` prints them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard protos/moorage/v1/*.proto)
STUBS := moorage/v1/.generated
THIRD_PARTY := third_party/.made
export PATH := $(abspath $(VENV))/bin:$(PATH)
export BUF_CACHE_DIR := $(abspath build)/buf

.PHONY: help setup python packages root check unit test test-benchmarks test-leaks demo demo-down protos protos-archive fmt lint types imports proto-lint \
	router-image bench-deploy bench-healing bench-rollout bench-store bench-schedule clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
		while IFS='|' read -r name text; do printf '  %-16s %s\n' "$$name" "$$text"; done

setup: packages $(VENV)/.installed $(STUBS) ## Install missing packages (root) and the virtual environment

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "setup: Moorage needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name another one: make setup PYTHON=python3.12" >&2; exit 1; }

packages: python
	@PYTHON=$(PYTHON) scripts/install_packages.sh

$(VENV)/.installed: pyproject.toml hatch_build.py | python
	@$(PYTHON) -m venv $(VENV) || { \
		echo "setup: $(PYTHON) cannot make a virtual environment; install its venv package (python3-venv)" >&2; exit 1; }
	@echo "setup: installing Moorage and its developer tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' || { \
		echo "setup: pip could not install the dependencies of pyproject.toml; its words are above." \
			"Behind a proxy or a mirror, set PIP_INDEX_URL or pip.conf and repeat make setup" >&2; exit 1; }
	@touch $@

$(STUBS): $(PROTOS) scripts/generate_stubs.py | $(VENV)/.installed
	@$(BIN)/python scripts/generate_stubs.py 2> >(grep -v '^Writing mypy to' >&2)
	@touch $@

$(THIRD_PARTY): $(PROTOS) scripts/third_party_protos.py | $(VENV)/.installed
	@$(BIN)/python scripts/third_party_protos.py
	@touch $@

protos: $(STUBS) ## Generate the Python stubs of protos/ into moorage/v1 (not committed)

protos-archive: $(STUBS) ## Pack all protos with imports and a descriptor set into dist/
	@$(BIN)/python scripts/protos_archive.py

check: lint types imports proto-lint ## Everything that needs no root, no Docker and no test run

lint: | $(VENV)/.installed ## Format and lint, without changing anything
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run make fmt" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .

fmt: | $(VENV)/.installed ## Format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(STUBS) ## Check types, strictly
	@$(BIN)/mypy

imports: $(STUBS) ## Check the contracts of .importlinter
	@mkdir -p build; $(BIN)/lint-imports >build/imports.log 2>&1 || { cat build/imports.log; exit 1; }

proto-lint: $(THIRD_PARTY) ## Lint the protos
	@$(BIN)/buf lint

unit: $(STUBS) ## Unit tests: no root, no Docker, under 30 seconds
	@$(BIN)/python -m pytest tests/unit -n auto

root:
	@[ "$$(id -u)" -eq 0 ] || { echo "this needs root, because it makes network namespaces: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

test: root setup check unit ## Install what is missing, then run every test, on real engines (root)
	@rm -rf build/test-logs
	@MOORAGE_REQUIRE=docker,netns $(BIN)/python -m pytest tests/contract tests/integration tests/e2e \
		--ignore tests/e2e/test_bench_smoke.py --durations=20

test-benchmarks: root setup ## The benchmark of deployment with few rounds: every side is measured and leaves nothing (root)
	@MOORAGE_REQUIRE=docker,netns $(BIN)/python -m pytest tests/e2e/test_bench_smoke.py

test-leaks: root setup ## 200 networks made and destroyed in random order leave every host as it was (root)
	@MOORAGE_REQUIRE=docker,netns MOORAGE_LEAK_NETWORKS=$${MOORAGE_LEAK_NETWORKS:-200} $(BIN)/python -m pytest -s tests/e2e/test_leaks.py

demo: root setup ## A control plane and three hosts on this machine, with instances that answer (root)
	@MOOR=$(BIN)/moor scripts/demo.sh up

demo-down: root ## Remove the demo and everything that it made (root)
	@MOOR=$(BIN)/moor scripts/demo.sh down

router-image: packages $(STUBS) ## Build and register the image of virtual routers, where `moor login` (or moor dev env) points
	@$(BIN)/moor router-image register

bench-deploy: root $(STUBS) ## Deployment against Docker Swarm and docker run (root)
	@$(BIN)/python -m benchmarks.deploy

bench-network: root $(STUBS) ## Networks against Docker's bridge and Swarm's overlay (root)
	@$(BIN)/python -m benchmarks.network

bench-healing: root $(STUBS) ## A lost host's instances elsewhere, against Docker Swarm (root)
	@$(BIN)/python -m benchmarks.healing

bench-rollout: root $(STUBS) ## Requests that fail during rolling updates and drains, beside Docker Swarm (root)
	@$(BIN)/python -m benchmarks.rollout

bench-store: $(STUBS) ## The store's commits and rows a second
	@$(BIN)/python -m benchmarks.store

bench-schedule: $(STUBS) ## One pass of the scheduler: 10,000 hosts, a group of 500
	@$(BIN)/python -m benchmarks.schedule

clean: ## Remove what was generated; the demo's folder and .venv stay
	@rm -rf build dist third_party moorage/v1 .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
