# Everything runs in a virtual environment of its own, made from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: demo test lint bench fuzz proofs replay clean

demo: .venv/stamp
	$(BIN)/python -m rangekit demo

# The suite comes last, so that its closing line is the last one printed. A file stays in one process: the cells of
# a notebook need those before them.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --doctest-modules $(if $(NOTEBOOKS),--nbval --nbval-current-env) \
		tests rangekit $(NOTEBOOKS)

lint: .venv/stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything against NumPy, torch, JAX and numba: half an hour on a quiet machine. Tables go to benchmarks/results/.
bench: .venv/peers
	$(BIN)/python -m benchmarks $(BENCH)

# Random index programs, simplified and enumerated: ten minutes, or FUZZ="--seconds 60 --first 1000000".
fuzz: .venv/stamp
	$(BIN)/python scripts/fuzz.py $(FUZZ)

# How each access of the suite is proved, and what checking costs: docs/proofs.md.
proofs: .venv/stamp
	$(BIN)/python scripts/proofs.py

# What the changes since the last commit, or those of the last commit, do to the code that is made.
replay: .venv/stamp
	$(BIN)/python scripts/replay.py $(REPLAY)

.venv/peers: .venv/stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

.venv/stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
