#!/bin/sh
# Make .venv with the Python named, or else with the newest that the course runs on: sh tools/venv.sh [PYTHON]
set -eu

ours='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# Debian and Ubuntu ship a Python that cannot make environments until a package of its own is added.
# A name on PATH may also be a signpost (pyenv's) that leads nowhere: so every candidate is run.
usable="import ensurepip, venv; $ours"

works() { "$1" -c "$2" >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print(sys.version_info[:2])'; }

make_venv() {
  echo "Making .venv with $("$1" --version)."
  "$1" -m venv --clear .venv
}

if [ -n "${1:-}" ]; then
  if ! works "$1" "$usable"; then
    echo "PYTHON=$1 does not run, is not Python 3.11, 3.12 or 3.13, or lacks venv: name another, or leave PYTHON out and the newest is taken." >&2
    exit 1
  fi
  works .venv/bin/python "import pip; $ours" && [ "$(version .venv/bin/python)" = "$(version "$1")" ] && exit 0
  make_venv "$1"
  exit 0
fi

works .venv/bin/python "import pip; $ours" && exit 0  # what is installed is kept
for candidate in python3.13 python3.12 python3.11 python3 python; do
  if works "$candidate" "$usable"; then
    make_venv "$candidate"
    exit 0
  fi
done
if command -v uv >/dev/null 2>&1; then
  echo "No Python 3.11, 3.12 or 3.13 with venv is here: uv brings one."
  exec uv venv --clear --seed --python 3.13 .venv
fi
echo "The course needs Python 3.11, 3.12 or 3.13 with venv and found none: install one with 'sudo apt install python3-venv' (Debian, Ubuntu), 'sudo dnf install python3.13' (Fedora), 'brew install python@3.13' (macOS) or 'winget install Python.Python.3.13' (Windows), or install uv, which brings its own, and run make again." >&2
exit 1
