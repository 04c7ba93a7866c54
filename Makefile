# Two commands for newcomers: `make run` and `make test`. Each sets up what it needs; python3 (3.11 or newer)
# with venv, git and make are enough. uv is brought along in .uv/ where it is not installed.

UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never
# Meltano keeps the logs of its runs in the state folder of the user; nothing shall lie outside the checkout.
export XDG_STATE_HOME := $(CURDIR)/.meltano
PLUGINS := tap-piano target-recurly-engage
UTILITIES := sandbox piano-actions
# What `make setup` installs; Airflow is left to who wants it.
SET_UP := $(PLUGINS) recurly-engage $(UTILITIES)
AIRFLOW_VERSION := 3.3.2
# The package of a plugin, which has the plugin's name but for the sandbox.
package = $(if $(filter sandbox,$(1)),piano-engage-$(1),$(1))
EXPORT = $(UV) export -q --frozen --no-hashes --no-header --no-annotate --no-emit-workspace --all-extras
# One more than there are cores, for some tests wait for timeouts.
WORKERS = $$($(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')
CONSTRAINTS := $(PLUGINS:%=plugins/requirements/%.txt) $(UTILITIES:%=plugins/requirements/%.txt)

.DEFAULT_GOAL := help
.PHONY: help run test coverage lint types browser postgres docs constraints check-constraints setup shared benchmark kill-test \
  engine-test fault-test reuse-test actions-test airflow-test airflow-constraints app clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup ## Run the main job on the shipped sample, twice, and tell what it did
	@$(BIN)/python demo/run.py

test: .venv/.dev setup browser postgres ## Run all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

coverage: ## Run all tests and say which lines none of them reached (takes twice as long)
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report=term $(ARGS)"

lint: .venv/.dev check-constraints ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.dev ## Check types
	@$(BIN)/mypy

browser: ## Bring a browser for the tests of the sandbox's page, where that is possible
	@sh scripts/browser.sh >/dev/null || true

postgres: ## Bring PostgreSQL for the tests of the actions' notes, where that is possible
	@sh scripts/postgres.sh >/dev/null || true

setup: .meltano/.plugins ## Install Meltano and the plugins

shared: .venv/.run ## Bring what Meltano needs for a database in PostgreSQL and state on S3
	@$(UV) sync -q --frozen --no-dev --inexact --group shared

benchmark: .venv/.dev setup ## Measure speed and memory (takes minutes); the figures stand in docs/benchmarks.md
	@$(UV) sync -q --frozen --inexact --group benchmark
	@$(BIN)/python benchmarks/pipeline.py $(ARGS)

fault-test: .venv/.dev setup ## The tests at random moments and in random orders, ten times as many (takes half an hour)
	@FAULT_ROUNDS=10 $(BIN)/python -m pytest -n auto --dist loadgroup --timeout=3000 \
	  tests/target/test_auto.py tests/target/test_brake_values.py tests/target/test_clock.py tests/target/test_crash.py \
	  tests/target/test_ingest.py tests/target/test_ledger.py tests/target/test_many_days.py tests/target/test_model.py \
	  tests/target/test_plan.py tests/target/test_shared_lease.py tests/target/test_shared_storm.py \
	  tests/project/test_app.py tests/project/test_bad_moments.py \
	  tests/project/test_database.py tests/project/test_drill.py tests/project/test_two_folders.py \
	  tests/tap/test_api_interrupted.py tests/tap/test_damaged_exports.py tests/e2e $(ARGS)

engine-test: .venv/.dev ## The target's tests with the lowest and the newest DuckDB that may be used; ENGINES= names others
	@$(BIN)/python scripts/engines.py --uv $(UV) $(if $(ENGINES),--versions $(ENGINES)) $(ARGS)

reuse-test: .venv/.dev ## Other projects: the built packages in an empty one, the tap with a target of others
	@REUSE_TEST=1 $(BIN)/python -m pytest tests/project/test_reuse.py \
	  tests/project/test_other_targets.py $(ARGS)

actions-test: .venv/.dev setup postgres ## The tests of piano-actions with their notes in PostgreSQL, at every moment (takes minutes)
	@ACTIONS_STORE=postgresql FAULT_ROUNDS=10 $(BIN)/python -m pytest -n auto --dist loadgroup --timeout=3000 \
	  tests/actions $(ARGS)

airflow-test: .venv/.dev setup browser .meltano/airflow-test/bin/airflow ## The DAGs in a real Airflow, with its UI in a browser (takes minutes)
	@AIRFLOW_PROGRAM=$(CURDIR)/.meltano/airflow-test/bin/airflow $(BIN)/python -m pytest tests/airflow --timeout=1800 $(ARGS)

.meltano/airflow-test/bin/airflow: plugins/requirements/airflow.txt | $(UV)
	@$(UV) venv -q --allow-existing --python "$$(command -v python3)" .meltano/airflow-test
	@$(UV) pip install -q --python .meltano/airflow-test/bin/python -r plugins/requirements/airflow.txt
	@touch $@

airflow-constraints: | $(UV) ## Pin Airflow's environment anew
	@echo "apache-airflow==$(AIRFLOW_VERSION)" | $(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate \
	  -o plugins/requirements/airflow.txt - >/dev/null

kill-test: setup ## Kill `make run` at ten random moments, run it again, and compare
	@$(BIN)/python demo/kill_test.py $(ARGS)

app: .venv/.run ## Add an application: make app NAME=title2 AID=its-id-at-Piano
	@$(BIN)/python scripts/app.py '$(NAME)' '$(AID)'

docs: .venv/.dev ## Write the settings of both plugins, from --about, into meltano.yml and the READMEs
	@$(BIN)/python scripts/docs.py

constraints: ## Pin the plugins' environments anew from uv.lock
	@$(MAKE) --no-print-directory -B $(CONSTRAINTS)

$(CONSTRAINTS): plugins/requirements/%.txt: uv.lock | $(UV)
	@$(EXPORT) --package $(call package,$*) -o $@ >/dev/null

check-constraints: | $(UV) ## Fail when the pins are older than uv.lock
	@$(foreach plugin,$(PLUGINS) $(UTILITIES),$(EXPORT) --package $(call package,$(plugin)) \
	  | diff -u plugins/requirements/$(plugin).txt - \
	  || { echo "plugins/requirements/$(plugin).txt is stale: run 'make constraints'"; exit 1; };)

# The environment: Meltano and the sandbox for `make run`, with the tools added for tests.

.uv/bin/uv:
	@python3 -m venv .uv
	@.uv/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

ifneq ($(UV),.uv/bin/uv)
$(UV): ;
endif

.venv/bin/python: | $(UV)
	@$(UV) venv -q --allow-existing --python "$$(command -v python3)" .venv

.venv/.run: uv.lock pyproject.toml | $(UV) .venv/bin/python
	@$(UV) sync -q --frozen --no-dev --inexact
	@touch $@

.venv/.dev: uv.lock pyproject.toml $(wildcard */pyproject.toml plugins/*/pyproject.toml) | $(UV) .venv/bin/python
	@$(UV) sync -q --frozen --inexact
	@touch $@

.meltano/.plugins: .venv/.run meltano.yml $(CONSTRAINTS) $(PLUGINS:%=%/pyproject.toml) $(UTILITIES:%=plugins/%/pyproject.toml) \
    common/pyproject.toml
	@$(BIN)/meltano --log-level=warning install --force $(SET_UP) >/dev/null || $(BIN)/meltano install --force $(SET_UP)
	@touch $@

clean: ## Remove all that set-up and runs made
	@rm -rf .uv .venv .meltano output runs
