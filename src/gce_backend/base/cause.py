"""What makes the changes of the moment, and who ordered it, so that history can tell.

Set around a job's run, an order or a command; whatever is started within inherits it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_CAUSE: ContextVar[tuple[str, str]] = ContextVar("cause", default=("", ""))


@contextlib.contextmanager
def caused_by(cause: str, who: str = "") -> Iterator[None]:
    """Names the cause of all changes inside the block.

    Args:
        cause: e.g. `job fetch-instances` or `operator pause`.
        who: the person or account that ordered it; "" for nobody.
    """
    token = _CAUSE.set((cause, who))
    try:
        yield
    finally:
        _CAUSE.reset(token)


def current_cause() -> tuple[str, str]:
    """The cause of changes that are made now, and who ordered it; "" for what is not set."""
    return _CAUSE.get()
