# Two commands set everything up: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles a module when it is first imported; most modules of the development tools never are.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.PHONY: run simulate browser screenshots test check types pytest bench lock proto clean sshd promtool contract contract-clean docs mutate foreign-clients fuzz release release-check release-cut

## run: the daemon on config/, with the embedded cloud in the same process; its VMs run an SSH server, if there is sshd
run: $(VENV)/.runtime
	@PATH=$$PATH:/usr/sbin command -v sshd >/dev/null || \
	  echo "There is no OpenSSH server, so nobody can work on a leased machine: make sshd installs it."
	@$(BIN)/gce-backend run --local --vm-command "'$(CURDIR)/$(BIN)/python' -m gce_backend.localcloud.guest"

## test: lint, types, import rules and all tests
test: $(VENV)/.dev browser sshd promtool check

# What uses one core runs beside the tests, whose first worker compiles all of them while the others wait.
check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j 2 types pytest

types:
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest:
	$(BIN)/pytest -n 4 --dist worksteal

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11.3 or \
	newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) scripts/preflight.py
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/pip requirements.lock pyproject.toml
	@echo "installing what gce-backend needs into $(VENV) ..."
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "installing the development tools into $(VENV) ..."
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.mutation: $(VENV)/.dev requirements-mutation.lock
	@$(INSTALL) --require-hashes -r requirements-mutation.lock
	@touch $@

$(VENV)/.release: $(VENV)/.dev requirements-release.lock
	@$(INSTALL) --require-hashes -r requirements-release.lock
	@touch $@

## release-cut: moves what is unreleased in the changelog under a version, and writes that (VERSION=1.2.3)
release-cut: $(VENV)/.dev
	$(BIN)/python scripts/release.py cut $(VERSION)

## release: builds wheel, sdist and SBOM twice, compares and checks them, after all tests; dist/ (DRAFT=1: no tests)
release: $(VENV)/.release $(if $(DRAFT),,release-check test)
	$(BIN)/python scripts/release.py build $(if $(DRAFT),--draft)

# What speaks against a release is said before the minutes that the tests take.
release-check: $(VENV)/.release
	@$(BIN)/python scripts/release.py check

## fuzz: mutated configurations, answers and requests (COUNT, SEED, ONLY)
fuzz: $(VENV)/.dev
	PYTHONPATH=tests nice $(BIN)/python -m fuzz $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(ONLY),--only $(ONLY))

## foreign-clients: clients for Node, Ansible and Airflow against the embedded cloud (ONLY=node; OPTIONS=--record)
foreign-clients: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m foreign_clients $(if $(ONLY),--only $(ONLY)) $(OPTIONS)

## contract: what our clients expect of a server, asked of those that GCE_BACKEND_CONTRACT_* name
contract: $(VENV)/.dev
	$(BIN)/pytest tests/contract

## contract-clean: takes away what runs of the contract have left on those servers
contract-clean: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m contract.leftovers

## browser: the Chromium in which the status page is tested, where there is none yet
browser:
	@command -v chromium >/dev/null || sh scripts/install-package.sh chromium chromium fonts-dejavu-core

## sshd: OpenSSH's server, by which the tests and `make run` reach leased machines, where there is none yet
sshd:
	@PATH=$$PATH:/usr/sbin command -v sshd >/dev/null || sh scripts/install-package.sh sshd openssh-server

## promtool: Prometheus, and its own check of alert rules and metrics, where there is none yet
promtool:
	@command -v promtool >/dev/null || sh scripts/install-package.sh promtool prometheus

## mutate: which changes to the Compute client, the store and the rules of deletion no test notices (minutes)
mutate: $(VENV)/.mutation
	@rm -rf mutants
	$(BIN)/mutmut run --max-children 2
	@$(BIN)/mutmut results --all true | $(BIN)/python scripts/mutation_score.py

## simulate: attacks the daemon in simulated time (SEED, HOURS, EPISODE, MACHINES, DAEMONS, RATE, ONLY, KEEP; docs/testing.md)
simulate: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m simulation $(if $(SEED),--seed "$(SEED)") $(if $(FIRST),--first $(FIRST)) \
	  $(if $(HOURS),--hours $(HOURS)) $(if $(EPISODE),--episode $(EPISODE)) $(if $(MACHINES),--machines $(MACHINES)) \
	  $(if $(DAEMONS),--daemons $(DAEMONS)) $(if $(RATE),--rate $(RATE)) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(KEEP),--keep $(KEEP)) $(OPTIONS)

## screenshots: draws docs/images/ and docs/story.svg anew
screenshots: $(VENV)/.dev browser
	$(BIN)/python scripts/screenshots.py
	$(BIN)/python scripts/story.py

## docs: the documentation as a site, in site/
docs: $(VENV)/.dev
	$(BIN)/python scripts/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

## bench: measures, and writes bench/RESULTS.md, DEMAND.md, FAULTS.md, COMMANDS.md, LENDING.md, HANDOVER.md, PAGES.md, SHARDS.md, SUSTAINED.md
bench: $(VENV)/.runtime
	$(BIN)/python bench/rise.py
	$(BIN)/python bench/demand.py
	$(BIN)/python bench/faults.py
	$(BIN)/python bench/commands.py
	$(BIN)/python bench/lending.py
	$(BIN)/python bench/handover.py
	$(BIN)/python bench/pages.py
	$(BIN)/python bench/shards.py
	$(BIN)/python bench/sustained.py

## lock: writes the four lock files anew (needs pip-tools in the environment)
lock:
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --all-build-deps --output-file requirements.lock pyproject.toml
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --all-build-deps --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --extra mutation --constraint requirements.lock --constraint requirements-dev.lock \
	  --output-file requirements-mutation.lock pyproject.toml
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --extra release --constraint requirements.lock --constraint requirements-dev.lock \
	  --output-file requirements-release.lock pyproject.toml

## proto: compiles the message definitions of the configuration and of access.cfg
proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src \
	  src/gce_backend/configuration/proto/config.proto \
	  src/gce_backend/machine_provider/access/proto/access.proto

clean:
	rm -rf $(VENV) mutants .mypy_cache .pytest_cache .ruff_cache
