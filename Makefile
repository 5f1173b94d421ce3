# make run    the six notebooks, headless, into runs/ (PROFILE=smoke for a quick look)
# make test   style and tests
# The environment is made in .venv when it is missing; nothing is installed elsewhere.

PYTHON ?= python3
PROFILE ?= workshop
ARGS ?=

# `make run 03 04` is `make run ARGS="03 04"`: other words are notebooks, not goals
ifneq ($(filter run lab90 notebooks solutions,$(firstword $(MAKECMDGOALS))),)
NAMES := $(filter-out run lab90 test lab notebooks solutions check clean,$(MAKECMDGOALS))
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
.PHONY: lab90 site slides bundle install-from
.DEFAULT_GOAL := help

help:
	@echo "make run        run the six notebooks into runs/ (make run 03 04, PROFILE=smoke)"
	@echo "make test       style and tests"
	@echo "make e2e        pages and site in a browser, with axe-core (needs Chromium)"
	@echo "make lab        open JupyterLab on the notebooks (ARGS='--no-browser --port 9999')"
	@echo "make notebooks  run them and rewrite notebooks/ with their outputs"
	@echo "make solutions  write the notebooks with their exercises solved: runs/solutions"
	@echo "make lab90      run the cells of the 90-minute path alone, into runs/lab90"
	@echo "make slides     the same cells as slides, with the stored outputs: runs/slides"
	@echo "make site       the pages and texts to read without installing: runs/site"
	@echo "make bundle     all that an installation without a network needs: runs/bundle"
	@echo "make install-from BUNDLE=folder    install from such a folder"
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
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(ARGS)

e2e: $(MODEL)
	@$(BIN)/python -c "import playwright, axe_playwright_python" 2>&- || \
		$(BIN)/python -m pip install -q -c constraints.txt -e ".[e2e]"
	$(BIN)/python -m pytest tests/e2e -rs $(ARGS)

lab: $(MODEL)
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m jupyterlab \
		--ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: $(MODEL)
	$(BIN)/python -m nbutils run --write $(NAMES) $(ARGS)

solutions: $(STAMP)
	$(BIN)/python -m nbutils solutions $(NAMES) $(ARGS)

lab90: $(MODEL)
	$(BIN)/python -m nbutils run --tag lab90 $(NAMES) $(ARGS)

site: $(STAMP)
	$(BIN)/python -m workshop site $(ARGS)

slides: $(STAMP)
	$(BIN)/python -m workshop slides $(ARGS)

bundle: $(MODEL)
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python -m workshop bundle $(ARGS)

install-from:
	@$(PYTHON) -I workshop/install.py "$(BUNDLE)"

check: $(MODEL)
	$(BIN)/python -m nbutils check

# answers of a live language model were paid for, a fetched model needs a network: kept
clean:
	@test ! -d runs || find runs -mindepth 1 -maxdepth 1 ! -name 'answers.sqlite*' -exec rm -rf {} +
	@test ! -d .cache || find .cache -mindepth 1 -maxdepth 1 ! -name models ! -name .fetched -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache build
	find nbutils workshop tests -name __pycache__ -type d -prune -exec rm -rf {} +
