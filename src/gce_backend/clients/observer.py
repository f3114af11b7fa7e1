"""The observer of calls to services, and the one way in which transports notify it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Protocol


class CallObserver(Protocol):
    """Notified of every request that was sent."""

    def call(self, method: str, group: str | None, status: int | None, seconds: float) -> None:
        """Notes one request.

        Args:
            method: `service.resource.method`, one of a bounded number of constants.
            group: the quota group that it counts against; None where there is none.
            status: the answer's HTTP status; None when no answer came.
        """
        ...

    def retry(self, method: str) -> None:
        """Notes that a call failed transiently and is sent again."""
        ...


class Sending:
    """A request under way.

    Attributes:
        status: the answer's HTTP status; None until there is one.
    """

    def __init__(self) -> None:
        self.status: int | None = None


@contextlib.contextmanager
def observed(
    observer: CallObserver | None, method: str, group: str | None = None
) -> Iterator[Sending]:
    """Notifies the observer, if any, of the request that the block sends."""
    sending = Sending()
    clock = asyncio.get_running_loop().time
    begun = clock()
    try:
        yield sending
    finally:
        if observer is not None:
            observer.call(method, group, sending.status, clock() - begun)
