# make run    the six notebooks, headless, into runs/ (PROFILE=smoke for a quick look)
# make test   style and tests
# The environment is made in .venv when it is missing; nothing is installed elsewhere.

PYTHON ?= python3
PROFILE ?= workshop
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

# The usual PyTorch for Linux carries gigabytes of CUDA libraries. On a machine without
# a GPU, name an index of CPU builds (PyTorch's install page gives its address):
#   make run TORCH_INDEX=...
TORCH_INDEX ?=
ifneq ($(TORCH_INDEX),)
CPU_TORCH = $(BIN)/python -m pip install -q --no-deps -c constraints.txt \
	--index-url $(TORCH_INDEX) torch
else
CPU_TORCH = true
endif

.PHONY: help run test lab notebooks check clean
.DEFAULT_GOAL := help

help:
	@echo "make run        run the six notebooks into runs/ (PROFILE=smoke, ARGS='03 04')"
	@echo "make test       style and tests"
	@echo "make lab        open JupyterLab on the notebooks"
	@echo "make notebooks  run them and rewrite notebooks/ with their outputs"
	@echo "make check      is everything here that a run needs?"
	@echo "make clean      remove runs and caches; live answers and .venv are kept"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(CPU_TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

run: $(STAMP)
	$(BIN)/python -m nbutils run --profile $(PROFILE) $(ARGS)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(ARGS)

lab: $(STAMP)
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m jupyterlab notebooks

notebooks: $(STAMP)
	$(BIN)/python -m nbutils run --write $(ARGS)

check: $(STAMP)
	$(BIN)/python -m nbutils check

# answers of a live language model were paid for: they are not a cache
clean:
	@test ! -d runs || find runs -mindepth 1 -maxdepth 1 ! -name 'answers.sqlite*' -exec rm -rf {} +
	rm -rf .cache .pytest_cache .ruff_cache build
	find nbutils tests -name __pycache__ -type d -prune -exec rm -rf {} +
