# Two commands for a newcomer: `make demo` shows the main job, `make test` passes the tests.
# Both set up everything they need in .venv, on a machine with Python 3.11 or later: requirements/install.py
# installs exactly the locked files.

VENV   := .venv
BIN    := $(VENV)/bin
# The first of these that runs and is not too old makes $(VENV); `make PYTHON=...` names the only one.
ifeq ($(origin PYTHON),undefined)
PYTHONS := python3.11 python3 python3.12 python3.13 python3.14
ANEW    :=
else
PYTHONS := $(PYTHON)
ANEW    := --other-python-is-wanted
endif
TEST_ARGS ?=
# Processes that run tests; most tests wait for other processes most of the time.
TEST_JOBS ?= 3
SOAK_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast coverage test-release test-release-repeat test-release-pythons lint format fuzz soak bench bench-micro lock clean runtime dev

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(VENV) with what runs the service, or with what tests and checks it too. In order already: 0.1 s.
runtime dev:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec "$$python" requirements/install.py $@ --venv $(VENV) $(ANEW); \
	  fi; \
	done; \
	echo "rdpbalancer needs Python 3.11 or later, and none of these is: $(PYTHONS)." >&2; \
	echo "On Debian and Ubuntu: apt install python3 python3-venv. Or name one: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1

demo: runtime  ## balancer, three terminal servers and their users, live (DEMO_ARGS=--once: fixed script, verdict)
	@$(BIN)/rdpbalancer demo $(DEMO_ARGS)

test: dev  ## every test, 8 minutes; those of real programs are skipped, by name, where the program is missing
	$(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadgroup $(TEST_ARGS)

test-fast: dev  ## the tests that need no process of their own: unit, property, contract; 2 minutes at most
	$(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadgroup tests/unit tests/property tests/contract $(TEST_ARGS)

coverage: dev  ## how much of each module its own tests run; fails below 90 %, for decisions and parsers below 100
	$(BIN)/python -m tests.own_coverage

test-release: dev  ## before a release: every part below and the soak, once; tests/release.json keeps the results
	$(BIN)/python -m tests.release repeat pythons soak

test-release-repeat: dev  ## every fault test ten times in a row, in random order, seeds printed; a verdict
	$(BIN)/python -m tests.release repeat

test-release-pythons: dev  ## the fast tests with every Python from 3.11 to 3.14 that is here, or that Debian has
	$(BIN)/python -m tests.release pythons

lint: dev  ## ruff, mypy --strict, the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev  ## rewrite the code the way `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: dev  ## feed the parsers hostile bytes for FUZZ_SECONDS (default 60)
	$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS)

bench: dev  ## compare with HAProxy and nginx on this machine, about 5 minutes (BENCH_ARGS=--quick for a first look)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

soak: dev  ## users, and one disturbance after the other, for SOAK_SECONDS (default 600); a verdict
	$(BIN)/python -m tests.soak $(SOAK_SECONDS)

bench-micro: dev  ## the small steps of a connection, each by itself (BENCH_ARGS=--fast for a first look)
	$(BIN)/python -m benchmarks.micro $(BENCH_ARGS)

lock:  ## resolve the dependencies anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements/runtime.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml --group dev -o requirements/dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --group build -o requirements/build.lock

clean:  ## remove what the targets above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov dist
