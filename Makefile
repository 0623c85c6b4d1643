# Each target sets up everything it needs in .venv; nothing else is touched.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := trainer kernels launch shards


.PHONY: help install demo hero test test-slow mutants lint format clean

help:
	@echo "make demo       erase the digit 3 from a model trained here on real digits, and show it"
	@echo "make hero       draw docs/hero.webp, the README's animation, from the demo's model"
	@echo "make test       run the tests"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make mutants    hours: do the tests see deliberate mistakes? goes on where it stopped"
	@echo "make lint       ruff and basedpyright"
	@echo "make format     let ruff rewrite what it can"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "erasediff needs Python 3.11 or newer with venv: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 1; }
	@date +%s > .install-start
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo "installed in $$(( $$(date +%s) - $$(cat .install-start) )) s"; rm .install-start
	@touch $@

demo: install
	$(BIN)/erasediff demo

# the README's animation, from the demo's model
hero: demo
	$(BIN)/python -m erasediff.launch.hero demo docs/hero.webp

# a file's tests share what it has launched; xdist would begin with the files of most tests, but tests/distributed, first
# by name, takes longest; more workers would only wait for each other's ranks
test: install
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: install
	$(BIN)/pytest -m slow

mutants: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,mutants]'
	$(BIN)/python benchmarks/mutants.py

# basedpyright does not see editable installs: give it the folders under their import name
lint: install
	@mkdir -p build/lint/erasediff
	@for package in $(PACKAGES); do ln -sfn ../../../$$package build/lint/erasediff/$$package; done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
