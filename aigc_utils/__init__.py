"""Shared code of the course: one module, one idea. Importing this package costs nothing.

Each module names the lesson that derives it; each lesson asserts that its derivation and the
module agree. Start with ``from aigc_utils import session`` in a notebook.
"""

__version__ = "1.0.0"
