"""A module that is imported when a test first uses it, not when tests are collected.

Use it for a library that takes seconds to import and that one folder of tests needs.
"""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """Stands for a module.

    Args:
        name: the module's full name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """What the module has by that name; pytest, which looks for its own marks, finds none."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
