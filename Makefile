# `make demo` and `make test` set everything up in .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
# By name of the environment, so that uv installs there or refuses, and never into the system.
UV := VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv
.PHONY: setup demo test test-all verify lint docs lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("densedistill needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/uv || ($(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv)
	$(UV) pip install --compile-bytecode --require-hashes -r requirements.lock
	$(UV) pip install --no-deps -e .
	touch $@

demo: setup
	$(BIN)/densedistill demo

# Two processes of one thread each: threads that wait for one another would take twice as long.
test test-all: export OMP_NUM_THREADS = 1

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not verify"

verify: setup
	$(BIN)/python -m pytest -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/mkdocs build --strict

lock: setup
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock

clean:
	rm -rf .venv site demo
