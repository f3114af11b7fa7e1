"""Limits of calls: how many a minute in each quota group of a project.

Google counts in windows of a minute that begin when it likes. Staying below the limit in every
possible 60 seconds keeps it in Google's too.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterator, Mapping
from math import floor
from typing import NamedTuple

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import RateLimitedError

_WINDOW_SECONDS = 60
_SPARED_PART = 10
"""One call in this many is kept for what is urgent."""


class QuotaGroup(enum.StrEnum):
    """The method groups that Compute counts apart, per project and minute."""

    READ = "read"  # get, list and aggregatedList of resources
    MUTATE = "mutate"  # mutations, and the listing of managed instances
    OPERATION_GET = "operation_get"  # get of operations
    OPERATION_WAIT = "operation_wait"  # wait on operations


class Usage(NamedTuple):
    """A part of the call budget.

    Attributes:
        project: the project that is charged.
        group: the quota group, e.g. `read`.
        limit: calls allowed in any 60 seconds.
        used: calls sent in the last 60 seconds.
        left: calls that may be sent at once; 0 during a pause.
        waiting: callers that wait for their turn.
        paused_seconds: how long the group still pauses, because Compute asked for it.
    """

    project: str
    group: str
    limit: int
    used: int
    left: int
    waiting: int
    paused_seconds: float


class _Lane:
    """One group of one project: what was sent lately, counted by whole seconds.

    A second's count is kept until its last moment is 60 s ago, so that no 60 s hold more than the
    limit; memory is one number per second, whatever the limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.paused_until = float("-inf")
        self.turn = asyncio.Lock()  # its waiters are served in order
        self.waiting = 0
        self._sent: deque[tuple[int, int]] = deque()  # (second, calls), oldest first
        self._total = 0

    @property
    def sent(self) -> int:
        """Calls in the last 60 seconds, as of the last look at what is free."""
        return self._total

    def free(self, now: UnixSeconds) -> int:
        """How many calls may be sent at `now`."""
        while self._sent and self._sent[0][0] + 1 + _WINDOW_SECONDS <= now:
            self._total -= self._sent.popleft()[1]
        return 0 if now < self.paused_until else self.limit - self._total

    def send(self, now: UnixSeconds) -> None:
        """Counts a call sent at `now`."""
        second = floor(now)
        if self._sent and self._sent[-1][0] == second:
            self._sent[-1] = (second, self._sent[-1][1] + 1)
        else:
            self._sent.append((second, 1))
        self._total += 1

    def wait(self, now: UnixSeconds, place: int) -> float:
        """Seconds until the `place`-th call from now (counted from 1) may be sent."""
        self.free(now)  # forgets what has left the window
        pause = max(self.paused_until - now, 0.0)
        missing = place - (self.limit - self._total)
        if missing <= 0:
            return pause
        windows, missing = divmod(missing - 1, self.limit)
        for second, calls in self._sent:
            missing -= calls
            if missing < 0:
                leaves = second + 1 + _WINDOW_SECONDS - now
                return max(leaves + windows * (_WINDOW_SECONDS + 1), pause)
        return max((windows + 1.0) * (_WINDOW_SECONDS + 1), pause)


class CallBudget:
    """Calls per minute for each (project, quota group); callers wait their turn, first come first.

    Args:
        clock: its monotonic time is used.
        per_minute: calls allowed in any 60 seconds, in each project.
        max_wait: seconds that a caller waits at most.

    Raises:
        ValueError: a limit is below 1.
    """

    def __init__(
        self, clock: Clock, per_minute: Mapping[QuotaGroup, int], *, max_wait: float = 20.0
    ) -> None:
        if min(per_minute.values()) < 1:
            raise ValueError("a call budget must be at least 1 per minute")
        self._clock = clock
        self._per_minute = dict(per_minute)
        self._max_wait = max_wait
        self._lanes: dict[tuple[str, QuotaGroup], _Lane] = {}

    async def acquire(
        self,
        project: str,
        group: QuotaGroup,
        *,
        max_wait: float | None = None,
        urgent: bool = True,
    ) -> None:
        """Returns when one call may be sent, which is then counted as sent.

        Cancelled, it counts nothing.

        Args:
            project: the project that is charged.
            group: the quota group.
            max_wait: seconds to wait at most; None for this budget's own.
            urgent: whether it may use the last tenth of the budget, and pass those that may not:
                a thousand small calls must not keep the few that the fleet depends on waiting.

        Raises:
            RateLimitedError: the turn would come only after `max_wait`; `retry_after` says when.
        """
        patience = self._max_wait if max_wait is None else max_wait
        lane = self._lane(project, group)
        spared = 0 if urgent else lane.limit // _SPARED_PART
        now = self._clock.monotonic()
        if (urgent or not lane.waiting) and lane.free(now) > spared:
            lane.send(now)
            return
        if (wait := lane.wait(now, lane.waiting + 1 + spared)) > patience:
            raise self._exceeded(project, group, wait)
        lane.waiting += 1
        try:
            async with asyncio.timeout(patience), lane.turn:
                # Nothing signals that time has passed, and a pause may come meanwhile.
                while lane.free(now := self._clock.monotonic()) <= spared:  # noqa: ASYNC110
                    await asyncio.sleep(lane.wait(now, 1 + spared))
                lane.send(now)
                return
        except TimeoutError:
            pass  # a pause came while waiting
        finally:
            lane.waiting -= 1
        raise self._exceeded(project, group, lane.wait(self._clock.monotonic(), lane.waiting + 1))

    def pause(self, project: str, group: QuotaGroup, until: float) -> None:
        """Sends nothing in this group before `until`, in the clock's monotonic seconds."""
        lane = self._lane(project, group)
        lane.paused_until = max(lane.paused_until, until)

    def remaining(self, project: str, group: QuotaGroup) -> int:
        """How many calls could be sent at this moment."""
        return max(self._lane(project, group).free(self._clock.monotonic()), 0)

    def usage(self) -> Iterator[Usage]:
        """How much of the budget is used at this moment, of all lanes used so far."""
        now = self._clock.monotonic()
        for (project, group), lane in tuple(self._lanes.items()):
            left = self.remaining(project, group)
            paused = max(lane.paused_until - now, 0.0)
            yield Usage(project, group.value, lane.limit, lane.sent, left, lane.waiting, paused)

    def _lane(self, project: str, group: QuotaGroup) -> _Lane:
        lane = self._lanes.get((project, group))
        if lane is None:
            lane = self._lanes[project, group] = _Lane(self._per_minute[group])
        return lane

    @staticmethod
    def _exceeded(project: str, group: QuotaGroup, wait: float) -> RateLimitedError:
        return RateLimitedError(
            f"compute.{group.value}",
            f"the call budget of project {project} is used up for {wait:.0f} s",
            reason="callBudget",
            retry_after=wait,
        )
