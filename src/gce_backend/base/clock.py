"""Time as a value that is passed in, so that tests and replays can turn it themselves."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

from gce_backend.base.ages import Ages


class Clock(ABC):
    """Two readings of time, and the one way to compare stored times with them.

    Sleeping is asyncio's: `asyncio.sleep`, `asyncio.timeout`.
    """

    def __init__(self) -> None:
        self._ages = Ages()
        # Wall-clock times at the monotonic moment 0: as first read here, and as the least told.
        self._begun: float | None = None
        self._told: float | None = None

    @abstractmethod
    def now(self) -> float:
        """Wall-clock time in seconds since the Unix epoch; may jump."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back. For every duration and deadline."""

    def stamp(self) -> float:
        """Wall-clock time to be stored, in Unix seconds.

        Its age is known from now on, even should the clock jump before anybody asks about it.
        """
        now = self.now()
        self.elapsed(now)
        return now

    def elapsed(self, since: float) -> float:
        """Seconds that have passed since a stored time: see `Ages.elapsed`.

        Args:
            since: Unix seconds.
        """
        return self._ages.elapsed(since, self.now(), self.monotonic())

    def earliest(self) -> float:
        """The wall-clock time without what the clock was set ahead since this was first called.

        Nobody can tell a clock that was put right from one that was put wrong. What must not happen
        too early goes by this one: no lease ends because a clock jumped, or was ahead from the
        beginning. Once somebody has said what time it is (`told`), a clock that was behind and is
        put right makes nothing late, either.

        Returns:
            Unix seconds, never later than `now()`.
        """
        now, moment = self.now(), self.monotonic()
        if self._begun is None:
            self._begun = now - moment
        return min(now, (self._begun if self._told is None else self._told) + moment)

    def told(self, now: float, asked: float) -> None:
        """A server whose clock is kept right has said what time it is.

        Args:
            now: Unix seconds.
            asked: when it was asked, in monotonic seconds: the answer may have been long under way.
        """
        self._told = now - asked if self._told is None else min(now - asked, self._told)

    def remaining(self, until: float, longest: float) -> float:
        """Seconds until a stored time that was planned: see `Ages.remaining`.

        Args:
            until: Unix seconds.
            longest: how far ahead it can have been planned, seconds.
        """
        return self._ages.remaining(until, longest, self.now(), self.monotonic())


class SystemClock(Clock):
    """The machine's clock; monotonic time is the running event loop's."""

    def now(self) -> float:
        """Wall-clock time in seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """The running event loop's time in seconds."""
        return asyncio.get_running_loop().time()
