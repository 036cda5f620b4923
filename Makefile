# What a contributor runs; CONTRIBUTING.md says when. Each target works on a bare machine with Python 3.11+ (pip, venv).

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help fmt check test coverage bench faults docs clean

help: ## show the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(BIN)/pytest: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e ".[dev]"
	@touch $@

fmt: $(BIN)/pytest ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(BIN)/pytest ## linter, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(BIN)/pytest ## all tests, by the README's command
	.venv/bin/pytest

coverage: $(BIN)/pytest ## all tests, with their branch coverage: a third slower
	.venv/bin/pytest --cov

bench: $(BIN)/pytest ## the benchmarks, quickly: under two minutes
	$(BIN)/python -m benchmarks --quick

faults: $(BIN)/pytest ## 100,000 records while everything fails: under two minutes
	$(BIN)/python -m tests.faults

docs: $(BIN)/pytest ## the documentation, into site/
	$(BIN)/pip install -q -e ".[docs]"
	$(BIN)/zensical build --strict

clean: ## remove what the targets made, but not .venv
	rm -rf site .cache .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
