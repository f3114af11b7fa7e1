"""What a machine waits for, as a sentence: the next thing that has to happen to it. Pure."""

from __future__ import annotations

from gce_backend.actions import unknown_machines
from gce_backend.engine.context import Context
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.cataloging import settles_in
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.states import State

_NEXT = {
    State.CREATING: "Compute has to create the VM.",
    State.STARTING: "The VM has to run, and its group has to finish its action on it.",
    State.RUNNING: "catalog-instances has to add it to the Machine Provider's catalog.",
    State.LEASED: "The lease has to end: the Machine Provider then reclaims the machine.",
    State.CORDONED: "An operator has to uncordon it: `gce-backend uncordon NAME`.",
    State.PENDING_DELETION: (
        "delete-instances-pending-deletion has to request its deletion, within the caps."
    ),
    State.DELETING: "Compute has to delete the VM, and two looks have to show that it is gone.",
    State.MISSING: "remove-cataloged-instances has to remove it from the catalog.",
    State.STOPPED: (
        "It has to run again. Otherwise it leaves the catalog and is deleted after its lease ends."
    ),
    State.LOST: (
        "It is deleted if the catalog does not hold it for machine_provider.lost_seconds."
    ),
    State.SET_ASIDE: "The entry that holds its host name has to leave the catalog.",
    State.DELETED: "cleanup-entities removes it when slow lists can no longer show it.",
}
PAUSE_ENDS = "The pause has to end: `gce-backend resume`, or actuate = true in the settings."

_DELETES = frozenset({State.PENDING_DELETION, State.DRAINING})
_ENDS = _DELETES | {State.MISSING, State.STOPPED, State.LOST}
"""States in which a machine has to leave the catalog, or to be proven not to be in it."""
_CHANGES = frozenset(
    {
        State.RUNNING,
        State.MISSING,
        State.STOPPED,
        State.LOST,
        State.DRAINING,
        State.PENDING_DELETION,
    }
)
"""States that the daemon ends."""


def waits_for(context: Context, key: MachineKey, instance: Instance, state: State) -> str | None:
    """What has to happen next; None when the machine waits for nothing.

    Args:
        context: the picture, and the conditions.
        key: the machine's.
        instance: its entity.
        state: the state that it is in.
    """
    if context.is_paused(key) and state in _CHANGES:
        return PAUSE_ENDS
    step = _draining(context, instance) if state is State.DRAINING else _NEXT.get(state)
    if state is State.LOST and instance.catalog is CatalogState.ABSENT:
        step = "delete-drained-instances has to request its deletion, within the caps."
    if step is None:
        return None
    if state in _ENDS and unknown_machines.awaits(context, key, instance):
        return unknown_machines.kept_message(key.name)
    settles = settles_in(instance, context.clock.elapsed)
    if state in _ENDS and settles > 0 and not lease_runs(instance, context.clock.now()):
        return (
            f"{settles:.0f} s have to pass: it was sent to the catalog, and its entry may still "
            "appear. Then the daemon requests its deletion."
        )
    parts = [step]
    if state in _DELETES and context.memory.deletions.held_by_permit().total():
        parts.append("The caps hold back deletions now.")
    wait = _next_try(context, key)
    if wait:
        parts.append(f"It is tried again in {wait:.0f} s.")
    return " ".join(parts)


def _draining(context: Context, instance: Instance) -> str:
    if lease_runs(instance, context.clock.now()):
        return "The lease has to end."
    if instance.catalog in {CatalogState.NEVER, CatalogState.REMOVED, CatalogState.ABSENT}:
        return "delete-drained-instances has to request its deletion, within the caps."
    if instance.drain is not None and instance.drain.max_unavailable is not None:
        return (
            f"It leaves the catalog once at most {instance.drain.max_unavailable} of its template "
            "and zone are lacking then."
        )
    if instance.drain is not None:
        return "remove-cataloged-instances has to remove it from the catalog."
    return "It leaves the catalog when its replacement can be leased."


def _next_try(context: Context, key: MachineKey) -> float:
    """Seconds until what failed on a machine or on its group is tried again."""
    now = context.clock.monotonic()
    subjects = (key, key.group)
    retries = (
        condition.retry_at - now
        for subject in subjects
        for condition in context.conditions.of(subject)
    )
    return max((0.0, *retries))
