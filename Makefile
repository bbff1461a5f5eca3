# `make demo` and `make test` do all the set-up themselves. Set-up is one stamp: it runs again only when the lock or the project file changes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# Test processes side by side; more than cores make them slower.
WORKERS ?= 2

.PHONY: help setup demo test test-fast lint audit clean

help:
	@echo "make demo       set up, then run recipes/demo.yaml from raw text to an aligned model"
	@echo "make test       set up, then lint, types and all tests"
	@echo "make test-fast  the same without the slow tests"
	@echo "make setup      only set up $(VENV)"
	@echo "make clean      remove $(VENV) and caches; runs stay"

setup: $(VENV)/.ok

# uv resolves in seconds what pip does in minutes; where it cannot be had, pip does the same work from the same lock.
$(VENV)/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION) \
	  && UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,deepspeed]'; \
	then echo "set up with uv"; \
	else $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,deepspeed]'; fi
	@touch $@

demo: setup
	$(BIN)/pipeline run recipes/demo.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term --cov-fail-under=90

test-fast: lint
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

# Needs the network, so it is no part of `test`, which holds the lock against a list of its own (tests/architecture/test_safety.py).
audit: setup
	$(BIN)/uv tool run pip-audit --strict --disable-pip --no-deps -r constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage *.egg-info
