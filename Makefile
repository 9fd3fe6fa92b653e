# Two commands do everything on a fresh machine: `make run` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Compiled bytecode is what makes the command line start fast; some machines forbid writing it.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PACKAGES := ledger projections reports scheduler leasebook
WORKERS ?= auto

.NOTPARALLEL:
.PHONY: help run test lint types unit floors smoke bench soak clean setup setup-dev

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup:
	@.ci/setup

setup-dev:
	@.ci/setup dev

run: setup ## set up, then the demo
	@$(BIN)/leasebook demo

test: setup-dev ## set up, then every check
	@$(MAKE) --no-print-directory lint types unit floors smoke

lint: setup-dev ## style and the one-way imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup-dev ## strict types
	$(BIN)/mypy

unit: setup-dev ## every test and every example in the documents, with coverage
	@rm -f .coverage .coverage.* coverage.json
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=

floors: setup-dev ## the coverage floors, from the last run of the tests
	@$(BIN)/coverage json --quiet -o coverage.json
	@$(BIN)/python tests/coverage_floor.py coverage.json

smoke: setup-dev ## the built wheel, installed without development dependencies
	@tests/smoke.sh $(BIN)/python

bench: setup-dev ## the benchmark table (minutes)
	@$(BIN)/python -m benchmarks

soak: setup-dev ## long random runs: many examples, many kills (minutes)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --timeout 1800 \
		-m "soak or not soak" tests/model tests/contract tests/integration \
		tests/acceptance/test_openb_figures.py

clean: ## remove everything that was made here
	rm -rf .venv build dist .coverage .coverage.* coverage.json .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find $(PACKAGES) tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
