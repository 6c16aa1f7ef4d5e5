# One command a purpose. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The peers of the benchmarks live apart, so that nobody installs them who does not measure.
BENCH  ?= .venvs/bench
# Pins that still hold are kept, so locking twice changes nothing; the index is never written down.
LOCK   := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-hiccups test-compiled test-sdk faults check lock bench bench-quick bench-profile bench-telemetry bench-live bench-durable bench-brokers bench-history soak clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/ready ## make the virtual environment from the locked requirements

$(VENV)/ready: requirements/dev.txt pyproject.toml
	@echo "==> setup: installing the locked requirements into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## turn a transcript into captions (INPUT=my.srt for one of yours)
	@echo "==> demo: transcript to captions, in out/captions/"
	@VENV="$(VENV)" examples/demo.sh $(if $(INPUT),"$(INPUT)")

# How many processes share the tests, which wait most of the time; ARGS="-n 0" runs them in one.
WORKERS ?= 2
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: setup ## run the tests (ARGS="-k name" to choose)
	@echo "==> test: the whole suite, random order"
	$(PYTEST) $(ARGS)

test-hiccups: setup ## run tests whose processes stand still for moments, as on a busy machine (ARGS="tests/transports")
	@echo "==> test-hiccups: in one process, random order"
	$(BIN)/python tests/support/hiccups.py $(BIN)/python -m pytest $(ARGS)

# What the compiled modules are made from; `build/` keeps what is up to date.
SOURCES := pyproject.toml hatch_build.py $(shell find src -name "*.py" -o -name "*.pxd" -o -name "*.pyx")
COMPILED := .venvs/compiled
$(COMPILED)/ready: $(VENV)/ready $(SOURCES)
	@echo "==> compiled: building a wheel with compiled modules, into $(COMPILED)"
	@rm -rf $(COMPILED)
	ECHO_CORE_COMPILED=require $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation --target $(COMPILED) .
	@touch $@

# Those that go through what is compiled; ARGS="-k name" to choose.
COMPILED_TESTS ?= tests/telemetry tests/runtime tests/contract tests/testing
test-compiled: $(COMPILED)/ready ## run the tests of what a wheel has compiled against such a wheel
	@echo "==> test-compiled: the same tests, compiled modules"
	PYTHONPATH=$(CURDIR)/$(COMPILED) $(BIN)/python tests/support/compiled.py
	PYTHONPATH=$(CURDIR)/$(COMPILED) $(PYTEST) $(COMPILED_TESTS) $(ARGS)

# The oldest that pyproject.toml allows, unless told otherwise.
SDK ?= 1.39
test-sdk: ## run the telemetry tests with another opentelemetry-sdk, in an environment of its own (SDK=1.44)
	@echo "==> test-sdk: opentelemetry $(SDK), in .venvs/sdk-$(SDK)"
	@$(MAKE) --no-print-directory setup VENV=.venvs/sdk-$(SDK)
	.venvs/sdk-$(SDK)/bin/python -m pip uninstall --quiet --yes opentelemetry-exporter-otlp-common \
	    opentelemetry-exporter-http-transport
	.venvs/sdk-$(SDK)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $(foreach part,api sdk exporter-otlp-proto-http exporter-otlp-proto-grpc,opentelemetry-$(part)==$(SDK).*)
	.venvs/sdk-$(SDK)/bin/python -m pytest tests/telemetry $(ARGS)

# How often a host is killed; `make test` does it 50 times.
KILLS ?= 1000
faults: setup ## kill hosts and processes, cut power, fill disks, damage stores, and see that nothing is lost (KILLS=1000)
	@echo "==> faults: $(KILLS) kills at random moments, one before each statement of SQL, disks that stop and fail, damage, chaos in processes"
	ECHO_CORE_KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/faults $(ARGS)

check: setup ## ruff, mypy --strict, import direction, lock files up to date
	@echo "==> check: formatting and lint"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo "==> check: types"
	$(BIN)/mypy
	@echo "==> check: import direction"
	$(BIN)/python -m pytest -q -p no:randomly tests/architecture
	@echo "==> check: lock files"
	@rm -rf out/locks && mkdir -p out/locks && cp requirements/*.txt out/locks/
	$(LOCK) pyproject.toml -o out/locks/runtime.txt > /dev/null
	$(LOCK) pyproject.toml requirements/dev.in -o out/locks/dev.txt > /dev/null
	$(LOCK) pyproject.toml requirements/bench.in -o out/locks/bench.txt > /dev/null
	@for name in runtime dev bench; do cmp out/locks/$$name.txt requirements/$$name.txt \
	    || { echo "requirements/$$name.txt is out of date; run: make lock"; exit 1; }; done

lock: setup ## write requirements/*.txt anew from pyproject.toml and requirements/*.in
	@echo "==> lock: resolving, with hashes, for Python 3.11 to 3.13"
	$(LOCK) pyproject.toml -o requirements/runtime.txt > /dev/null
	$(LOCK) pyproject.toml requirements/dev.in -o requirements/dev.txt > /dev/null
	$(LOCK) pyproject.toml requirements/bench.in -o requirements/bench.txt > /dev/null

$(BENCH)/peers: requirements/bench.txt
	@echo "==> bench: installing the peers of Echo Core into $(BENCH)"
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

$(BENCH)/ready: $(BENCH)/peers $(SOURCES)
	@echo "==> bench: building a wheel with compiled modules, into $(BENCH)"
	ECHO_CORE_COMPILED=require $(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation --force-reinstall .
	@touch $@

# A peer that is no Python package; without npm, or without its registry, it is not measured, which the tables say.
NODE_RED := .venvs/node-red
$(NODE_RED)/ready: Makefile
	@echo "==> bench: installing Node-RED into $(NODE_RED)"
	@mkdir -p $(NODE_RED)
	@if npm install --prefix $(NODE_RED) --no-audit --no-fund --omit=optional --loglevel=error node-red@4.1.15; \
	    then touch $@; else echo "    Node-RED cannot be installed, and is not measured"; fi

bench: $(BENCH)/ready $(NODE_RED)/ready ## measure Echo Core beside its peers; writes docs/benchmarks (under 25 minutes)
	@echo "==> bench: five runs of everything, interleaved"
	$(BENCH)/bin/python -m benchmarks.run $(ARGS)

bench-quick: $(BENCH)/ready ## the core rows of bench in under two minutes; writes out/benchmarks
	@echo "==> bench-quick: three short runs of the core rows"
	$(BENCH)/bin/python -m benchmarks.run --quick $(ARGS)

bench-profile: $(BENCH)/ready ## where each microsecond of a message goes; writes docs/benchmarks/profile.md
	@echo "==> bench-profile: sampling from outside"
	$(BENCH)/bin/python -m benchmarks.profile $(ARGS)

# Other interpreters to measure on, each by the path of its python; those that are not there are passed over.
PYTHONS ?= python3.13
bench-telemetry: setup ## what telemetry costs, fast against official; writes docs/benchmarks (PYTHONS="...")
	@echo "==> bench-telemetry: operations, full speed, weight"
	@set -e; chosen="--python $(BIN)/python"; \
	for python in $(PYTHONS); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	    $(MAKE) --no-print-directory setup PYTHON=$$python VENV=.venvs/$$version; \
	    chosen="$$chosen --python .venvs/$$version/bin/python"; \
	done; \
	$(BIN)/python -m benchmarks.telemetry_report $$chosen $(ARGS)

bench-live: setup ## what coming, going and upgrading plugins cost a running host (about a minute)
	@echo "==> bench-live: 50 upgrades under load, 1,000 activations"
	$(BIN)/python -m benchmarks.live $(ARGS)

MINUTES ?= 10
soak: setup ## a mixed load with faults, and whether anything grows, slows down or gets lost (MINUTES=10); writes out/soak
	@echo "==> soak: $(MINUTES) minutes"
	$(BIN)/python -m benchmarks.soak --minutes=$(MINUTES) $(ARGS)

bench-durable: $(BENCH)/ready ## what durability costs, beside SQLite alone, JetStream and huey; writes docs/benchmarks
	@echo "==> bench-durable: publish and consume on disk, in turns"
	$(BENCH)/bin/python -m benchmarks.durable $(ARGS)

bench-brokers: $(BENCH)/ready ## three plugins over NATS, Redis, RabbitMQ and Kafka, beside FastStream and the bare clients; writes docs/benchmarks
	@echo "==> bench-brokers: every server, in turns; one to four hosts"
	$(BENCH)/bin/python -m benchmarks.brokers $(ARGS)

bench-history: setup ## what the message history costs, and how fast it answers; writes docs/benchmarks
	@echo "==> bench-history: a pipeline with and without it, in turns; a million records"
	$(BIN)/python -m benchmarks.history $(ARGS)

clean: ## remove what the other targets made, except the virtual environment
	@echo "==> clean: caches, output, built libraries, host state"
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis core/state
	find plugins/libraries core/plugins/enabled -mindepth 1 ! -name .gitkeep -delete
