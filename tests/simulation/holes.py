"""Known mistakes, planted one at a time: the oracle must find each within a minute of CPU.

Each is a hole of docs/safety.md's history: what is put back, which events lead there, which promise
breaks. `python -m simulation.holes` lives each and prints the table of docs/testing.md. A hole
without a `plant` needs none in a version that still has it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from gce_backend.actions import permit_check
from gce_backend.clients.compute import call_budget
from gce_backend.engine.job import Outcome
from gce_backend.model.entities import Permit
from gce_backend.rules import deletion_caps, permits
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
        plant: puts it back, while the context lasts; None when nothing needs to be put back.
        daemons: how many daemons it needs.
        machines: how many machines it needs.
        budget: calls a minute.
        rate: events in an hour.
        script: what happens, by seconds and kinds, in place of chance.
        hours: how long things happen.
    """

    name: str
    promise: str
    kinds: tuple[str, ...]
    plant: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    daemons: int = 1
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
    return permit_check.Checked(dict.fromkeys(keys), Outcome())


def _generous(asked: Iterable[Permit], *_: Any) -> list[bool]:
    return [True for _ in asked]


async def _no_turns(*_: Any, **__: Any) -> None:
    return None


def _nobody_holds(*_: Any, **__: Any) -> bool:
    return False


_permit = permits.permit


def _known_by_nobody(instance: Any, now: float) -> Any:
    """What is in the catalog counts as never having been there."""
    return _permit(instance, now) or Permit.NEVER_CATALOGED


HOLES: tuple[Hole, ...] = (
    Hole(
        "nobody is asked before a deletion",
        "S1",
        (*USERS, *CHANGES, "back_up", "restore_store", "lose_entity", "lose_entity"),
        lambda: everywhere(permit_check.with_fresh_permits, _ask_nobody),
    ),
    Hole(
        "a machine of the catalog counts as never cataloged",
        "S1",
        (*USERS, *CHANGES),
        lambda: everywhere(permits.permit, _known_by_nobody),
    ),
    Hole(
        "a known lease does not keep what the catalog denies",
        "S1",
        (*USERS, *CHANGES, "restore_machine_provider", "long_trouble", "stale_answers"),
        lambda: everywhere(permits.lease_runs, _nobody_holds),
        script=(
            (1, "restore_machine_provider"),  # a backup first, and minutes later the restore
            (5, "change_type"),
            (150, "lease_all"),
            (250, "lease_all"),
            (295, "lease_all"),
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
        "1 restored store, entity removed by hand",
        "S1",
        (*USERS, *CHANGES, "lose_entity", "back_up", "restore_store"),
        lambda: everywhere(permit_check.with_fresh_permits, _ask_nobody),
    ),
    Hole(
        "2 slow Machine Provider and one change",
        "S1",
        ("lease_all", "lease_all", "late_addition", "late_addition", "flap", "change_type"),
        lambda: everywhere(permit_check.with_fresh_permits, _ask_nobody),
        machines=20,
        rate=60.0,
    ),
    Hole(
        "3 late group deletion and resize",
        "S1",
        ("lease_all", "lease_all", "flap_zone", "flap_zone", "late_group_deletion", "late_growth"),
        rate=60.0,
    ),
    Hole(
        "5 restored Machine Provider",
        "S1",
        (*USERS, *CHANGES, "restore_machine_provider"),
    ),
    Hole(
        "6 replayed RECLAIMED",
        "S1",
        ("lease", "lease_all", "release", "old_reclaimed", "old_reclaimed"),
    ),
    Hole(
        "7 second daemon, own store",
        "S1",
        (*USERS, *CHANGES, "stranger", "stranger"),
    ),
    Hole(
        "8 group made again by hand",
        "S1",
        ("delete_group", "lease", "change_size"),
    ),
    Hole(
        "9 VMs that stop",
        "L1",
        ("stop_vm", "lease", "release"),
    ),
    Hole(
        "10 abandoned VMs",
        "L1",
        ("abandon_vm", "lease", "release_all"),
    ),
    Hole(
        "11 endless lease, lost messages",
        "L1",
        ("lease", "lease_all", "release_all", "lose_messages", "lose_messages"),
    ),
    Hole(
        "14 caps of several daemons",
        "S5",
        ("release_all", "lease_all", "change_type", "flap_zone", "kill"),
        daemons=3,
        machines=40,
    ),
    Hole(
        "14 budgets of several daemons",
        "S4",
        ("change_type", "melt", "change_size"),
        daemons=3,
        machines=12,
        budget=60,
    ),
    Hole(
        "15 approval used again",
        "S5",
        ("empty_config", "approve"),
    ),
    Hole(
        "16 set aside, then drained; phantoms",
        "L1",
        ("steal_name", "late_addition", "delete_vm", "freeze", "change_type"),
        daemons=2,
    ),
    Hole(
        "17 412 for ever",
        "S4",
        ("long_trouble", "change_type"),
    ),
    Hole(
        "18 clock back a day",
        "L1",
        ("clock_jump", "delete_vm", "change_type", "lease", "release"),
    ),
    Hole(
        "19 missing revision entity",
        "L1",
        ("lose_entity", "change_type", "change_type"),
    ),
    Hole(
        "21 one bad item in a batch",
        "L1",
        ("odd_template", "change_type", "delete_vm"),
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
            rate=hole.rate,
            only=hole.kinds,
            budget=hole.budget,
        )
        yield scripted(made, hole.script) if hole.script else made
        number += 1


def search(hole: Hole, seconds: float = SECONDS) -> tuple[float, Result | None]:
    """Lives episodes until the hole is found.

    Returns:
        CPU-seconds, and the episode that found it; None when none did in that time.
    """

    def lived(made: Recipe) -> tuple[Result, float]:
        with hole.plant() if hole.plant is not None else contextlib.nullcontext():
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
        failed += result is None and hole.plant is not None
        kind = "planted" if hole.plant is not None else "as it is"
        sys.stdout.write(f"| {hole.name} | {kind} | {cpu:.1f} | {str(found)[:140]} |\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
