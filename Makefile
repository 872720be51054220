# `make` lists what there is. Everything is installed into .venv, in the versions of constraints.txt.
#
#   make lab ARGS=--no-browser     arguments for JupyterLab
#   make test ARGS='-k browser'    arguments for pytest
#   make lab PYTHON=python3.12     another Python

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NBVAL = --nbval --nbval-current-env --nbval-cell-timeout=60 --nbval-sanitize-with=tests/nbval-sanitize.cfg

.DEFAULT_GOAL := help
.PHONY: help lab test cuda bench bench-cuda pics notebooks lock clean

help: ## list these
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stored drawings of a notebook show only if it is trusted: ours are, and no other that lies there. What
# JupyterLab does about news and its list of files stands in notebooks/.lab, not in the reader's home; the list leaves
# out the answers, which each lesson links.
lab: .venv/.lab ## open the course in JupyterLab
	@$(BIN)/python -I notebooks/trust.py
	$(BIN)/python -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. \
	    --LabApp.app_settings_dir='$(CURDIR)/notebooks/.lab' --LabApp.default_url=/lab/tree/notebooks/start.ipynb \
	    $(foreach name,solutions trust.py ours.sha256 __pycache__,--ContentsManager.hide_globs=$(name)) \
	    $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

# Three workers share two cores, since some of what they do is waiting: torch has one thread in each.
test: export OMP_NUM_THREADS = 1
test: .venv/.test ## check everything, as CI does
	@red=0; \
	$(BIN)/python -m ruff check . || red=1; \
	$(BIN)/python -m ruff format --check . || red=1; \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(NBVAL) tests notebooks src $(ARGS) || red=1; \
	exit $$red

# With the system's torch where there is one: a machine with a GPU has it, and perhaps no way to a registry.
cuda: ## run the GPU tests, and every notebook on the GPU
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then python=$(PYTHON); \
	else $(MAKE) --no-print-directory .venv/.test && python=$(BIN)/python || exit 1; fi; \
	export PYTHONPATH='$(CURDIR)/src'$${PYTHONPATH:+:$$PYTHONPATH}; $$python tests/cuda_ready.py || exit 1; red=0; \
	$$python -m pytest -m cuda --doctest-ignore-import-errors tests $(ARGS) || red=1; \
	$$python -m pytest $(NBVAL) notebooks $(ARGS) || red=1; \
	exit $$red

bench: .venv/.test ## measure, into benchmarks/ and its README's tables
	@test -d .venv/peers || $(BIN)/python -m pip install --quiet --no-deps --target .venv/peers fairscale==0.4.13 || \
	    echo "fairscale could not be installed: it does not take part"
	PYTHONPATH=.venv/peers $(BIN)/python benchmarks/bench.py $(ARGS)

bench-cuda: ## measure on a GPU, into benchmarks/results-cuda.json
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then python=$(PYTHON); \
	else $(MAKE) --no-print-directory .venv/.lab && python=$(BIN)/python || exit 1; fi; \
	PYTHONPATH='$(CURDIR)/src'$${PYTHONPATH:+:$$PYTHONPATH} $$python benchmarks/on_cuda.py $(ARGS)

pics: .venv/.lab ## draw the figures of the prose
	$(BIN)/python pics/draw.py

notebooks: .venv/.test ## run every notebook and store its outputs
	$(BIN)/python tests/notebook_tools.py

# torch pins its own CUDA packages; leaving them out lets a build for another CUDA, or for the CPU, take their place.
# jsonschema 4.25 brings a parser that takes 3 s to import, whenever JupyterLab starts and whenever a notebook is read.
lock: .venv/.test ## choose new versions for constraints.txt
	$(BIN)/python -m pip install --quiet uv
	printf 'hatchling\neditables\njsonschema<4.25\n' | $(BIN)/python -m uv pip compile pyproject.toml - --extra test \
	    --universal --python-version 3.10 --upgrade --no-annotate --custom-compile-command 'make lock' --quiet \
	    --output-file .venv/constraints.txt
	grep -vE '^(nvidia-|cuda-|triton)' .venv/constraints.txt >constraints.txt

clean: ## remove what the others made
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.lab: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "shardlab needs Python 3.10 or later; name one, as in: make lab PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "this Python cannot make a virtual environment (on Debian and Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@echo "setting up .venv; the first time takes some minutes, since PyTorch is large"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --editable .
	@touch $@

.venv/.test: .venv/.lab
	@$(INSTALL) --editable '.[test]'
	@touch $@
