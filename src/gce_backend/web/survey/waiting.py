"""What a machine waits for, as a sentence: the next thing that has to happen to it. Pure."""

from __future__ import annotations

from gce_backend.actions import unknown_machines
from gce_backend.engine.context import Context
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.aging import replaced_for_age
from gce_backend.rules.cataloging import settles_in
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.sightings import is_stopped_for_good
from gce_backend.rules.states import State

_NEXT = {
    State.CREATING: "Compute has to create the VM.",
    State.STARTING: "The VM has to run, and its group has to finish its action on it.",
    State.RUNNING: "catalog-instances has to add it to the Machine Provider's catalog.",
    State.LEASED: "The lease has to end: the Machine Provider then reclaims the machine.",
    State.PENDING_DELETION: (
        "delete-instances-pending-deletion has to request its deletion, within the caps."
    ),
    State.DELETING: "Compute has to delete the VM, and two looks have to show that it is gone.",
    State.MISSING: "remove-cataloged-instances has to remove it from the catalog.",
    State.LOST: (
        "It is deleted if the catalog does not hold it for machine_provider.lost_seconds."
    ),
    State.SET_ASIDE: "The entry that holds its host name has to leave the catalog.",
    State.DELETED: "cleanup-entities removes it when slow lists can no longer show it.",
}
PAUSE_ENDS = "The pause has to end: `gce-backend resume`, or actuate = true in the settings."

_LEASE_ENDS = "The lease has to end."
_OUT = frozenset({CatalogState.NEVER, CatalogState.REMOVED, CatalogState.ABSENT})
"""A machine is not in the catalog, as far as its entity tells."""
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
    """
    if context.is_paused(key) and state in _CHANGES:
        return PAUSE_ENDS
    step = _step(context, key, instance, state)
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


def _step(context: Context, key: MachineKey, instance: Instance, state: State) -> str | None:
    """The next step, as far as the state and the entity tell."""
    held = lease_runs(instance, context.clock.now())
    if state is State.CORDONED:
        return f"An operator has to uncordon it: `gce-backend uncordon {key.name}`."
    if state is State.CATALOGED and context.memory.catalog.agents.waits(key):
        return "Its agent has to report to the Machine Provider: nobody gets it before."
    if state is State.STOPPED:
        return _stopped(context, key, instance, held=held)
    if state is State.DRAINING:
        return _LEASE_ENDS if held else _draining(instance)
    if state is State.MISSING and held:
        return _LEASE_ENDS
    if state is State.MISSING and instance.catalog in _OUT:
        if instance.abandoned_since is not None:
            return "The VM has to be deleted: the daemon does so where its role allows it."
        return "Two looks have to show that the VM is gone."
    if state is State.LOST and instance.catalog is CatalogState.ABSENT:
        return "delete-drained-instances has to request its deletion, within the caps."
    return _NEXT.get(state)


def _stopped(context: Context, key: MachineKey, instance: Instance, *, held: bool) -> str:
    if held:
        return "It has to run again, or the lease has to end: then it is deleted."
    if instance.cordon is not None:
        return f"An operator has to uncordon it: `gce-backend uncordon {key.name}`."
    patience = context.settings.deletion.stopped_seconds
    if is_stopped_for_good(instance, context.clock.elapsed, patience):
        return "Its deletion has to be requested, within the caps, once it has left the catalog."
    return f"It has to run again within {patience:g} s of its stop. Otherwise it is deleted."


def _draining(instance: Instance) -> str:
    if instance.catalog in _OUT:
        return "delete-drained-instances has to request its deletion, within the caps."
    if replaced_for_age(instance):
        return "It leaves the catalog when its replacement can be leased."
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
