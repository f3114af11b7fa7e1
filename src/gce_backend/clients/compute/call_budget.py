"""Limits of calls: how many a minute in each quota of Compute's, and which call comes first.

Google counts in windows of a minute that begin when it likes. Staying below the limit in every
possible 60 seconds keeps it in Google's too.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import floor
from typing import Final, NamedTuple

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import RateLimitedError

_WINDOW_SECONDS: Final = 60
_SHORTEST_SLEEP: Final = 0.001


class QuotaGroup(enum.StrEnum):
    """The method groups that Compute counts apart, per project, region and minute."""

    READ = "read"  # get of resources
    LIST = "list"  # list of one collection
    HEAVY_READ = "heavy_read"  # aggregatedList, and wait on operations
    MUTATE = "mutate"  # mutations, and the listing of managed instances
    OPERATION_GET = "operation_get"  # get of operations


class Priority(enum.IntEnum):
    """What a call is for, the most urgent first."""

    FREE = 0  # ends what costs money, and what must be known just before that
    GROW = 1  # makes what the fleet lacks
    METADATA = 2  # tells machines what they are for
    LOOK = 3  # finds out how things are


_FLOORS: Final[Mapping[QuotaGroup, Sequence[float]]] = {
    QuotaGroup.READ: (0.1, 0.05, 0.0, 0.1),
    QuotaGroup.MUTATE: (0.1, 0.05, 0.1, 0.1),
}
"""The part of a minute's calls that each priority has for itself, where several share a quota."""
_NO_FLOORS: Final = (0.0,) * len(Priority)


class Quota(NamedTuple):
    """What Compute counts together.

    Attributes:
        project: the project that is charged.
        group: the method group.
        region: the region of what is called; "" for what is in none.
    """

    project: str
    group: QuotaGroup
    region: str = ""


class Usage(NamedTuple):
    """A part of the call budget.

    Attributes:
        project: the project that is charged.
        region: the region; "" for calls to what is in none.
        group: the quota group, e.g. `read`.
        limit: calls allowed in any 60 seconds.
        used: calls sent in the last 60 seconds.
        left: calls that may be sent at once; 0 during a pause.
        waiting: callers that wait for their turn.
        paused_seconds: how long the group still pauses, because Compute asked for it.
    """

    project: str
    region: str
    group: str
    limit: int
    used: int
    left: int
    waiting: int
    paused_seconds: float


class Room(NamedTuple):
    """How much of a quota calls of a priority may use.

    Attributes:
        calls: how many may be sent at once.
        wait: seconds until one may be sent.
    """

    calls: int
    wait: float


class _Lane:
    """One quota: what was sent lately, counted by whole seconds and by priority.

    A second's counts are kept until its last moment is 60 s ago, so that no 60 s hold more than the
    limit; memory is a few numbers per second, whatever the limit.
    """

    def __init__(self, limit: int, floors: Sequence[float]) -> None:
        self.limit = limit
        self.paused_until = float("-inf")
        self.turns = tuple(asyncio.Lock() for _ in Priority)  # their waiters are served in order
        self.waiting = [0 for _ in Priority]
        self._floors = tuple(floor(limit * part) for part in floors)
        self._sent: deque[tuple[int, list[int]]] = deque()  # (second, calls), oldest first
        self._used = [0 for _ in Priority]

    @property
    def sent(self) -> int:
        """Calls in the last 60 seconds, as of the last look at what is free."""
        return sum(self._used)

    def _room(self, used: Sequence[int], priority: Priority) -> int:
        """Calls of a priority that fit in when so many of each were sent.

        What others have not used of their floors stays theirs.
        """
        kept = sum(
            max(0, least - sent)
            for other, (least, sent) in enumerate(zip(self._floors, used, strict=True))
            if other != priority
        )
        return self.limit - sum(used) - kept

    def _forget(self, now: UnixSeconds) -> None:
        while self._sent and self._sent[0][0] + 1 + _WINDOW_SECONDS <= now:
            for priority, calls in enumerate(self._sent.popleft()[1]):
                self._used[priority] -= calls

    def free(self, now: UnixSeconds, priority: Priority) -> int:
        """How many calls of a priority may be sent at `now`."""
        self._forget(now)
        return 0 if now < self.paused_until else max(0, self._room(self._used, priority))

    def left(self, now: UnixSeconds) -> int:
        """How many calls may be sent at `now`, all priorities together."""
        self._forget(now)
        return 0 if now < self.paused_until else self.limit - self.sent

    def is_next(self, now: UnixSeconds, priority: Priority) -> bool:
        """Whether a call may be sent now, and no more urgent one waits that may, too."""
        more_urgent = (other for other in Priority if other < priority and self.waiting[other])
        return self.free(now, priority) > 0 and not any(self.free(now, it) for it in more_urgent)

    def send(self, now: UnixSeconds, priority: Priority) -> None:
        """Counts a call sent at `now`."""
        second = floor(now)
        if not self._sent or self._sent[-1][0] != second:
            self._sent.append((second, [0 for _ in Priority]))
        self._sent[-1][1][priority] += 1
        self._used[priority] += 1

    def wait(self, now: UnixSeconds, priority: Priority, place: int) -> float:
        """Seconds until the `place`-th call from now (counted from 1) may be sent."""
        self._forget(now)
        pause = max(self.paused_until - now, 0.0)
        used = list(self._used)
        if self._room(used, priority) >= place:
            return pause
        windows, place = divmod(place - 1, self._room([0 for _ in Priority], priority))
        behind = windows * (_WINDOW_SECONDS + 1.0)
        for second, calls in self._sent:
            used = [one - gone for one, gone in zip(used, calls, strict=True)]
            if self._room(used, priority) > place:
                return max(second + 1 + _WINDOW_SECONDS - now + behind, pause)
        return max(behind + _WINDOW_SECONDS + 1, pause)


class CallBudget:
    """Calls per minute in each quota: the most urgent first, and of those the first that came.

    Each priority has a floor, which the others leave to it: what is urgent finds room although
    small calls by the thousand wait, and what is not urgent goes on slowly behind what is.

    Args:
        clock: its monotonic time is used.
        per_minute: calls allowed in any 60 seconds, in each project and region.
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
        self._lanes: dict[Quota, _Lane] = {}

    async def acquire(
        self,
        quota: Quota,
        priority: Priority = Priority.FREE,
        *,
        max_wait: float | None = None,
    ) -> None:
        """Returns when one call may be sent, which is then counted as sent.

        Cancelled, it counts nothing.

        Args:
            quota: what is charged.
            priority: what the call is for.
            max_wait: seconds to wait at most; None for this budget's own.

        Raises:
            RateLimitedError: the turn would come only after `max_wait`; `retry_after` says when.
        """
        patience = self._max_wait if max_wait is None else max_wait
        lane = self._lane(quota)
        now = self._clock.monotonic()
        if not lane.waiting[priority] and lane.is_next(now, priority):
            lane.send(now, priority)
            return
        if (wait := lane.wait(now, priority, lane.waiting[priority] + 1)) > patience:
            raise self._exceeded(quota, wait)
        lane.waiting[priority] += 1
        try:
            async with asyncio.timeout(patience), lane.turns[priority]:
                # Nothing signals that time has passed, and a pause may come meanwhile.
                while not lane.is_next(now := self._clock.monotonic(), priority):  # noqa: ASYNC110
                    await asyncio.sleep(max(lane.wait(now, priority, 1), _SHORTEST_SLEEP))
                lane.send(now, priority)
                return
        except TimeoutError:
            pass  # a pause came while waiting, or more urgent calls did
        finally:
            lane.waiting[priority] -= 1
        place = lane.waiting[priority] + 1
        raise self._exceeded(quota, lane.wait(self._clock.monotonic(), priority, place))

    def pause(self, quota: Quota, until: float) -> None:
        """Sends nothing in this quota before `until`, in the clock's monotonic seconds."""
        lane = self._lane(quota)
        lane.paused_until = max(lane.paused_until, until)

    def remaining(self, quota: Quota) -> int:
        """How many calls could be sent at this moment."""
        return self._lane(quota).left(self._clock.monotonic())

    def room(self, quota: Quota, priority: Priority) -> Room:
        """How much calls of a priority may use now, behind those that wait."""
        lane, now = self._lane(quota), self._clock.monotonic()
        ahead = lane.waiting[priority]
        return Room(max(0, lane.free(now, priority) - ahead), lane.wait(now, priority, ahead + 1))

    def usage(self) -> Iterator[Usage]:
        """How much of the budget is used at this moment, of all quotas used so far."""
        now = self._clock.monotonic()
        for quota, lane in tuple(self._lanes.items()):
            left = lane.left(now)
            paused = max(lane.paused_until - now, 0.0)
            yield Usage(
                quota.project,
                quota.region,
                quota.group.value,
                lane.limit,
                lane.sent,
                left,
                sum(lane.waiting),
                paused,
            )

    def _lane(self, quota: Quota) -> _Lane:
        lane = self._lanes.get(quota)
        if lane is None:
            floors = _FLOORS.get(quota.group, _NO_FLOORS)
            lane = self._lanes[quota] = _Lane(self._per_minute[quota.group], floors)
        return lane

    @staticmethod
    def _exceeded(quota: Quota, wait: float) -> RateLimitedError:
        where = f" in {quota.region}" if quota.region else ""
        return RateLimitedError(
            f"compute.{quota.group.value}",
            f"the call budget of project {quota.project}{where} is used up for {wait:.0f} s",
            reason="callBudget",
            retry_after=wait,
        )
