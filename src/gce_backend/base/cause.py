"""Who or what makes the changes of the moment, so that history can tell.

Set around a job's run, an order or a command; whatever is started within inherits it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_CAUSE: ContextVar[str] = ContextVar("cause", default="")


@contextlib.contextmanager
def caused_by(cause: str) -> Iterator[None]:
    """Names the cause of all changes inside the block.

    Args:
        cause: e.g. `job fetch-instances` or `operator pause`.
    """
    token = _CAUSE.set(cause)
    try:
        yield
    finally:
        _CAUSE.reset(token)


def current_cause() -> str:
    """The cause of changes that are made now; "" when none is set."""
    return _CAUSE.get()
