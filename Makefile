# make run    the six notebooks, headless, into runs/ (PROFILE=smoke for a quick look)
# make test   style and tests
# The environment is made in .venv when it is missing; nothing is installed elsewhere.

PYTHON ?= python3
PROFILE ?= workshop
ARGS ?=

# `make run 03 04` is `make run ARGS="03 04"`: other words are notebooks, not goals
ifneq ($(filter run notebooks solutions,$(firstword $(MAKECMDGOALS))),)
NAMES := $(filter-out run test lab notebooks solutions check clean,$(MAKECMDGOALS))
$(if $(NAMES),$(eval $(NAMES): ; @:))
endif

BIN := .venv/bin
STAMP := .venv/.installed
MODEL := .cache/.fetched

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

.PHONY: help run test e2e lab notebooks solutions check clean $(NAMES)
.DEFAULT_GOAL := help

help:
	@echo "make run        run the six notebooks into runs/ (make run 03 04, PROFILE=smoke)"
	@echo "make test       style and tests"
	@echo "make e2e        the pages in JupyterLab, driven in a browser (needs Chromium)"
	@echo "make lab        open JupyterLab on the notebooks (ARGS='--no-browser --port 9999')"
	@echo "make notebooks  run them and rewrite notebooks/ with their outputs"
	@echo "make solutions  write the notebooks with their exercises solved: runs/solutions"
	@echo "make check      is everything here that a run needs?"
	@echo "make clean      remove runs and caches; live answers, the model, .venv are kept"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: 1 to 4 GB and some minutes, in which pip says little."
	@$(CPU_TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

# once, with a network; a model folder that went since is named by what needs it
$(MODEL): $(STAMP)
	$(BIN)/python -m nbutils fetch
	@mkdir -p $(@D) && touch $@

run: $(MODEL)
	$(BIN)/python -m nbutils run --profile $(PROFILE) $(NAMES) $(ARGS)

# a page that somebody works on here need not be in the style of the house
OWN = $(shell git diff --name-only HEAD -- notebooks 2>&- | sed 's/^/--extend-exclude /')

test: $(MODEL)
	$(BIN)/ruff check . $(OWN)
	$(BIN)/ruff format --check . $(OWN)
	$(BIN)/python -m pytest $(ARGS)

e2e: $(MODEL)
	@$(BIN)/python -c "import playwright" 2>&- || \
		$(BIN)/python -m pip install -q -c constraints.txt -e ".[e2e]"
	$(BIN)/python -m pytest tests/e2e -rs $(ARGS)

lab: $(MODEL)
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m jupyterlab \
		--ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: $(MODEL)
	$(BIN)/python -m nbutils run --write $(NAMES) $(ARGS)

solutions: $(STAMP)
	$(BIN)/python -m nbutils solutions $(NAMES) $(ARGS)

check: $(MODEL)
	$(BIN)/python -m nbutils check

# answers of a live language model were paid for, a fetched model needs a network: kept
clean:
	@test ! -d runs || find runs -mindepth 1 -maxdepth 1 ! -name 'answers.sqlite*' -exec rm -rf {} +
	@test ! -d .cache || find .cache -mindepth 1 -maxdepth 1 ! -name models ! -name .fetched -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache build
	find nbutils tests -name __pycache__ -type d -prune -exec rm -rf {} +
