"""All machines with their states, counted and in order, without holding up the event loop.

A look at every machine takes a time that grows with the fleet: only groups are looked at in
which something has changed since the last look. All who ask at the same time share one look, which
lets other tasks run in between. It stays valid for a multiple of the time that it took, so it never
uses more than a small part of the process's time.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey, MachineKey
from gce_backend.model.observed import Member
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.states import MachineFacts, State, explain, is_useful
from gce_backend.web.survey import states

SLICE = 500
"""Machines and groups in one slice of a look."""
GOOD_FOR = 20.0
"""A survey stays valid for this many times the seconds that it took."""


class SurveyedMachine(NamedTuple):
    """A machine at the time of the survey."""

    key: MachineKey
    state: State

    @property
    def zone(self) -> str:
        """The machine's zone."""
        return self.key.zone

    @property
    def place(self) -> tuple[str, ...]:
        """The order of machines: by template, revision, zone, name."""
        return tuple(name for _, name in self.key.path)


class Survey(NamedTuple):
    """All machines at one time.

    Attributes:
        machines: ordered by template, revision, zone, and name.
        counts: how many, by template, zone and state; tombstones are not counted.
        by_group: the same, by group.
        useful: how many are leased or can be leased, by template and zone, over all revisions.
        missing: machines that their group no longer lists, and since when (Unix seconds).
        stopped: those whose VM does not run, and since when, but for cordoned ones.
        unknown: machines that the catalog should hold and does not, and since when.
        cordoned: those that an operator cordoned, and since when.
    """

    machines: tuple[SurveyedMachine, ...]
    counts: Mapping[tuple[str, str], Counter[State]]
    by_group: Mapping[GroupKey, Counter[State]]
    useful: Mapping[tuple[str, str], int]
    missing: tuple[tuple[MachineKey, float], ...]
    stopped: tuple[tuple[MachineKey, float], ...]
    unknown: tuple[tuple[MachineKey, float], ...]
    cordoned: tuple[tuple[MachineKey, float], ...]


class Census:
    """Surveys the fleet on request.

    Args:
        context: the picture of the fleet.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turn = asyncio.Lock()
        self._last: Survey | None = None
        self._good_until = float("-inf")
        self._groups: dict[GroupKey, _Counted] = {}

    async def survey(self) -> Survey:
        """The machines as they are now, or were a moment ago."""
        clock = self._context.clock
        async with self._turn:
            if self._last is None or clock.monotonic() >= self._good_until:
                self._last, took = await self._look()
                self._good_until = clock.monotonic() + GOOD_FOR * took
            return self._last

    async def _look(self) -> tuple[Survey, float]:
        """A survey, and the seconds for which it held the event loop."""
        fleet, monotonic = self._context.fleet, self._context.clock.monotonic
        known, self._groups = self._groups, {}
        took, since, looked = 0.0, monotonic(), 0
        for manager in sorted(fleet.managers, key=_path):
            found = known.get(manager)
            place = self._place(manager)
            if found is None or not found.holds(place, self._context.clock.now()):
                found = self._count(manager, place)
                looked += len(found.machines)
            self._groups[manager] = found
            looked += 1
            if looked >= SLICE:
                took, looked = took + monotonic() - since, 0
                await asyncio.sleep(0)
                since = monotonic()
        survey = _joined(self._groups)
        return survey, took + monotonic() - since

    def _place(self, manager: GroupKey) -> _Basis:
        """What the states of a group's machines follow from, besides the time."""
        fleet, group = self._context.fleet, self._context.memory.seen.groups.get(manager)
        return _Basis(
            changes=fleet.changes(manager),
            members=group.members if group is not None else _NOBODY,
            active=fleet.is_active(manager),
            listed=states.is_listed(self._context, manager),
        )

    def _count(self, manager: GroupKey, basis: _Basis) -> _Counted:
        """Looks at each machine of a group."""
        now = self._context.clock.now()
        counted = _Counted(basis, since=now, until=math.inf)
        for key, instance in sorted(self._context.fleet.all_instances_of(manager), key=_name):
            member = basis.members.get(key.name)
            facts = MachineFacts(instance, member, basis.active, now, basis.listed)
            state, _ = explain(facts)
            counted.useful += is_useful(facts, state)
            counted.machines.append(SurveyedMachine(key, state))
            if lease_runs(instance, now) and instance.lease and instance.lease.expiration:
                counted.until = min(counted.until, instance.lease.expiration)
            if state is not State.DELETED:
                counted.states[state] += 1
            if instance.deletion is None:
                if instance.missing_since is not None and instance.abandoned_since is None:
                    counted.missing.append((key, instance.missing_since))
                elif instance.stopped_since is not None and instance.cordon is None:
                    counted.stopped.append((key, instance.stopped_since))
                if instance.lost_since is not None:
                    counted.unknown.append((key, instance.lost_since))
                if instance.cordon is not None:
                    counted.cordoned.append((key, instance.cordon.since))
        return counted


class _Basis(NamedTuple):
    """What the states of a group's machines follow from, besides the time.

    Attributes:
        changes: grows when an entity of a machine changes.
        members: the VMs as the group last listed them; another mapping after each list.
        active: whether the configuration names the group.
        listed: whether all members are known.
    """

    changes: int
    members: Mapping[str, Member]
    active: bool
    listed: bool


@dataclass(slots=True)
class _Counted:
    """A group's machines, as far as the survey tells of them.

    Attributes:
        basis: what they were counted by.
        since: when, Unix seconds.
        until: when a lease ends, so that states change without an entity.
    """

    basis: _Basis
    since: UnixSeconds
    until: UnixSeconds
    machines: list[SurveyedMachine] = field(default_factory=list)
    states: Counter[State] = field(default_factory=Counter)
    useful: int = 0
    missing: list[tuple[MachineKey, UnixSeconds]] = field(default_factory=list)
    stopped: list[tuple[MachineKey, UnixSeconds]] = field(default_factory=list)
    unknown: list[tuple[MachineKey, UnixSeconds]] = field(default_factory=list)
    cordoned: list[tuple[MachineKey, UnixSeconds]] = field(default_factory=list)

    def holds(self, basis: _Basis, now: UnixSeconds) -> bool:
        """Whether it would be counted the same way now."""
        known = self.basis
        same = known.members is basis.members and known._replace(members=basis.members) == basis
        return same and self.since <= now < self.until


_NOBODY: Mapping[str, Member] = {}


def _joined(groups: Mapping[GroupKey, _Counted]) -> Survey:
    counts: dict[tuple[str, str], Counter[State]] = {}
    useful: Counter[tuple[str, str]] = Counter()
    for key, counted in groups.items():
        place = key.base_name, key.zone
        counts.setdefault(place, Counter()).update(counted.states)
        useful[place] += counted.useful
    found = groups.values()
    return Survey(
        machines=tuple(chain.from_iterable(one.machines for one in found)),
        counts=counts,
        by_group={key: counted.states for key, counted in groups.items()},
        useful=useful,
        missing=tuple(chain.from_iterable(one.missing for one in found)),
        stopped=tuple(chain.from_iterable(one.stopped for one in found)),
        unknown=tuple(chain.from_iterable(one.unknown for one in found)),
        cordoned=tuple(chain.from_iterable(one.cordoned for one in found)),
    )


def _path(key: GroupKey) -> tuple[tuple[str, str], ...]:
    return key.path


def _name(item: tuple[MachineKey, object]) -> str:
    return item[0].name
