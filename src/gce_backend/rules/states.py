"""Decisions: from what is known to what is to change. Pure functions on frozen values.

A job loads what these functions ask for, calls one, and applies its answer. No decision ever
follows from an absence, an error or an empty answer.
"""

from __future__ import annotations

from enum import StrEnum

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
)
from gce_backend.model.observed import Member
from gce_backend.rules.permits import lease_runs


class State(StrEnum):
    """What an operator calls the state of a machine."""

    CREATING = "creating"
    """Compute is making it."""
    STARTING = "starting"
    """The VM exists and is not running yet."""
    RUNNING = "running"
    """It runs and is not in the catalog yet."""
    CATALOGED = "cataloged"
    """It can be leased."""
    LEASED = "leased"
    """Somebody holds it."""
    DRAINING = "draining"
    """The configuration no longer names its revision or manager, or an operator drained it."""
    PENDING_DELETION = "pending-deletion"
    """It was reclaimed and is to be deleted."""
    DELETING = "deleting"
    """Its deletion was asked for."""
    MISSING = "missing"
    """Its group no longer lists it."""
    STOPPED = "stopped"
    """Its VM does not run: it was stopped, suspended or preempted, or its host failed."""
    SET_ASIDE = "set-aside"
    """The catalog holds its host name for another."""
    DELETED = "deleted"
    """It is gone."""


def explain(
    instance: Instance, member: Member | None, *, active: bool, now: UnixSeconds
) -> tuple[State, str]:
    """A machine's state and, in words, why it is in it.

    Args:
        member: the VM as last listed.
        active: whether the configuration names its manager and revision.
    """
    return (
        _ending(instance)
        or _stopped(instance, member, now)
        or _draining(instance, now, active=active)
        or _rising(instance, member)
    )


def _ending(instance: Instance) -> tuple[State, str] | None:
    deletion: Deletion | None = instance.deletion
    if deletion is not None and deletion.confirmed is not None:
        return State.DELETED, "The VM is gone; the entity remains for a while as a tombstone."
    if deletion is not None:
        return State.DELETING, f"Deletion was asked for (permit: {deletion.permit.value})."
    if instance.abandoned_since is not None:
        return State.MISSING, "Its group has let go of this VM, which still exists: abandoned."
    if instance.missing_since is not None:
        return State.MISSING, "Its group no longer lists this VM: somebody else deleted it."
    if instance.pending_deletion is not None:
        return State.PENDING_DELETION, instance.pending_deletion.reason
    return None


def _stopped(
    instance: Instance, member: Member | None, now: UnixSeconds
) -> tuple[State, str] | None:
    if instance.stopped_since is None:
        return None
    status = f" ({member.status})" if member is not None and member.status else ""
    held = (
        " Somebody holds it: it is kept until the lease ends." if lease_runs(instance, now) else ""
    )
    return State.STOPPED, f"The VM does not run{status}.{held}"


def _draining(instance: Instance, now: UnixSeconds, *, active: bool) -> tuple[State, str] | None:
    if lease_runs(instance, now):
        waiting = (
            ""
            if active
            else " The configuration no longer names it: it is deleted after its lease ends."
        )
        if instance.drain is not None:
            waiting = f" It is deleted after its lease ends. {instance.drain}"
        return State.LEASED, f"Somebody holds it.{waiting}"
    if instance.drain is not None:
        return State.DRAINING, str(instance.drain)
    if not active:
        return State.DRAINING, "The configuration no longer names its revision or manager."
    return None


def _rising(instance: Instance, member: Member | None) -> tuple[State, str]:
    if instance.catalog is CatalogState.CATALOGED:
        return State.CATALOGED, "It is in the catalog and can be leased."
    if instance.catalog is CatalogState.REFUSED:
        return State.SET_ASIDE, "The catalog holds its host name under a key that is not ours."
    if member is None:
        return State.STARTING, "Its group has not been listed since the daemon started."
    if member.gce_id is None:
        reason = f"Compute is creating it. {member.error}".strip()
        return State.CREATING, reason
    if not member.is_running:
        return State.STARTING, f"The VM is {member.status or 'not there yet'} ({member.action})."
    if instance.catalog is CatalogState.ADDING:
        return State.RUNNING, "It is being added to the catalog."
    return State.RUNNING, "It runs and waits to be added to the catalog."
