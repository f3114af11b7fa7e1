"""Makes a process that a test starts record its exchanges with Google's APIs, for the referee.

Python runs this at every start with this directory on PYTHONPATH. Until the process makes its first
server, which most never do, nothing but a finder of modules is added. Processes of pytest have a
referee of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

_SERVERS = "aiohttp.web_app"


class _Finder:
    """Finds the module of aiohttp's servers, once."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, _: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _SERVERS or "pytest" in sys.modules:
            return None
        sys.meta_path.remove(cls)
        found = PathFinder.find_spec(name, path)
        if found is not None and found.origin is not None:
            found.loader = _Loader(name, found.origin)
        return found


class _Loader(SourceFileLoader):
    """Loads it."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _before_the_first(module.Application)


def _before_the_first(application: Any) -> None:
    """Begins with the first server: before that, modules that it takes may be half imported."""
    make = application.__init__

    def first(self: Any, **options: Any) -> None:
        application.__init__ = make
        _begin()
        application.__init__(self, **options)

    application.__init__ = first


def _begin() -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from support.records import VARIABLE, Records  # noqa: PLC0415  # see above
    from support.watch import servers_watched  # noqa: PLC0415

    until_the_end = contextlib.ExitStack()
    until_the_end.enter_context(servers_watched(Records(Path(os.environ[VARIABLE])).write))
    atexit.register(until_the_end.close)


sys.meta_path.insert(0, _Finder)
