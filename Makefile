# `make train` and `make test` need only Python 3.11+ and make: they set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := build/lowest
READY := .venv/.ready
READY_DEV := .venv/.ready-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# .venv is installed without bytecode: without that of the first import, each process would compile
# PyTorch anew, for some 20 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test test-slow test-all check fix bench gpu fuzz docs lowest setup clean

train: $(READY)  ## train a robust MNIST classifier and say how robust it is
	$(BIN)/sparring train
	$(BIN)/sparring evaluate

# Two processes of one thread each: with more, small tensors wait for threads that wait for cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: check  ## everything that must hold: format, lint, types, import layers, tests
	$(PYTEST) -m "not slow"

test-slow: $(READY_DEV)  ## the slow tests only: more cases of laws that `make test` checks
	$(PYTEST) -m slow

test-all: test test-slow  ## everything that the gate runs

check: $(READY_DEV)  ## format, lint, types and import layers only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

fix: $(READY_DEV)  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the fast path against plain PyTorch, interleaved in one run
	$(BIN)/python benchmarks/fast_path.py

gpu: $(READY)  ## a CUDA device against the CPU, then its throughput: at most eight minutes
	$(BIN)/python benchmarks/gpu.py

fuzz: $(READY_DEV)  ## damage the files that are read in 20,000 ways: each must be answered well
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --mutations 20000

docs: $(READY_DEV)  ## the documentation as a site, in build/site
	$(BIN)/python -m sphinx --quiet --fresh-env --write-all --fail-on-warning --keep-going -b html -c docs . build/site
	@echo "wrote build/site/index.html"

# torch is as pinned. Old libraries warn of what is new, so that warnings are no errors here.
lowest:  ## the tests with the oldest versions that pyproject.toml admits, of all but torch
	$(PYTHON) -m venv $(LOWEST)
	grep -oE '"[a-z0-9-]+>=[0-9.]+"' pyproject.toml | grep -vE 'torch|setuptools' | tr -d '"' \
	    | sed 's/>=/==/' > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	    "$$(grep ^torch== constraints.txt)" --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -W default

setup: $(READY)  ## .venv with what training and evaluation need, as pinned in constraints.txt

# --no-compile leaves out the bytecode of thousands of modules that are never imported; Python
# writes that of the others at their first import. setuptools builds `sparring` without a second copy.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --no-compile torch setuptools
	$(PIP) --no-compile --no-build-isolation --editable '.[numba]'
	touch $@

$(READY_DEV): $(READY)  # what the tests, the type checker and the documentation need besides
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

clean:  ## remove the virtual environment and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
