"""The observer of calls to services, and the one way in which transports notify it."""

from __future__ import annotations

import asyncio
from typing import Protocol, Self


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
    """Notifies the observer, if any, of the request that the block sends.

    Args:
        method, group: see `CallObserver.call`.

    Attributes:
        status: the answer's HTTP status; None until there is one.
    """

    def __init__(
        self, observer: CallObserver | None, method: str, group: str | None = None
    ) -> None:
        self.status: int | None = None
        self._observer = observer
        self._method = method
        self._group = group
        self._clock = asyncio.get_running_loop().time
        self._begun = self._clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._observer is not None:
            seconds = self._clock() - self._begun
            self._observer.call(self._method, self._group, self.status, seconds)
