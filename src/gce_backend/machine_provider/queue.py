"""Which waiting request gets which machines, and why the others wait: pure decisions.

The rules, in the order in which they apply:

1. A request of a higher priority comes first.
2. Within a priority, requests that have waited for `PATIENCE_SECONDS` come first, oldest first, so
   that nobody waits forever.
3. Then fairness: the group that holds the fewest machines for its share; within it the user who
   holds the fewest; of that user the oldest request.
4. A group at its limit is skipped until it releases something.
5. A request for several machines is filled as a whole. While it waits at the front, the free
   machines that fit are kept for it, provided that the catalog has as many as it needs.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.plurals import plural
from gce_backend.machine_provider.access.policy import LeaseLimits
from gce_backend.machine_provider.wire import Dimensions

PATIENCE_SECONDS = 900.0
"""Seconds after which a request no longer waits for the sake of fairness."""


class Asked(msgspec.Struct, frozen=True):
    """A waiting request.

    Attributes:
        name: unique.
        user: the requester.
        group: the group whose limits count.
        created: when it was made.
        dimensions: the dimensions that the machines must have.
        count: how many machines.
    """

    name: str
    user: str
    group: str
    created: UnixSeconds
    dimensions: Dimensions
    count: int = 1


Free = Mapping[Dimensions, Collection[str]]
"""The free machines: for each kind, as `kind_of` makes it, the names of its machines
(`BACKEND:HOSTNAME`), in the order in which they are granted."""


class Held(msgspec.Struct):
    """What is leased now.

    Attributes:
        machines: how many each user of a group holds, by group and user.
        leases: how many leases each group holds.
        investigated: how many machines each group holds so that a failure can be investigated.
    """

    machines: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    leases: Counter[str] = msgspec.field(default_factory=Counter)
    investigated: Counter[str] = msgspec.field(default_factory=Counter)

    def machines_of(self, group: str) -> int:
        """How many machines a group holds."""
        return sum(count for (name, _), count in self.machines.items() if name == group)


class Hindrance(NamedTuple):
    """Why a request waits.

    Attributes:
        limit: the limit that its group has reached; "" when there is none.
        kept: free machines that fit and are kept for requests ahead of it.
        free: free machines that fit and that it could have.
    """

    limit: str = ""
    kept: int = 0
    free: int = 0


class Allotment(NamedTuple):
    """What the queue decides.

    Attributes:
        grants: the machines that each request gets, by request name, in order.
        waiting: the other requests in order, each with what it waits for.
    """

    grants: Mapping[str, Sequence[str]]
    waiting: Mapping[str, Hindrance]


def allot(
    asked: Iterable[Asked],
    offered: Free,
    held: Held,
    *,
    limits_of: Callable[[str], LeaseLimits],
    total: Callable[[Dimensions], int],
    now: UnixSeconds,
) -> Allotment:
    """Decides who gets what.

    Args:
        asked: the waiting requests, in any order.
        offered: the free machines.
        held: what is leased now.
        limits_of: returns the limits of a group.
        total: returns how many machines in the catalog fit, leased ones included.
        now: the moment.
    """
    table = _Table(offered)
    machines, leases = Counter(held.machines), Counter(held.leases)
    by_group: Counter[str] = Counter()
    for (group, _), count in machines.items():
        by_group[group] += count
    grants: dict[str, Sequence[str]] = {}
    waiting: dict[str, Hindrance] = {}
    for request in _in_order(asked, machines, by_group, limits_of, now):
        limits = limits_of(request.group)
        hindrance = limit_of(limits, by_group[request.group], leases[request.group], request.count)
        if hindrance:
            waiting[request.name] = Hindrance(limit=hindrance)
            continue
        found = table.take(request.dimensions, request.count)
        if found is not None:
            grants[request.name] = found
            machines[request.group, request.user] += request.count
            by_group[request.group] += request.count
            leases[request.group] += 1
            continue
        waiting[request.name] = Hindrance(
            free=table.free(request.dimensions), kept=table.kept(request.dimensions)
        )
        if request.count > 1 and total(request.dimensions) >= request.count:
            table.keep(request.dimensions, request.count)
    return Allotment(grants, waiting)


def limit_of(limits: LeaseLimits, machines: int, leases: int, count: int) -> str:
    """Which limit a group would pass with one more lease; "" when it would pass none.

    Args:
        limits: the limits of the group.
        machines: how many it holds.
        leases: how many it holds.
        count: the machines of the lease.
    """
    if limits.max_leases is not None and leases + 1 > limits.max_leases:
        return f"its group holds {leases} of at most {plural(limits.max_leases, 'lease')}"
    if limits.max_machines is not None and machines + count > limits.max_machines:
        return f"its group holds {machines} of at most {plural(limits.max_machines, 'machine')}"
    return ""


def _in_order(
    asked: Iterable[Asked],
    machines: Mapping[tuple[str, str], int],
    by_group: Mapping[str, int],
    limits_of: Callable[[str], LeaseLimits],
    now: UnixSeconds,
) -> Iterator[Asked]:
    """The requests in order; each grant counts for the requests that follow."""
    classes: dict[int, list[Asked]] = {}
    for request in asked:
        classes.setdefault(limits_of(request.group).priority, []).append(request)
    for priority in sorted(classes, reverse=True):
        members = sorted(classes[priority], key=lambda request: (request.created, request.name))
        yield from (r for r in members if now - r.created >= PATIENCE_SECONDS)
        young = [r for r in members if now - r.created < PATIENCE_SECONDS]
        yield from _fairly(young, machines, by_group, limits_of)


def _fairly(
    requests: Sequence[Asked],
    machines: Mapping[tuple[str, str], int],
    by_group: Mapping[str, int],
    limits_of: Callable[[str], LeaseLimits],
) -> Iterator[Asked]:
    """The requests of one priority: the group and the user that hold the least come first.

    A group's turn comes again with what it holds by then, so a heap entry that is out of date is
    put back with its present weight.
    """
    own: dict[tuple[str, str], list[Asked]] = {}
    for request in reversed(requests):  # so that the oldest is popped first
        own.setdefault((request.group, request.user), []).append(request)
    users: dict[str, list[str]] = {}
    for group, user in own:
        users.setdefault(group, []).append(user)

    def weight(group: str) -> tuple[float, UnixSeconds, str]:
        oldest = min(own[group, user][-1].created for user in users[group])
        return by_group.get(group, 0) / limits_of(group).share, oldest, group

    heap = [weight(group) for group in users]
    heapq.heapify(heap)
    while heap:
        entry = heapq.heappop(heap)
        group = entry[2]
        present = weight(group)
        if present > entry:
            heapq.heappush(heap, present)
            continue
        user = min(
            users[group],
            key=lambda name: (machines.get((group, name), 0), own[group, name][-1].created, name),
        )
        yield own[group, user].pop()
        if not own[group, user]:
            users[group].remove(user)
        if users[group]:
            heapq.heappush(heap, weight(group))


class _Table:
    """The free machines by kind: what is asked for is compared with kinds, not with machines."""

    def __init__(self, offered: Free) -> None:
        self._offered = offered
        self._gone: set[str] = set()
        self._kept: set[str] = set()
        self._kinds: dict[Dimensions, list[Dimensions]] = {}
        self._names: dict[Dimensions, list[str]] = {}  # those looked at, in order
        self._rest: dict[Dimensions, Iterator[str]] = {}
        self._begin: dict[Dimensions, int] = {}

    def take(self, dimensions: Dimensions, count: int) -> Sequence[str] | None:
        """Takes `count` free machines that fit; returns None when there are not enough."""
        found = []
        for name in self._fitting(dimensions):
            if name not in self._kept:
                found.append(name)
                if len(found) == count:
                    self._gone.update(found)
                    return found
        return None

    def keep(self, dimensions: Dimensions, count: int) -> None:
        """Reserves the free machines that fit, as many as needed; later requests skip them."""
        free = [name for name in self._fitting(dimensions) if name not in self._kept]
        self._kept.update(free[:count])

    def free(self, dimensions: Dimensions) -> int:
        """How many fit and are not kept."""
        return sum(name not in self._kept for name in self._fitting(dimensions))

    def kept(self, dimensions: Dimensions) -> int:
        """How many fit and are kept for others."""
        return sum(name in self._kept for name in self._fitting(dimensions))

    def _fitting(self, dimensions: Dimensions) -> Iterator[str]:
        """The free machines that fit, kind by kind."""
        wanted = kind_of(dimensions)
        kinds = self._kinds.get(wanted)
        if kinds is None:
            kinds = [kind for kind in self._offered if matches(wanted, kind)]
            self._kinds[wanted] = kinds
        for kind in kinds:
            if kind not in self._names:
                self._names[kind], self._rest[kind] = [], iter(self._offered[kind])
                self._begin[kind] = 0
            names = self._names[kind]
            while self._begin[kind] < len(names) and names[self._begin[kind]] in self._gone:
                self._begin[kind] += 1
            for place in itertools.count(self._begin[kind]):
                if place == len(names):
                    more = next(self._rest[kind], None)
                    if more is None:
                        break
                    names.append(more)
                name = names[place]
                is_named = dimensions.hostname in {None, name.partition(":")[2]}
                if is_named and name not in self._gone:
                    yield name


def matches(asked: Dimensions, machine: Dimensions) -> bool:
    """Whether a machine has every requested dimension; it may have more labels."""
    return not differences(asked, machine)


def differences(asked: Dimensions, machine: Dimensions) -> list[str]:
    """The dimensions of a machine that do not match the request."""
    found = []
    for field in Dimensions.__struct_fields__:
        wanted, given = getattr(asked, field), getattr(machine, field)
        if wanted is None or wanted == ():
            continue
        fits = set(wanted) <= set(given) if isinstance(wanted, tuple) else wanted == given
        if not fits:
            found.append(field)
    return found


class Nearest(NamedTuple):
    """The kind of machine that is nearest to an unsatisfiable request.

    Attributes:
        dimensions: its dimensions, without the host name.
        differs: the dimensions that do not match the request.
    """

    dimensions: Dimensions
    differs: Sequence[str]


def nearest(asked: Dimensions, kinds: Iterable[Dimensions]) -> Nearest | None:
    """The kind that differs in the fewest dimensions; None when there is no kind at all."""
    best: Nearest | None = None
    for kind in kinds:
        differs = differences(asked, kind)
        if best is None or len(differs) < len(best.differs):
            best = Nearest(kind, differs)
    return best


def kind_of(dimensions: Dimensions) -> Dimensions:
    """The kind of a machine: all its dimensions except the host name."""
    return msgspec.structs.replace(dimensions, hostname=None)
