# make demo    save and restore a disk made for it, and compare      (root; about half a minute)
# make test    everything that must hold before a change is taken    (root; minutes; PROCESSES=1 PYTEST_FLAGS="-k word")
# make lint    the quick part of it: style, types, layers
# make test-vm whole systems in virtual machines: saved while in use, restored, booted   (root; half an hour)
# make test-live a disk in use, saved again and again: RUNS=30 times     (root; an hour and more)
# make bench   beside a limit and other tools, on disks made for it: figures, tables, plots   (root; a quarter of an hour)
# make test-all, make fuzz, make clean

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test test-all test-vm test-live lint fuzz bench wheel clean

# Programs for administration lie where the PATH of "su" and of ordinary users does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# Where this is set, as in many containers, each of the thousands of starts in the tests would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60
RUNS ?= 30
SEED ?= 1
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
# One more than processors: tests wait for mounts and disks for a third of their time.
PROCESSES ?= $(shell expr $$(nproc) + 1)
# As on a machine that systemd started, an unmount is told to the mount namespaces of tests beside it: where the mounts of
# this machine are private, as in a container, a namespace would hold what others unmount, and they would fail.
RUN_TESTS = unshare --mount --propagation shared $(BIN)/python tools/run_tests.py --processes $(PROCESSES)

demo:
	@tools/setup.sh root demo
	@tools/setup.sh packages demo
	@$(MAKE) --no-print-directory $(VENV)/installed
	$(BIN)/stillframe demo $(DEMO_FLAGS)

test: ready-for-tests lint
	$(RUN_TESTS) -m "not slow and not vm" $(PYTEST_FLAGS)

test-all: ready-for-tests lint
	$(RUN_TESTS) --hypothesis-profile=deep -m "not vm" $(PYTEST_FLAGS)

test-live: ready-for-tests $(VENV)/installed-dev
	STILLFRAME_LIVE_RUNS=$(RUNS) STILLFRAME_LIVE_SEED=$(SEED) $(BIN)/python -m pytest -s -p no:randomly $(PYTEST_FLAGS) \
	    tests/oracle/test_live_runs.py tests/oracle/test_live_emergencies.py tests/oracle/test_live_slow_medium.py

test-vm: $(VENV)/installed-dev
	@tools/setup.sh root test-vm
	@tools/setup.sh packages vm
	$(BIN)/python -m pytest -m vm $(PYTEST_FLAGS) tests/vm

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --explicit-package-bases tests tools/run_tests.py
	$(BIN)/mypy --explicit-package-bases benchmarks/comparison benchmarks/scale.py
	$(BIN)/lint-imports

fuzz: ready-for-tests $(VENV)/installed-dev
	$(BIN)/python tools/fuzz.py --seconds $(FUZZ_SECONDS)

bench: $(VENV)/installed-dev
	@tools/setup.sh root bench
	@tools/setup.sh packages bench
	PYTHONPATH=. $(BIN)/python -m benchmarks.comparison $(BENCH_FLAGS)

wheel: $(VENV)/installed-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: ready-for-tests
ready-for-tests:
	@tools/setup.sh root test
	@tools/setup.sh packages test

$(VENV)/installed: pyproject.toml tools/setup.sh
	@echo "Preparing $(VENV)"
	@tools/setup.sh venv $(VENV)
	@touch $@

$(VENV)/installed-dev: pyproject.toml tools/setup.sh
	@echo "Preparing $(VENV) with the tools for development"
	@tools/setup.sh venv $(VENV) [dev]
	@touch $@ $(VENV)/installed
