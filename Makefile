# make quickstart: everything from set-up to a report with pictures.  make test: set-up and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

SCRIPTS = $(shell grep -lr "^\#!" launchers) tests/cluster/vcluster

.PHONY: help setup quickstart test check format clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 14

setup: $(STAMP) ## make .venv and install into it (a second call takes no time)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,quickstart]'
	touch $@

quickstart: $(STAMP) ## run the whole path on drawn landscapes: shards, KNN, training, evaluation, report
	$(BIN)/stego-dist quickstart --out quickstart_out

test: $(STAMP) ## run the tests, two at a time
	$(BIN)/python -m pytest tests -n 2 --dist loadfile

check: $(STAMP) ## lint, types, shell scripts, and the one-way rule of the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck -x -a $(SCRIPTS)

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the quickstart wrote
	rm -rf quickstart_out
