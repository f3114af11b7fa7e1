"""What an instance becomes in its catalog entry's life and in its deletion. Pure and idempotent.

Each function is a change to the stored entity: it looks again at what it is given, and returns that
very object when its reason no longer holds.
"""

from __future__ import annotations

from gce_backend.lifecycle import CATALOGABLE, lease_runs, permit, replace
from gce_backend.models import CatalogState, Deletion, Instance, Permit


def may_be_cataloged(instance: Instance) -> bool:
    """Whether a machine that nobody has reclaimed or deletes may be in the catalog."""
    return (
        instance.catalog in {CatalogState.CATALOGED, CatalogState.ADDING}
        and instance.pending_deletion is None
        and instance.deletion is None
    )


def adding(instance: Instance, now: float) -> Instance:
    """It is about to be added to the catalog; stored before the Machine Provider is asked.

    Args:
        instance: the entity.
        now: Unix seconds.
    """
    ended = instance.pending_deletion or instance.deletion or instance.missing_since is not None
    if instance.catalog not in CATALOGABLE or ended or instance.drain is not None:
        return instance
    unanswered = instance.catalog is CatalogState.ADDING
    if unanswered and instance.adding_since == now:
        return instance
    resent = instance.resent or unanswered
    return replace(instance, catalog=CatalogState.ADDING, adding_since=now, resent=resent)


SETTLING_SECONDS = 300.0
"""How long after an addition was sent its entry may still appear, whatever became of the call."""


def settles_in(instance: Instance, now: float) -> float:
    """Seconds until the absence of a machine's entry means that it will not come any more.

    Args:
        instance: the entity.
        now: Unix seconds.
    """
    unsettled = instance.catalog is CatalogState.ADDING or instance.resent
    if not unsettled or instance.adding_since is None:
        return 0.0
    age = now - instance.adding_since
    return max(0.0, SETTLING_SECONDS - age) if age >= 0 else SETTLING_SECONDS


def is_doubtful(instance: Instance, now: float) -> bool:
    """Whether a machine's permit is to be confirmed by the Machine Provider just before its use.

    Args:
        instance: the entity.
        now: Unix seconds.
    """
    granted = permit(instance, now)
    return granted is Permit.ABSENT or (granted is Permit.RECLAIMED and instance.resent)


def added(instance: Instance, state: CatalogState) -> Instance:
    """The Machine Provider has answered to the addition.

    Args:
        instance: the entity.
        state: CATALOGED or REFUSED.
    """
    if instance.catalog is not CatalogState.ADDING:
        return instance
    rising_since = None if state is CatalogState.CATALOGED else instance.rising_since
    return replace(instance, catalog=state, rising_since=rising_since)


def uncataloged(
    instance: Instance, asked: CatalogState, state: CatalogState, now: float
) -> Instance:
    """The Machine Provider has answered to delete_machine.

    Args:
        instance: the entity.
        asked: the state in which it was when the question was sent: an answer may be older than
            what is known now.
        state: REMOVED, or ABSENT when there was no entry.
        now: Unix seconds.
    """
    if not may_be_cataloged(instance) or instance.catalog is not asked:
        return instance
    unsure = lease_runs(instance, now) or settles_in(instance, now) > 0
    if state is CatalogState.ABSENT and unsure:
        return instance
    # Its subscription goes with its entry: should it be added again, it is announced again.
    return replace(instance, catalog=state, subscribed=None)


def found_again(instance: Instance, state: CatalogState) -> Instance:
    """The Machine Provider, asked again, does know a machine that it had not known.

    Args:
        instance: the entity.
        state: CATALOGED, or REMOVED when it has just let the machine go.
    """
    if instance.catalog is not CatalogState.ABSENT:
        return instance
    return replace(instance, catalog=state, lost_since=None)


def deleting(instance: Instance, request_id: str, now: float) -> Instance:
    """Its deletion is about to be asked for, or to be asked for again, if it has a permit now.

    Args:
        instance: the entity, read just before.
        request_id: the UUID of the call.
        now: Unix seconds.
    """
    earlier = instance.deletion
    granted = permit(instance, now)  # also to repeat: a lease may have become known since
    if granted is None or (earlier is not None and earlier.request_id == request_id):
        return instance
    if earlier is not None:
        return replace(instance, deletion=replace(earlier, asked=now, request_id=request_id))
    return replace(instance, deletion=Deletion(granted, now, now, request_id))


def deleted(instance: Instance, now: float) -> Instance:
    """Its VM is proven gone: what remains is a tombstone.

    Args:
        instance: the entity.
        now: Unix seconds.
    """
    deletion = instance.deletion
    if deletion is None or deletion.confirmed is not None:
        return instance
    return replace(
        instance,
        deletion=replace(deletion, confirmed=now),
        pending_metadata_updates=(),
        active_metadata_update=None,
    )


def revived(instance: Instance) -> Instance:
    """Its VM was not gone after all: the deletion is under way again."""
    if not instance.is_tombstone or instance.deletion is None:
        return instance
    deletion = replace(instance.deletion, confirmed=None)
    return replace(instance, missing_since=None, deletion=deletion)
