# Two commands do everything on a fresh machine with Python >= 3.11, git and make: `make demo` and `make test`.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& command -v $$p && break; done)
BIN := $(VENV)/bin
# uv resolves and installs in a fifth of pip's time; where it is not to be had, pip does the same.
INSTALL = $$(test -x $(BIN)/uv && echo "$(BIN)/uv pip install --quiet --python $(BIN)/python" \
	|| echo "$(BIN)/python -m pip install --quiet --disable-pip-version-check")
# The interpreter's own pip puts uv into the environment: unpacking a second pip there takes longer than all of this.
UV_ALONE = { $(PYTHON) -m pip --version >/dev/null 2>&1 && $(PYTHON) -m venv --without-pip $(VENV) \
	&& $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check uv 2>/dev/null; }
# What a run loads is compiled while the demo's databases are made.
COMPILE = backup_pipeline.orchestration.launch, backup_pipeline.orchestration.postgres_storage, \
	backup_pipeline.sources.postgres.table_export, backup_pipeline.sources.postgres.drill, pandera.pandas, duckdb
DEMO ?= demo-site
PORT ?= 3000

.PHONY: backup status restore help demo up test stories explore check format bench pictures docs clean-demo

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# What the program itself needs: the demo, the UI, backups and restores wait for no test tools, which are half of it.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/uv || $(UV_ALONE) || { test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null || true; }
	@echo "installing into $(VENV) (about a quarter of a minute the first time)"
	@$(INSTALL) -c constraints.txt -e '.[embedded,query,vault]'
	@touch $@

$(VENV)/.installed: $(VENV)/.runtime
	@echo "installing what tests and checks need"
	@$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.runtime ## Build a small real site, back it up, prove the sets, recover them from a vault
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import $(COMPILE)' >/dev/null 2>&1 &
	@PYTHONDONTWRITEBYTECODE= $(BIN)/backup-pipeline demo --folder $(DEMO)

up: $(VENV)/.runtime ## The UI with the demo's runs on http://127.0.0.1:3000
	@$(BIN)/backup-pipeline up --config $(DEMO)/backup.yaml --port $(PORT)

# A site of your own: SITE=its folder. PLAN and SOURCE where it has several; ARGS for anything else.
SITE ?= .
PLAN ?=
SET ?= $(if $(PLAN),$(PLAN)/)latest
SOURCE ?=
ARGS ?=

backup: $(VENV)/.runtime ## Back up a site: make backup SITE=/srv/backup PLAN=nightly
	@$(BIN)/backup-pipeline backup $(PLAN) --config "$(SITE)" $(ARGS)

status: $(VENV)/.runtime ## How a site's plans are doing: make status SITE=/srv/backup
	@$(BIN)/backup-pipeline status $(PLAN) --config "$(SITE)" $(ARGS)

restore: $(VENV)/.runtime ## A restore's plan; ARGS='--apply …' does it: make restore SITE=… SET=nightly/latest SOURCE=…
	@test -n "$(SOURCE)" || { echo "Name the source: make restore SITE=$(SITE) SET=$(SET) SOURCE=name"; exit 2; }
	@$(BIN)/backup-pipeline restore "$(SET)" "$(SOURCE)" --config "$(SITE)" $(ARGS)

test: $(VENV)/.installed ## The tests, with real servers, programs and a browser
	@$(BIN)/python -m pytest

stories: $(VENV)/.installed ## The long tests: image, machines, kills at many instants
	@$(BIN)/python -m pytest -m story

explore: $(VENV)/.installed ## The property tests and models with twenty times the examples; ARGS names some of them
	@$(BIN)/python -m pytest -m 'hypothesis and not story' --hypothesis-profile explore $(ARGS)

check: $(VENV)/.installed ## Style, types, layers, definitions
	@$(BIN)/ruff format --check . && $(BIN)/ruff check --quiet . && echo "style: ok"
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) BACKUP_PIPELINE_CONFIG=$(CURDIR)/backup.yaml $(BIN)/dg check defs >/dev/null \
		&& echo "definitions: ok"

format: $(VENV)/.installed ## Put every file into the project's style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(VENV)/.installed ## The benchmarks, 20 minutes; ARGS=--full for all of them, two hours; writes benchmarks/results
	@$(INSTALL) -c constraints.txt -e '.[dev,bench]'
	@$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/.installed ## The pictures of docs/, from a running `make up`
	@$(INSTALL) -c constraints.txt -e '.[dev,pictures]'
	@$(BIN)/python docs/make_pictures.py --base http://127.0.0.1:$(PORT) --site $(DEMO)

clean-demo: $(VENV)/.runtime ## Stop and remove the demo's site
	@$(BIN)/backup-pipeline demo --folder $(DEMO) --remove
