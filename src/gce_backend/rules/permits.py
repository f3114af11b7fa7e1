"""What an instance becomes in its catalog entry's life and in its deletion. Pure and idempotent.

Each function is a change to the stored entity: it looks again at what it is given, and returns that
very object when its reason no longer holds.
"""

from __future__ import annotations

from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    Permit,
)
from gce_backend.rules.sightings import has_gone_missing, is_stopped_for_good


def is_unknown(instance: Instance) -> bool:
    """Whether nothing is known of a machine's own entry: one under its host name may be another's.

    That it was never cataloged is no proof: the store may be older than the world.
    """
    unknown = {CatalogState.NEVER, CatalogState.ABSENT, CatalogState.REFUSED}
    return instance.catalog in unknown and instance.pending_deletion is None


def held(instance: Instance, lease: Lease) -> Instance:
    """The Machine Provider says that somebody holds it: what allowed its deletion was wrong.

    Args:
        lease: the lease, with its end as far as the catalog says it.
    """
    if instance.is_tombstone:
        return instance
    known = instance.lease
    return replace(
        instance,
        catalog=CatalogState.CATALOGED,
        lease=lease if known is None else replace(lease, since=known.since),
        lost_since=None,
        pending_deletion=None,
        deletion=None,
    )


def deleting(instance: Instance, request_id: str, now: UnixSeconds) -> Instance:
    """Its deletion is about to be asked for, or to be asked for again, if it has a permit now.

    Args:
        instance: the entity, read just before.
        request_id: the UUID of the call.
    """
    earlier = instance.deletion
    granted = permit(instance, now)  # also to repeat: a lease may have become known since
    if granted is None or (earlier is not None and earlier.request_id == request_id):
        return instance
    if earlier is not None:
        return replace(instance, deletion=replace(earlier, asked=now, request_id=request_id))
    return replace(instance, deletion=Deletion(granted, now, now, request_id))


def deleted(instance: Instance, now: UnixSeconds) -> Instance:
    """Its VM is proven gone: what remains is a tombstone."""
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


def is_leaving(instance: Instance, elapsed: Elapsed, patience: float, *, active: bool) -> bool:
    """Whether delete-drained-instances is to see to this machine's end.

    Args:
        patience: seconds in which a VM that stopped may come back.
        active: whether the configuration names its manager and revision.
    """
    if instance.pending_deletion is not None:
        return False
    if not active or instance.drain is not None or instance.deletion is not None:
        return True
    if instance.missing_since is not None:
        return has_gone_missing(instance, elapsed)
    if is_stopped_for_good(instance, elapsed, patience):
        return True
    return instance.catalog is CatalogState.ABSENT


def permit(instance: Instance, now: UnixSeconds) -> Permit | None:
    """What allows this VM's destruction (S1); None when nothing does.

    Args:
        instance: the entity, read just before.
    """
    if instance.is_tombstone:
        return None
    if instance.pending_deletion is not None:
        return Permit.RECLAIMED
    if instance.catalog is CatalogState.REMOVED:
        return Permit.REMOVED
    # REFUSED is an absence too: the catalog holds another's entry under its host name.
    absent = instance.catalog in {CatalogState.ABSENT, CatalogState.REFUSED}
    if absent and not lease_runs(instance, now):
        return Permit.ABSENT
    if instance.catalog is CatalogState.NEVER and instance.lease is None:
        return Permit.NEVER_CATALOGED
    return None


def lease_runs(instance: Instance, now: UnixSeconds) -> bool:
    """Whether a lease known here has not run out; one without a known end never has."""
    lease = instance.lease
    if lease is None:
        return False
    return lease.expiration is None or now < lease.expiration
