# Two commands for a newcomer: `make demo` shows the main job, `make test` passes the tests.
# Both set up everything they need in .venv, on a machine with Python 3.11 or later.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TEST_ARGS ?=
# Processes that run tests; most tests wait for other processes most of the time.
TEST_JOBS ?= 3
SOAK_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint format fuzz soak bench bench-micro lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rdpbalancer needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## balancer, three terminal servers and their users, live (DEMO_ARGS=--once: fixed script, verdict)
	@$(BIN)/rdpbalancer demo $(DEMO_ARGS)

test: $(READY)  ## every test; those of real programs are skipped, by name, where the program is missing
	$(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadgroup $(TEST_ARGS)

test-fast: $(READY)  ## the tests that need no process of their own
	$(BIN)/python -m pytest tests/unit tests/property tests/contract $(TEST_ARGS)

lint: $(READY)  ## ruff, mypy --strict, the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the code the way `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(READY)  ## feed the parsers hostile bytes for FUZZ_SECONDS (default 60)
	$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS)

bench: $(READY)  ## compare with HAProxy and nginx on this machine, about 5 minutes (BENCH_ARGS=--quick for a first look)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

soak: $(READY)  ## users, and one disturbance after the other, for SOAK_SECONDS (default 600); a verdict
	$(BIN)/python -m tests.soak $(SOAK_SECONDS)

bench-micro: $(READY)  ## the small steps of a connection, each by itself (BENCH_ARGS=--fast for a first look)
	$(BIN)/python -m benchmarks.micro $(BENCH_ARGS)

lock:  ## resolve the dependencies anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements/runtime.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml --group dev -o requirements/dev.lock

clean:  ## remove what the targets above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov dist
