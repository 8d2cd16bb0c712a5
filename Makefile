# One verb per task; CI runs the same verbs. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help install book test notebooks replicate mutants matrix bench zoo lab clean

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= default
SEEDS  ?= 20
VENDOR := book/assets/vendor/katex/katex.min.css book/assets/vendor/minisearch/minisearch.js
BIN    := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
# Tests and notebooks run side by side, one thread each; the results do not depend on it.
export OMP_NUM_THREADS ?= 1

# `make book TORCH=cpu` takes PyTorch's CPU build, much smaller than the default one on Linux.
TORCH_INDEX_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
INSTALL = python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX_$(TORCH))

help:  ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

install: $(VENV)/test.installed $(VENDOR)  ## install what `make test` needs, into VENV

book: $(VENV)/book.installed $(VENDOR)  ## build the website
	jupyter-book build book/ --config "$(CURDIR)/_config.yml" --toc "$(CURDIR)/_toc.yml" \
		--path-output "$(CURDIR)" -W -n --keep-going --quiet > /dev/null
	@echo _build/html/index.html

test: $(VENV)/test.installed $(VENDOR)  ## run every check: package, notebooks, prose, site
	python -m pytest -n 2 --cov --cov-report term:skip-covered --cov-fail-under 95

notebooks: $(VENV)/test.installed  ## run the notebooks again and store their outputs (NAMES="intro activations"; CHANGED=1: of edited cells only)
	python -m companion.claims.notebooks $(NAMES) $(if $(CHANGED),--changed)

replicate: $(VENV)/test.installed  ## run the book (or NAMES) on SEEDS other seeds and store what its claims measure
	python -m companion.claims.notebooks $(NAMES) --replicate $(SEEDS)

mutants: $(VENV)/test.installed  ## plant faults in modules (NAMES="dead_relu") and run their own tests
	python -m tests.mutate $(NAMES)

matrix: $(VENV)/test.installed  ## run the notebooks as other machines would, and with the newest Python, PyTorch, NumPy
	python -m tests.matrix $(NAMES)

bench: $(VENV)/test.installed  ## measure speed side by side, on an otherwise idle machine
	for script in $(filter-out %/zoo.py %/judge.py,$(wildcard benchmarks/*.py)); do \
		python $$script || exit 1; done

zoo: $(VENV)/zoo.installed  ## try the companion on models of torchvision, timm, transformers, diffusers (NAMES="bert gpt2")
	python benchmarks/zoo.py $(NAMES)

lab: $(VENV)/lab.installed  ## open the book in JupyterLab
	jupyter lab --notebook-dir book

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

$(VENV)/zoo.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[zoo]'
	touch $@

node_modules/.package-lock.json: package.json package-lock.json .npmrc | $(VENV)/book.installed
	npm ci --ignore-scripts --loglevel=error
	touch $@

book/assets/vendor/katex/katex.min.css: node_modules/.package-lock.json
	rm -rf $(@D)
	mkdir -p $(@D)/fonts
	cp node_modules/katex/dist/fonts/*.woff2 $(@D)/fonts
	cp node_modules/katex/dist/katex.min.css $@

book/assets/vendor/minisearch/minisearch.js: node_modules/.package-lock.json
	mkdir -p $(@D)
	cp node_modules/minisearch/dist/umd/index.js $@
