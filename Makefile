# One verb per task; CI runs the same verbs. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help book test notebooks lab clean

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= default
BIN    := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

# `make book TORCH=cpu` takes PyTorch's CPU build, much smaller than the default one on Linux.
TORCH_INDEX_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
INSTALL = python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX_$(TORCH))

help:  ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

clean:  ## remove what was built, keep the environment
	rm -rf _build book/assets/vendor

# ---- what the verbs stand on -------------------------------------------------------------

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/book.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[book]'
	touch $@

$(VENV)/test.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[book,test]'
	touch $@

$(VENV)/lab.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[book,test,lab]'
	touch $@
