# What a person with a checkout needs. Every target bootstraps the virtual environment first.

PYTHON ?= $(shell packaging/newest_python.sh)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two tests in parallel even on one core: most of them wait for programs.
JOBS ?= 2
TESTS ?= tests

.PHONY: venv demo test lint format bench soak clean
.DEFAULT_GOAL := venv

venv: $(STAMP)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	  { echo "make: $(PYTHON) not found; Python 3.11 or newer is needed (make PYTHON=/path/to/python3)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $$($(PYTHON) --version) is too old; Python 3.11 or newer is needed (make PYTHON=/path/to/python3)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "make: no virtual environment; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
# A first line "#!" takes no blank; pip sees to that in its own scripts, not in ours.
	@! head -n 1 $(BIN)/sshoq | grep -q ' ' || sed -i \
	  "1s|^#!\(.*\)|#!/bin/sh\n'''exec' \"\1\" \"\$$0\" \"\$$@\"\n' '''|" $(BIN)/sshoq
	@touch $@

# CMD, when given, reaches the script through the environment, as make hands on every variable of its command line.
demo: $(STAMP)
	@packaging/demo.sh $(BIN)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist=loadgroup $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m bench $(BENCH)

# 5 GB through two engines over a lossy simulated link, with key updates: checksums and memory.
soak: $(STAMP)
	SSHOQ_SOAK_MEGABYTES=2500 $(BIN)/python -m pytest -k much_data tests/transport/test_fast_paths.py

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/results $(VENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
