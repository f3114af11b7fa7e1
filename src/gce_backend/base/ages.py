"""How old stored times are, by time that does not jump.

A stored time is read from the wall clock, which may be set ahead or back: by a process with another
clock, or while this one runs. So its age is read from the wall clock once, when this process first
asks about it, and grows from then on with monotonic time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gce_backend.base.dates import UnixSeconds

Elapsed: TypeAlias = Callable[[UnixSeconds], float]
"""How long ago a stored time is, in seconds; never negative."""

_Mark: TypeAlias = float | tuple[float, float]
"""A stored time, of which there are many; or one that was planned, with how far ahead."""

REMEMBERED_SECONDS = 3600.0
"""Seconds for which a time is remembered at least, after somebody last asked about it."""


class Ages:
    """Ages of stored times, for one process."""

    def __init__(self) -> None:
        self._recent: dict[_Mark, float] = {}
        self._older: dict[_Mark, float] = {}
        self._turned = float("-inf")

    def elapsed(self, since: UnixSeconds, now: UnixSeconds, moment: float) -> float:
        """Seconds that have passed since a stored time; never negative, never less than before.

        A time in the future is from before the clock was set back, or from another clock: nobody
        knows its age. It counts as new when it is first asked about, and ages from then on. So
        nothing is done too early on it, and nothing waits out the jump.

        Args:
            since: the stored time.
            now: the wall clock's time.
            moment: the monotonic time, seconds.
        """
        return moment - self._moment_of(since, now, moment, 0.0)

    def remaining(
        self, until: UnixSeconds, longest: float, now: UnixSeconds, moment: float
    ) -> float:
        """Seconds until a stored time that was planned; 0 when it has come.

        One further ahead than it can have been planned is from before the clock was set back: it
        counts as come.

        Args:
            until: the stored time.
            longest: how far ahead it can have been planned, seconds.
            now: the wall clock's time.
            moment: the monotonic time, seconds.
        """
        return max(0.0, self._moment_of(until, now, moment, longest) - moment)

    def _moment_of(self, stored: float, now: float, moment: float, longest: float) -> float:
        """The monotonic time of a stored time, `longest` seconds ahead at most."""
        if moment - self._turned >= REMEMBERED_SECONDS:
            self._recent, self._older, self._turned = {}, self._recent, moment
        mark: _Mark = (stored, longest) if longest else stored
        found = self._recent.get(mark)
        if found is None:
            ahead = stored - now
            found = self._older.get(mark, moment + (ahead if ahead <= longest else 0.0))
            self._recent[mark] = found
        return found
