"""What a machine waits for, in words: the next thing that has to happen to it. Pure."""

from __future__ import annotations

from gce_backend.engine.context import Context
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.states import State

_NEXT = {
    State.CREATING: "Compute has to create the VM.",
    State.STARTING: "The VM has to run, and its group to be at rest with it.",
    State.RUNNING: "catalog-instances has to add it to the Machine Provider's catalog.",
    State.LEASED: "The lease has to end: the Machine Provider then reclaims the machine.",
    State.PENDING_DELETION: (
        "delete-instances-pending-deletion has to ask for its deletion, within the caps."
    ),
    State.DELETING: "Compute has to delete the VM, and two looks to agree that it is gone.",
    State.MISSING: "remove-cataloged-instances has to take it out of the catalog.",
    State.STOPPED: (
        "It has to run again, or, once nobody holds it, to leave the catalog and be deleted."
    ),
    State.SET_ASIDE: "The entry that holds its host name has to leave the catalog.",
    State.DELETED: "cleanup-entities forgets it once slow lists can no longer show it.",
}
_DELETES = frozenset({State.PENDING_DELETION, State.DRAINING})
_CHANGES = frozenset({State.RUNNING, State.MISSING, State.DRAINING, State.PENDING_DELETION})
"""States that end by something that the daemon does."""


def waits_for(context: Context, key: MachineKey, instance: Instance, state: State) -> str | None:
    """What has to happen next; None when the machine is where it is to be.

    Args:
        context: the picture, and what cannot go on.
        key: the machine's.
        instance: its entity.
        state: the state that it is in.
    """
    if context.is_paused(key) and state in _CHANGES:
        return "The pause has to end: `gce-backend resume`, or actuate = true in the settings."
    step = _draining(context, instance) if state is State.DRAINING else _NEXT.get(state)
    if step is None:
        return None
    parts = [step]
    if state in _DELETES and any(context.memory.deletions.held.values()):
        parts.append("The caps hold deletions back now.")
    wait = _next_try(context, key)
    if wait:
        parts.append(f"It is tried again in {wait:.0f} s.")
    return " ".join(parts)


def _draining(context: Context, instance: Instance) -> str:
    if lease_runs(instance, context.clock.now()):
        return "The lease has to end."
    if instance.catalog in {CatalogState.NEVER, CatalogState.REMOVED, CatalogState.ABSENT}:
        return "delete-drained-instances has to ask for its deletion, within the caps."
    if instance.drain is not None:
        return "remove-cataloged-instances has to take it out of the catalog."
    return "It has to leave the catalog, which waits until what replaces it can be leased."


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
