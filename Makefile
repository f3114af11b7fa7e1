# Two commands set everything up: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check bench lock proto clean

## run: the daemon on config/, with the embedded cloud in the same process
run: $(VENV)/.runtime
	@$(BIN)/gce-backend run --local

## test: lint, types, import rules and all tests
test: $(VENV)/.dev check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11 or \
	newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) scripts/preflight.py
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/pip requirements.lock pyproject.toml
	@echo "installing what gce-backend needs into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "installing the development tools into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

## bench: measures, and writes bench/RESULTS.md
bench: $(VENV)/.runtime
	$(BIN)/python bench/rise.py

## lock: writes the two lock files anew (needs pip-tools in the environment)
lock:
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --all-build-deps --output-file requirements.lock pyproject.toml
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --all-build-deps --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml

## proto: compiles the configuration's message definitions
proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src \
	  src/gce_backend/proto/config.proto

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
