"""Open JupyterLab at the lesson to go on with: `python tools/lab.py`, or `make lab`.

It fills in ``work/``, says which checks have passed, and starts JupyterLab with the settings in
``tools/jupyter/``: nothing asks the network for news, and nbgrader's menus stay away unless
``--class`` wants them. A learner's own settings come before these. Whatever else is on the command
line goes to JupyterLab.
"""

import argparse
import os
import sys
from pathlib import Path

import work

from aigc_utils import progress

SETTINGS = Path(__file__).resolve().parent / "jupyter"


def config_path(for_class: bool) -> str:
    """Return JUPYTER_CONFIG_PATH: the course's settings before those that were there."""
    ours = [SETTINGS / "lab", *([] if for_class else [SETTINGS / "learner"])]
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    return os.pathsep.join([*map(str, ours), *([before] if before else [])])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="All other options are JupyterLab's own.",
        allow_abbrev=False,
    )
    parser.add_argument("--class", action="store_true", dest="for_class", help="with nbgrader")
    chosen, others = parser.parse_known_args()
    if failed := work.main([]):
        return failed
    number = progress.next_lesson()
    print(progress.report(), flush=True)
    (lesson,) = (path.name for path in progress.lessons() if path.name.startswith(f"{number}_"))
    os.environ["JUPYTER_CONFIG_PATH"] = config_path(chosen.for_class)
    os.chdir(work.ROOT)
    from jupyterlab.labapp import main as jupyter_lab

    sys.argv[1:] = [f"--LabApp.default_url=/lab/tree/work/{lesson}", *others]
    return jupyter_lab()


if __name__ == "__main__":
    sys.exit(main())
