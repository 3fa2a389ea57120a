# The course in a few commands. `make` alone lists them.

# Empty: the newest of Python 3.11, 3.12 and 3.13 that is there.
PYTHON ?=
BIN    := .venv/bin
READY  := .venv/.ready
# Unit tests use one core each, so two files run at a time; notebooks and browsers, which are timed, one by one.
WORKERS ?= --numprocesses 2 --dist loadfile
TORCH  := torch==2.13.0
# Elsewhere than on Linux the ordinary build is a CPU build already.
CPU_INDEX := https://download.pytorch.org/whl/cpu

# Files are read as UTF-8 whatever the locale says, in kernels that JupyterLab starts, too.
export PYTHONUTF8 := 1
# Jupyter, Keras and Matplotlib keep things in the home folder; where none can be written, in this one.
ifneq ($(shell test -n "$$HOME" && test -w "$$HOME" && echo writable),writable)
export HOME := $(CURDIR)/.home
endif

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-fast mutants refresh exercises reset doctor lock

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the locked versions (a second call does nothing)

# The lock lists everything but PyTorch, so pip need not resolve anything, and whatever it downloads is compared
# with a hash. PyTorch's own CPU build can only be had from an index of its own; its dependencies are in the lock.
$(READY): requirements.lock
	@sh tools/venv.sh "$(PYTHON)"
	@echo "Installing the packages, then PyTorch: a few minutes, once."
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	@extra=; $(BIN)/python -c "import urllib.request as r; r.urlopen('$(CPU_INDEX)/', timeout=5)" 2>/dev/null \
	  && extra="--extra-index-url $(CPU_INDEX)" \
	  || echo "PyTorch's index of CPU builds is out of reach: taking the ordinary build (on Linux it can be large)."; \
	  $(BIN)/python -m pip install --quiet $$extra $(TORCH)
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
# The way from site-packages to this folder: Python before 3.13 reads such files in the locale's encoding, and
# fails over a folder that is named in another.
	@for file in .venv/lib/python3*/site-packages/*aigc_utils*.pth; do echo ../../../.. >"$$file"; done
	@$(BIN)/python -m aigc_utils.doctor
	@touch $(READY)

lab: setup ## open JupyterLab at the lesson to go on with, in work/, where nothing of yours is overwritten (CLASS=1: with nbgrader)
	@$(BIN)/python tools/lab.py $(if $(CLASS),--class) $(LAB_OPTIONS)

reset: setup ## restore one lesson in work/ and keep your copy beside it: make reset LESSON=01
	@$(BIN)/python tools/work.py --reset '$(LESSON)'

test: setup ## every test, every notebook cell, the linter and the type checker (one lesson: make test LESSON=05)
ifdef LESSON
	@files=$$($(BIN)/python tools/one_lesson.py '$(LESSON)') && set -x && $(BIN)/python -m pytest --nbval $$files
else
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(WORKERS) tests -m "not browser"
	$(BIN)/python -m pytest --nbval notebooks tests/notebooks $(wildcard tests/test_*browser.py)
endif

test-fast: setup ## the inner loop: linter, types and quick tests, no notebook runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q $(WORKERS) tests -m "not slow and not browser"

mutants: setup ## plant faults in the package, one at a time, and see the quick tests notice them
	$(BIN)/python tools/mutants.py $(MODULES)

refresh: setup ## re-execute notebooks and store their outputs (some: NOTEBOOKS="notebooks/01_attention.ipynb")
	$(BIN)/python tools/refresh.py $(NOTEBOOKS)
	$(BIN)/python tools/exercises.py
	$(BIN)/python tools/readme.py

exercises: setup ## make the exercise notebooks from the solutions
	$(BIN)/python tools/exercises.py

doctor: ## what is installed, what is wrong, how to mend it
	@test -x $(BIN)/python || { echo "Nothing is installed yet: run make setup."; exit 1; }
	@$(BIN)/python -m aigc_utils.doctor || { rm -f $(READY); exit 1; }

lock: ## renew requirements.lock with uv; LOCK_OPTIONS=--upgrade takes the newest versions
	@command -v uv >/dev/null || { echo "Renewing the lock takes uv: python -m pip install uv."; exit 1; }
	@uv pip compile pyproject.toml --all-extras --group model --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-emit-package torch --custom-compile-command "make lock" --quiet $(LOCK_OPTIONS) \
	  --output-file requirements.lock
