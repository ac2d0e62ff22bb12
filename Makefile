# `make demo` and `make test` need Python >= 3.11 and make; they set up .venv and reuse it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.amem-installed

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/amem demo demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check amem_cli tests benchmarks
	$(BIN)/ruff format --check amem_cli tests benchmarks

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,lint]"
	touch $@

clean:
	rm -rf demo build dist .pytest_cache .ruff_cache
