# The two commands of the README, and what they are made of.
#   make train      install, pack real text, train a tokenizer, pretrain on seven objectives, print a table
#   make test       what CI runs: ruff, mypy, the suite with a pairwise cover of the large matrices
#   make test-full  every cell of the matrices; writes their table, docs/test-full.md

PYTHON ?= python3
VENV   ?= .venv
# The one place that sets up a machine without a GPU: this release has a CPU build on the machines of CI, where a
# plain `torch` would bring gigabytes of CUDA. What pip is asked for, with its options; a > needs quotes of its own.
# On a cluster: make TORCH= VENV=… with an environment that has a torch already, or TORCH="torch --index-url …".
TORCH  ?= torch==2.13.0

BIN      := $(VENV)/bin
HEADRACE := $(BIN)/headrace
WORK     := work

.PHONY: train test test-full check clean

$(VENV)/installed: pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(if $(strip $(TORCH)),$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH))
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

train: $(VENV)/installed
	@test -e $(WORK)/code.index  || $(HEADRACE) data pack --builtin code  --out $(WORK)/code
	@test -e $(WORK)/prose.index || $(HEADRACE) data pack --builtin prose --out $(WORK)/prose
	@test -e $(WORK)/tokenizer.model || $(HEADRACE) tokenizer train $(WORK)/code.index $(WORK)/prose.index --out $(WORK)/tokenizer.model --vocabulary 8192 --sample-mib 4
	$(HEADRACE) train configs/first.yaml --processes 2

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

test-full: check
	$(BIN)/python -m pytest -m "full or not full" --junitxml=$(VENV)/test-full.xml
	$(BIN)/python -m tests.support.table $(VENV)/test-full.xml > docs/test-full.md

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
