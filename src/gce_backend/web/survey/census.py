"""All machines with their states, counted and in order, without holding up the event loop.

A look at every machine takes a time that grows with the fleet. All who ask at the same time share
one look, which lets other tasks run in between. It stays valid for a multiple of the time that it
took, so it never uses more than a small part of the process's time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey, MachineKey
from gce_backend.rules.states import MachineFacts, State, explain, is_useful
from gce_backend.web.survey import states

SLICE = 500
"""Machines in one slice of a look."""
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
        fleet, seen = self._context.fleet, self._context.memory.seen
        monotonic, now = self._context.clock.monotonic, self._context.clock.now()
        machines: list[SurveyedMachine] = []
        missing: list[tuple[MachineKey, float]] = []
        stopped: list[tuple[MachineKey, float]] = []
        unknown: list[tuple[MachineKey, float]] = []
        cordoned: list[tuple[MachineKey, float]] = []
        counts: dict[tuple[str, str], Counter[State]] = {}
        by_group: dict[GroupKey, Counter[State]] = {}
        useful: Counter[tuple[str, str]] = Counter()
        took, since, looked = 0.0, monotonic(), 0
        for manager in sorted(fleet.managers, key=_path):
            active, listed = fleet.is_active(manager), states.is_listed(self._context, manager)
            group = seen.groups.get(manager)
            members = group.members if group is not None else {}
            place = manager.base_name, manager.zone
            here = by_group[manager] = Counter()
            for key, instance in sorted(fleet.instances_of(manager), key=_name):
                member = members.get(key.name)
                facts = MachineFacts(instance, member, active, now, listed)
                state, _ = explain(facts)
                useful[place] += is_useful(facts, state)
                machines.append(SurveyedMachine(key, state))
                if state is not State.DELETED:
                    here[state] += 1
                if instance.deletion is None:
                    if instance.missing_since is not None and instance.abandoned_since is None:
                        missing.append((key, instance.missing_since))
                    elif instance.stopped_since is not None and instance.cordon is None:
                        stopped.append((key, instance.stopped_since))
                    if instance.lost_since is not None:
                        unknown.append((key, instance.lost_since))
                    if instance.cordon is not None:
                        cordoned.append((key, instance.cordon.since))
                looked += 1
                if looked % SLICE == 0:
                    took += monotonic() - since
                    await asyncio.sleep(0)
                    since = monotonic()
            counts.setdefault(place, Counter()).update(here)
        survey = Survey(
            machines=tuple(machines),
            counts=counts,
            by_group=by_group,
            useful=useful,
            missing=tuple(missing),
            stopped=tuple(stopped),
            unknown=tuple(unknown),
            cordoned=tuple(cordoned),
        )
        return survey, took + monotonic() - since


def _path(key: GroupKey) -> tuple[tuple[str, str], ...]:
    return key.path


def _name(item: tuple[MachineKey, object]) -> str:
    return item[0].name
