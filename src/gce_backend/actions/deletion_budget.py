"""Which deletions may begin now: those with a permit, within the caps (S5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from gce_backend.engine.context import Context
from gce_backend.model.entities import Instance, Permit
from gce_backend.model.keys import MachineKey
from gce_backend.rules.deletion_caps import EVIDENCE, Evidence, allowance
from gce_backend.rules.orders import MAX_LIFT_SECONDS
from gce_backend.rules.permits import permit

CAP = "deletions"

IsWanted: TypeAlias = Callable[[MachineKey, Instance], bool]


def under_caps(context: Context, wanted: IsWanted) -> tuple[dict[MachineKey, Permit], int]:
    """Those whose deletion may begin now, by their permits, and how many the caps hold back.

    Args:
        wanted: whether the job wants an instance gone.
    """
    now = context.clock.now()
    instances = context.fleet.instances
    recent = [*_recent(context), *context.memory.deletions.deciding.values()]
    living = sum(not instance.is_tombstone for instance in instances.values())
    lifted = _is_lifted(context)
    allowed = allowance(context.settings.deletion, recent, living, lifted=lifted)
    left = {evidence: allowed.of(evidence) for evidence in Evidence}
    chosen: dict[MachineKey, Permit] = {}
    held = 0
    for key, instance in instances.items():
        if instance.deletion is not None or key in context.memory.deletions.deciding:
            continue
        granted = permit(instance, now)
        if granted is None or not wanted(key, instance) or backs_off(context, key):
            continue
        if left[EVIDENCE[granted]] > 0:
            left[EVIDENCE[granted]] -= 1
            chosen[key] = granted
        else:
            held += 1
    return chosen, held


def _recent(context: Context) -> Iterator[Permit]:
    """The permits of the deletions that began within the window, by this process's own time.

    A wall clock that jumps makes none older.
    """
    window = context.settings.deletion.window_seconds
    for instance in context.fleet.instances.values():
        deletion = instance.deletion
        if deletion is not None and context.clock.elapsed(deletion.requested) < window:
            yield deletion.permit


def _is_lifted(context: Context) -> bool:
    """Whether an operator has lifted the caps for now: a clock set back does not prolong it."""
    until = context.fleet.control.cap_lifted_until
    return context.clock.remaining(until, MAX_LIFT_SECONDS) > 0


def note_held(context: Context, held: int) -> None:
    """Raises the alarm that the caps hold deletions back, or ends it."""
    context.memory.deletions.held[context.job] = held
    if not held:
        context.conditions.clear(CAP)
        return
    message = (
        f"{held} deletions are held back: more were asked for within "
        f"{context.settings.deletion.window_seconds:.0f} s than the cap allows. Look whether the "
        "Machine Provider is well; then wait, or lift the cap with `gce-backend lift-cap`."
    )
    if context.conditions.note(CAP, "DeletionCap", message):
        context.log.error("deletion.held", held=held)


def backs_off(context: Context, key: MachineKey) -> bool:
    """Whether a machine, or its whole group, is not to be tried now; it takes no other's place."""
    blocked = context.conditions.blocked
    return blocked(key) or blocked(key.group)
