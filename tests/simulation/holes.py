"""Known mistakes, planted one at a time: the oracle must find each within a minute of CPU.

Each is a hole of docs/safety.md's history: what is put back, which events lead there, which promise
breaks. `python -m simulation.holes` lives each and prints the table of docs/testing.md.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from gce_backend.actions import (
    deletion_budget,
    lessee_news,
    permit_check,
    phantom_entries,
    untracked,
)
from gce_backend.base.ages import Ages
from gce_backend.base.clock import Clock
from gce_backend.clients.compute import call_budget
from gce_backend.clients.datastore import leadership
from gce_backend.engine.job import Outcome
from gce_backend.fleet.memory import CatalogMemory
from gce_backend.loops import (
    catalog_instances,
    fetch_instances,
    import_config,
    resize_instance_groups,
    update_instance_metadata,
)
from gce_backend.machine_provider import queue
from gce_backend.machine_provider.entities import LeaseState
from gce_backend.machine_provider.lease_changes import LeaseChanges
from gce_backend.model.entities import CONFIGURATION_KEY, Permit
from gce_backend.model.observed import Member
from gce_backend.rules import (
    cataloging,
    compute_bodies,
    deletion_caps,
    group_sizes,
    melt_down,
    ownership,
    permits,
    sightings,
    surplus,
)
from simulation import chance
from simulation.apart import apart
from simulation.episode import Recipe, Result, live_here, recipe
from simulation.events import Event

SECONDS = 60.0
USERS = ("lease", "lease", "lease_all", "release", "release_all", "forget")
CHANGES = ("change_type", "flap", "change_zone", "flap_zone", "change_size")


class Hole(NamedTuple):
    """A planted mistake.

    Attributes:
        name: for people.
        promise: which promise it breaks.
        kinds: the events that lead there.
        plant: puts it back, while the context lasts.
        daemons: how many daemons it needs.
        election: whether one of them leads; None as the seed says.
        machines: how many machines it needs.
        budget: calls a minute.
        rate: events in an hour.
        script: what happens, by seconds and kinds, in place of chance.
        hours: how long things happen.
    """

    name: str
    promise: str
    kinds: tuple[str, ...]
    plant: Callable[[], contextlib.AbstractContextManager[Any]]
    daemons: int = 1
    election: bool | None = None
    machines: int = 8
    budget: int = 1400
    rate: float = 24.0
    script: tuple[tuple[float, str], ...] = ()
    hours: float = 1.5


@contextlib.contextmanager
def everywhere(function: Callable[..., Any], other: Callable[..., Any]) -> Iterator[None]:
    """Puts another function in the place of one, in every module that has imported it."""
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("gce_backend") and module is not None:
                for attribute, value in list(vars(module).items()):
                    if value is function:
                        stack.enter_context(mock.patch.object(module, attribute, other))
        yield


async def _ask_nobody(_: Any, keys: Sequence[Any], *__: Any) -> permit_check.Checked:
    return permit_check.Checked(dict.fromkeys(keys), Outcome(), ())


def _generous(asked: Mapping[Any, Permit], *_: Any) -> list[Any]:
    return list(asked)


async def _no_turns(*_: Any, **__: Any) -> None:
    return None


def _nobody_holds(*_: Any, **__: Any) -> bool:
    return False


def _anybody_s(description: str, ours: ownership.Mark, _: Any) -> ownership.Whose:
    """Whatever carries the owner's name is ours, whichever store it was made from."""
    mark = ownership.mark_of(description)
    same = mark is not None and mark.owner == ours.owner
    return ownership.Whose.OURS if same else ownership.Whose.FOREIGN


def _always(*_: Any, **__: Any) -> bool:
    return True


_group_name_of = compute_bodies.group_name_of
_seen_instance = sightings.seen_instance


def _first_name(manager: Any, _: int) -> str:
    """A group that is made again has the name of the one before."""
    return _group_name_of(manager, 0)


def _never_stopped(*given: Any, stopped: bool = False) -> Any:
    """A VM that stops is not told apart."""
    del stopped
    return _seen_instance(*given, stopped=False)


_missing = resize_instance_groups._missing


def _as_stored(context: Any, key: Any, target_size: int) -> int | None:
    """A growth that was stored once is sent, whatever the configuration says by then."""
    stored = context.fleet.managers[key].resize
    return _missing(context, key, target_size) if stored is None else len(stored.names)


def _never_abandoned(instance: Any, *_: Any, **__: Any) -> Any:
    return instance


def _approval_stays(
    imported: Callable[[Any], Any], *_: Any, **__: Any
) -> Callable[[Mapping[Any, Any]], dict[Any, Any]]:
    """An import does not end the approval that it was given."""

    def decide(found: Mapping[Any, Any]) -> dict[Any, Any]:
        before = found.get(CONFIGURATION_KEY)
        after = imported(before)
        return {} if after == before else {CONFIGURATION_KEY: after}

    return decide


def _of_this_process(context: Any, window: Any) -> tuple[Any, ...]:
    """The caps count what this process has begun, and nothing of the time before."""
    started = vars(context.memory).setdefault("planted_start", context.clock.now())
    return tuple(one for one in window.begun if one.at >= started)


async def _nowhere_else(*_: Any, **__: Any) -> list[str]:
    return []


def _no_tombstones(_: Any, **__: float) -> list[Any]:
    return []


class _NeverSmaller:
    """The size of the next batch does not become smaller."""

    def __get__(self, *_: object) -> None:
        return None

    def __set__(self, *_: object) -> None:
        """Forgets it."""


@contextlib.contextmanager
def _divides_nothing() -> Iterator[None]:
    """What is refused, or too slow, is sent again as it was."""
    with (
        mock.patch.object(catalog_instances, "MAX_DIVISIONS", 0),
        mock.patch.object(CatalogMemory, "batch", _NeverSmaller()),
    ):
        yield


def _wall_age(_: Ages, since: float, now: float, __: float) -> float:
    """Ages are read from the wall clock."""
    return max(0.0, now - since)


def _wall_wait(_: Ages, until: float, __: float, now: float, ___: float) -> float:
    """Waits are read from the wall clock."""
    return max(0.0, until - now)


@contextlib.contextmanager
def _by_wall_clock() -> Iterator[None]:
    """Stored times are compared with the wall clock, wherever it has jumped to."""
    with (
        mock.patch.object(Ages, "elapsed", _wall_age),
        mock.patch.object(Ages, "remaining", _wall_wait),
    ):
        yield


def _all_or_nothing(context: Any, _: list[str]) -> dict[str, list[Any]]:
    """One missing revision hinders the look at all groups."""
    projects: dict[str, list[Any]] = {}
    for key, manager in context.fleet.managers.items():
        project = context.fleet.revision_of(key).template.project
        if manager.url is not None:
            projects.setdefault(project, []).append(key)
    return projects


def _at_full_pace(*_: Any) -> melt_down.Pace:
    """Whatever vanishes again and again is made again at once."""
    return melt_down.FULL


def _new_ones_alone(asked: Any, *given: Any, now: float, **more: Any) -> queue.Allotment:
    """A request that has waited for a few seconds is not looked at again."""
    return _allot([one for one in asked if now - one.created < 5.0], *given, now=now, **more)


_allot = queue.allot
_release = LeaseChanges.release


async def _withdraws_nothing(changes: LeaseChanges, lease: Any) -> Any:
    """A request that waits is not withdrawn, and its requester is told that it is."""
    return lease if lease.state is LeaseState.UNTRIAGED else await _release(changes, lease)


_surplus = surplus.surplus


def _one_more(*given: Any, **named: Any) -> int:
    return _surplus(*given, **named) + 1


def _wall_clock(clock: Clock) -> float:
    """What the clock shows is believed."""
    return clock.now()


def _no_limit(*_: Any) -> None:
    """However many VMs a group has, there is room."""


def _nobody_beside(*_: Any) -> int:
    """The VMs of other revisions do not count."""
    return 0


async def _tell_nobody(_: Any) -> None:
    return None


LIMITED = ((5.0, "tight_maximum"), (2000.0, "large"))
"""A roll-out long after the maximum came into force: the one before counts for half an hour."""
HELD_BY_ALL = ((150.0, "lease_all"), (250.0, "lease_all"), (295.0, "lease_all"))
"""Whatever there is has a lease before the earliest restore."""

HOLES: tuple[Hole, ...] = (
    Hole(
        "1, 4 nobody is asked before a deletion",
        "S1",
        (*USERS, *CHANGES, "back_up", "restore_store", "lose_entity", "lose_entity"),
        lambda: everywhere(permit_check.with_fresh_permits, _ask_nobody),
    ),
    Hole(
        "a known lease does not keep what the catalog denies",
        "S1",
        (),
        lambda: everywhere(permits.lease_runs, _nobody_holds),
        script=(
            (1, "restore_machine_provider"),  # a backup first, and minutes later the restore
            (5, "change_type"),
            *HELD_BY_ALL,
        ),
        hours=2.0,
    ),
    Hole(
        "the caps hold nothing back",
        "S5",
        ("release_all", "lease_all", "change_type", "flap_zone"),
        lambda: everywhere(deletion_caps.admitted, _generous),
        machines=40,
    ),
    Hole(
        "calls have no budget",
        "S4",
        ("change_type", "long_trouble", "melt"),
        lambda: mock.patch.object(call_budget.CallBudget, "acquire", _no_turns),
        machines=40,
        budget=60,
    ),
    Hole(
        "2 slow Machine Provider and one change",
        "S1",
        (),
        lambda: everywhere(permit_check.with_fresh_permits, _ask_nobody),
        script=(
            (1, "late_addition"),
            (2, "late_addition"),
            (5, "change_type"),
            (20, "change_type"),
            *((40.0 + 30 * n, "lease_all") for n in range(25)),
            (400, "change_type"),
        ),
        hours=0.5,
        machines=20,
    ),
    Hole(
        "3 a group is made again under the name of the one before",
        "L1",
        (),
        lambda: everywhere(compute_bodies.group_name_of, _first_name),
        script=(
            (1, "late_group_deletion"),
            (2, "flap_zone"),
            (400, "late_group_deletion"),
            (402, "flap_zone"),
            *((60.0 * n, "lease_all") for n in range(1, 30)),
        ),
        hours=0.6,
    ),
    Hole(
        "5 one word of a restored Machine Provider ends a lease",
        "S1",
        (),
        lambda: everywhere(cataloging.lease_is_over, _always),
        script=((1, "restore_machine_provider"), *HELD_BY_ALL, (3700, "change_type")),
        hours=1.4,
    ),
    Hole(
        "6 RECLAIMED of a machine that is leased",
        "S1",
        (),
        lambda: everywhere(permit_check.with_fresh_permits, _ask_nobody),
        script=((1, "lease_all"), (30, "false_reclaimed"), (40, "false_reclaimed")),
        hours=0.2,
    ),
    Hole(
        "7 second daemon, own store",
        "S1",
        (),
        lambda: everywhere(ownership.whose, _anybody_s),
        script=((30, "stranger"), (100, "change_type"), (200, "change_zone")),
        hours=0.4,
    ),
    Hole(
        "8 group made again by hand",
        "S1",
        (),
        lambda: everywhere(ownership.is_meant, _always),
        script=tuple((5.0 + 200 * n, "delete_group") for n in range(4)),
        hours=0.4,
    ),
    Hole(
        "9 VMs that stop are still offered",
        "L1",
        (),
        lambda: everywhere(sightings.seen_instance, _never_stopped),
        script=((5, "stop_vm"), (10, "stop_vm")),
        hours=0.2,
    ),
    Hole(
        "10 an abandoned VM counts as one that Compute deletes",
        "L1",
        (),
        lambda: everywhere(sightings.abandoned_instance, _never_abandoned),
        script=((1, "lease_all"), (20, "abandon_vm"), (25, "abandon_vm"), (60, "release_all")),
        hours=0.2,
    ),
    Hole(
        "11 an endless lease that the catalog denies never ends",
        "L1",
        (),
        lambda: everywhere(cataloging.lease_is_over, _nobody_holds),
        script=((1, "restore_machine_provider"), (5, "change_type"), *HELD_BY_ALL),
        hours=1.2,
    ),
    Hole(
        "12 a growth that was taken back is sent",
        "L1",
        (),
        lambda: everywhere(resize_instance_groups._missing, _as_stored),
        script=((5, "taken_back_growth"),),
        hours=0.5,
    ),
    Hole(
        "12 members that cannot be made stay",
        "L1",
        (),
        lambda: mock.patch.object(Member, "cannot_be_made", new=False),
        script=((5, "taken_back_growth"),),
        hours=0.5,
    ),
    Hole(
        "13 a project without a group is not looked through",
        "S2",
        (),
        lambda: everywhere(untracked.look_elsewhere, _nowhere_else),
        script=((5, "leave_project"),),
        hours=0.2,
    ),
    Hole(
        "14 each process has caps of its own",
        "L1",
        (),
        lambda: everywhere(deletion_budget._counting, _of_this_process),
        script=(
            (1, "lease_all"),
            (20, "release_all"),
            *((30.0 + 40 * n, "kill") for n in range(12)),
        ),
        machines=40,
        hours=0.3,
    ),
    Hole(
        "14 a leader that was frozen goes on as if it led",
        "S4",
        ("freeze", "freeze", "change_type", "change_size"),
        lambda: mock.patch.object(leadership.Leadership, "_is_current", return_value=True),
        daemons=3,
        election=True,
    ),
    Hole(
        "15 an approval counts again",
        "S5",
        (),
        lambda: everywhere(import_config._with_approval, _approval_stays),
        script=((5, "approved_empty_config"),),
        hours=0.7,
    ),
    Hole(
        "16 phantoms stay",
        "L1",
        (),
        lambda: everywhere(phantom_entries.tombstones_due, _no_tombstones),
        script=(
            (1, "late_addition"),
            (2, "late_addition"),
            (5, "change_size"),
            (6, "change_type"),
            (100, "change_type"),
            (110, "late_addition"),
        ),
        hours=0.6,
    ),
    Hole(
        "17 412 forever",
        "S4",
        (),
        lambda: mock.patch.object(update_instance_metadata, "ATTEMPTS", 1000),
        script=((1, "contested_metadata"), (5, "change_type"), (60, "change_size")),
        hours=0.5,
    ),
    Hole(
        "18 a clock set back a day",
        "L1",
        (),
        _by_wall_clock,
        script=((5, "clock_set_back"),),
        hours=0.4,
    ),
    Hole(
        "19 one missing revision blinds the look at all groups",
        "L1",
        (),
        lambda: everywhere(fetch_instances._by_project, _all_or_nothing),
        script=((1, "lease"), (5, "change_type"), (200, "lose_revision")),
        hours=0.4,
    ),
    Hole(
        "20 what vanishes again and again is made again at once",
        "L1",
        (),
        lambda: everywhere(melt_down.pace, _at_full_pace),
        script=((5, "group_furnace"),),
        machines=4,
        hours=0.4,
    ),
    Hole(
        "21 one refused machine keeps its batch out",
        "L1",
        (),
        _divides_nothing,
        script=((1, "odd_template"), *((100.0 + n, "delete_vm") for n in range(4))),
        hours=0.2,
    ),
    Hole(
        "a request that waits is forgotten",
        "Q",
        (),
        lambda: everywhere(queue.allot, _new_ones_alone),
        script=(
            (1, "lease_all"),
            (3, "ask_for_too_many"),
            *((60.0 + n, "release") for n in range(9)),
        ),
        hours=0.2,
    ),
    Hole(
        "a request that waits is not withdrawn",
        "Q",
        (),
        lambda: mock.patch.object(LeaseChanges, "release", _withdraws_nothing),
        script=((1, "lease_all"), (3, "ask_for_too_many"), (60, "release_all")),
        hours=0.2,
    ),
    Hole(
        "lessees are not told that Compute takes the VM back",
        "Q",
        (),
        lambda: everywhere(lessee_news.tell, _tell_nobody),
        script=((1, "lease_all"), (10, "preempt"), (20, "preempt")),
        hours=0.4,
    ),
    Hole(
        "a clock that is set ahead ends leases",
        "Q",
        ("lease_all", "lease", "provider_clock_jump"),
        lambda: mock.patch.object(Clock, "earliest", _wall_clock),
        hours=1.0,
    ),
    Hole(
        "one machine more leaves than is idle",
        "D",
        (),
        lambda: everywhere(surplus.surplus, _one_more),
        script=((5, "demand_step"),),
        hours=0.9,
    ),
    Hole(
        "a pool has no maximum",
        "D",
        (),
        lambda: everywhere(group_sizes.room, _no_limit),
        script=LIMITED,
        hours=0.9,
    ),
    Hole(
        "revisions have the maximum each",
        "D",
        (),
        lambda: everywhere(group_sizes.beside, _nobody_beside),
        script=LIMITED,
        hours=0.9,
    ),
    Hole(
        "22 a batch that is too slow stays as large",
        "L1",
        (),
        lambda: mock.patch.object(CatalogMemory, "batch", _NeverSmaller()),
        script=((1, "slow_catalog"), (5, "change_type")),
        machines=80,
        hours=0.3,
    ),
)


def scripted(made: Recipe, script: Sequence[tuple[float, str]]) -> Recipe:
    """The same recipe with these events."""
    rng = random.Random(f"script {made.seed}")
    events = tuple(Event(at, kind, rng.getrandbits(32)) for at, kind in script)
    return msgspec.structs.replace(made, events=events)


def recipes(hole: Hole) -> Iterator[Recipe]:
    """Episodes that lead to a hole, one after the other."""
    number = 0
    while True:
        made = recipe(
            f"{hole.name} {number}",
            hole.hours,
            machines=hole.machines,
            daemons=hole.daemons,
            election=hole.election,
            rate=hole.rate,
            only=hole.kinds,
            budget=hole.budget,
            drawn=False,
        )
        yield scripted(made, hole.script) if hole.script else made
        number += 1


def search(hole: Hole, seconds: float = SECONDS) -> tuple[float, Result | None]:
    """Lives episodes until the hole is found.

    Returns:
        CPU-seconds, and the episode that found it; None when none did in that time.
    """

    def lived(made: Recipe) -> tuple[Result, float]:
        with hole.plant():
            result = live_here(made)
        times = os.times()
        return result, times.user + times.system

    spent = 0.0
    for made in recipes(hole):
        result, cpu = apart(lambda made=made: lived(made))  # type: ignore[misc]  # bound at once
        spent += cpu
        if any(violation.promise == hole.promise for violation in result.violations):
            return spent, result
        if spent > seconds:
            return spent, None
    raise AssertionError("unreachable")


def main() -> int:
    """Prints the table; 1 when a planted hole was not found."""
    chance.fix_hashes()
    chance.silence()
    words, failed = sys.argv[1:], 0
    for hole in HOLES:
        if words and not any(word in hole.name for word in words):
            continue
        cpu, result = search(hole)
        found = result.violations[0] if result is not None else "not found"
        failed += result is None
        sys.stdout.write(f"| {hole.name} | {hole.promise} | {cpu:.1f} | {str(found)[:140]} |\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
