# The two commands of the README, and what they are made of.
#   make train        install, pack real text, train a tokenizer, pretrain on seven objectives, print a table
#   make test         ruff, mypy, the suite with a pairwise cover of the large matrices, in two processes
#   make test-faults  kill -9, signals, two writers, broken disks and damaged files under whole runs
#   make test-full    every cell of the matrices and every fault; writes their table, docs/test-full.md
# CI runs make test and make test-faults (.ci/run).

# A Python that is named has an environment of its own: make test PYTHON=python3.13 makes .venv-3.13.
PYTHON ?= python3
ifndef VENV
version = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV   := .venv$(if $(filter-out file,$(origin PYTHON)),-$(version))
endif
# The one place that sets up a machine without a GPU: this release has a CPU build on the machines of CI. Where pip
# finds none for this Python it brings the one for CUDA, which works without a GPU as well and takes 6 GB.
# What pip is asked for, with its options; a > needs quotes of its own.
# On a cluster: make TORCH= VENV=… with an environment that has a torch already, or TORCH="torch --index-url …".
TORCH  ?= torch==2.13.0

BIN      := $(VENV)/bin
HEADRACE := $(BIN)/headrace
WORK     := work

.PHONY: train test test-faults test-full check clean

$(VENV)/installed: pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "PYTHON=$(PYTHON): headrace needs Python 3.11 or newer, this is %d.%d" % sys.version_info[:2])'
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

# Two processes for two cores: half of the suite's time is spent waiting for processes that it starts. A file stays in
# one of them, since its tests share what is made once.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

# One after the other: they kill at moments that they choose.
test-faults: $(VENV)/installed
	$(BIN)/python -m pytest -m "faults and not full"

test-full: check
	$(BIN)/python -m pytest -m "full or not full" --junitxml=$(VENV)/test-full.xml
	$(BIN)/python -m tests.support.table $(VENV)/test-full.xml > docs/test-full.md

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
