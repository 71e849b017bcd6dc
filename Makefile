# Everything runs in .venv, which the first target makes. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: setup lint test demo clean

setup: .venv/.installed

.venv/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	@echo "Installing requirements.txt into .venv (a few GB, a few minutes)"
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest

clean:
	rm -rf .venv data/demo results/demo .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
