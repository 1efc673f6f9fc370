# Everything here works in a fresh clone, on a machine with Python >= 3.11 and nothing else prepared.

# The first of these that is new enough; `make PYTHON=/path/to/python` takes another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST_ARGS ?=
# Tests wait more than they compute: half as many again as there are cores.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 3 // 2 or 1)')
BENCH_ARGS ?=
CHAOS_ARGS ?=

.PHONY: help demo test lint bench chaos fuzz clean

help:
	@echo 'make demo    try it: embedded Postgres, local sink, a thousand messages'
	@echo 'make test    the test suite, against a real Postgres (embedded, or MAILERD_TEST_DSN)'
	@echo 'make lint    ruff, mypy, import-linter'
	@echo 'make bench   the load test (BENCH_ARGS="--messages 200000")'
	@echo 'make chaos   every chaos scenario in its long form: about 50 minutes, for every night'
	@echo 'make fuzz    ten million SMTP replies, sessions, rows, configurations: for a night, too'
	@echo 'make clean   removes .venv and caches'

demo: $(INSTALLED)
	$(BIN)/mailerd demo

# What needs a Debian package (Postfix, PgBouncer, OpenDKIM, systemd) is run by .ci/run.
test: $(INSTALLED)
	$(BIN)/pytest -m 'not debian' -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/mailerd bench $(BENCH_ARGS)

chaos: $(INSTALLED)
	$(BIN)/mailerd bench --chaos all --long $(CHAOS_ARGS)

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.sessions --reader --inputs 10000000
	$(BIN)/python -m tests.fuzz.sessions --inputs 10000000
	MAILERD_FUZZ_EXAMPLES=50000 $(BIN)/pytest --timeout 0 tests/fuzz

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

# Made anew when the dependencies may have changed.
$(INSTALLED): pyproject.toml
	@test -n '$(PYTHON)' || { echo 'mailerd needs Python 3.11 or newer; none was found (make PYTHON=/path/to/python)' >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'no venv: on Debian, apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
