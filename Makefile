# Every verb is complete in itself: it does first whatever it needs, and does it once.
# PYTHON is the interpreter that makes the environment; ARGS goes to the command that is run.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup up test fmt lint types bench webui pin clean

help:  ## list these verbs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup:  ## make .venv, install everything into it, obtain the default model
	@$(PYTHON) deploy/bootstrap.py

up: setup  ## start the whole cluster here; ARGS="--port 9000 --api-nodes 3", see ARGS=--help
	@$(BIN)/python -m deploy.local $(ARGS)

test: setup  ## run all tests; ARGS="-k offset" runs some
	@$(BIN)/python -m pytest $(ARGS)

fmt: setup  ## format the Python sources, write the table of settings anew
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/python -m deploy.settings_table

lint: setup  ## check style, format and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: setup  ## check types, strictly
	@$(BIN)/mypy

bench:  ## measure what we cost, beside the floors and llama-server
	@$(PYTHON) deploy/bootstrap.py --bench
	@$(BIN)/python -m tests.benchmarks $(ARGS)

webui:  ## build the page from webui/ (needs Node 20.19 or newer; its bundle is committed)
	@cd webui && npm ci && npm run build

pin: setup  ## resolve anew and write deploy/requirements*.txt
	@$(BIN)/python -m deploy.pin

clean:  ## remove .venv, caches and build output; .models and .state stay
	@rm -rf .venv *.egg-info build dist webui/node_modules
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
