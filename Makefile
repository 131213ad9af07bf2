# make demo   train two small recipes, fit, compare, report       make test   the tests; make slow: the long ones
# make lab    JupyterLab on the notebooks                         make lint   ruff and mypy
# make study  the recipes over seeds, hours of machine time         make docs   the site, build/site/index.html
PYTHON ?= python3
SEED ?= 0
# Extra arguments for pip, for example an index that has a CPU-only torch (see README).
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.PHONY: demo test slow lint lab docs study clean notebooks figures
demo: $(VENV)/.train
	$(BIN)/scalerl demo --seed $(SEED) $(if $(STEPS),--steps $(STEPS)) $(if $(OUTPUT),--output $(OUTPUT))

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

# The tests that start processes, train or run notebooks for long; bare pytest runs all.
slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m slow

# Hours of two cores; resumable, skips what data/study holds. QUICK=1 trains a slice again and compares it with that.
study: $(VENV)/.train
	$(BIN)/python -m benchmarks.study $(if $(QUICK),--quick)

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Runs every notebook and writes its outputs; NOTEBOOK=02 only one.
notebooks: $(VENV)/.dev
	$(BIN)/python -m benchmarks.notebooks $(NOTEBOOK)

# Draws the pictures of README and docs anew.
figures: $(VENV)/.train
	$(BIN)/python -m benchmarks.figures

lab: $(VENV)/.notebook
	$(BIN)/jupyter lab notebooks

# Warnings are errors; no notebook is run, no page asks the network for anything.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees -c docs . build/site
	@echo "open build/site/index.html"

clean:
	rm -rf $(VENV) build *.egg-info

# One stamp a set of extras: a second call installs nothing unless what is asked for has changed.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing torch, transformers and the analysis into $(VENV), about two minutes"
	$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.notebook: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing JupyterLab, torch and the analysis into $(VENV), about three minutes"
	$(PIP) -e '.[train,notebook]'
	@touch $@ $(VENV)/.train

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what the site needs into $(VENV), about three minutes"
	$(PIP) -e '.[train,docs]'
	@touch $@ $(VENV)/.train

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what the tests need into $(VENV), about three minutes"
	$(PIP) -e '.[train,notebook,dev]'
	@touch $@ $(VENV)/.train $(VENV)/.notebook $(VENV)/.docs
