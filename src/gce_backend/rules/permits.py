"""Permits to delete a VM, and the changes of an instance during its deletion. Pure and idempotent.

Each function is a change to the stored entity. It checks its reason again, and returns the same
object when the reason no longer applies.
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

    A stored NEVER proves nothing: the store may have been restored from an older backup.
    """
    unknown = {CatalogState.NEVER, CatalogState.ABSENT, CatalogState.REFUSED}
    return instance.catalog in unknown and instance.pending_deletion is None


def held(instance: Instance, lease: Lease) -> Instance:
    """The change when the Machine Provider says that the machine is leased: its permit was wrong.

    Args:
        lease: the lease, with its end if the catalog has it.
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


def deleting(
    instance: Instance,
    request_id: str,
    now: UnixSeconds,
    asked: UnixSeconds,
    *,
    unsent: bool = False,
) -> Instance:
    """The change before a deletion is requested or repeated, if the machine has a permit now.

    Args:
        instance: the entity, just read.
        request_id: the UUID of the call.
        now: the earliest time that it can be: no lease ends because a clock was set ahead.
        asked: the time that is stored.
        unsent: whether the VM is gone already, so that no call names it.
    """
    earlier = instance.deletion
    granted = permit(instance, now)  # also for a repeat: a lease may have become known since
    if granted is None or (earlier is not None and earlier.request_id == request_id):
        return instance
    if earlier is not None:
        unsent = unsent and earlier.unsent
        again = replace(earlier, asked=asked, request_id=request_id, unsent=unsent)
        return replace(instance, deletion=again)
    return replace(instance, deletion=Deletion(granted, asked, asked, request_id, unsent=unsent))


def is_due_again(deletion: Deletion, elapsed: Elapsed, pause: float) -> bool:
    """Whether a deletion that has not ended is requested again.

    Args:
        pause: seconds between two requests.
    """
    return elapsed(deletion.asked) >= pause


def deleted(instance: Instance, now: UnixSeconds) -> Instance:
    """The change when its VM is proven gone: the entity becomes a tombstone, and is kept small."""
    deletion = instance.deletion
    if deletion is None or deletion.confirmed is not None:
        return instance
    return replace(
        instance,
        deletion=replace(deletion, confirmed=now),
        subscribed=None,
        pending_metadata_updates=(),
        active_metadata_update=None,
    )


def revived(instance: Instance) -> Instance:
    """The change when its VM still exists after all: the deletion is under way again."""
    if not instance.is_tombstone or instance.deletion is None:
        return instance
    deletion = replace(instance.deletion, confirmed=None)
    return replace(instance, missing_since=None, deletion=deletion)


def is_leaving(instance: Instance, elapsed: Elapsed, patience: float, *, active: bool) -> bool:
    """Whether delete-drained-instances should delete this machine.

    Args:
        patience: seconds in which a stopped VM may come back.
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


def awaits_drain(instance: Instance, elapsed: Elapsed, patience: float, *, active: bool) -> bool:
    """Whether the catalog does not know a machine, and no operator has drained it.

    A machine whose VM is gone is not counted: nobody can hold it.

    Args:
        patience: seconds for which the catalog must lack it.
        active: whether the configuration names its manager and revision.
    """
    ending = instance.drain or instance.deletion or instance.pending_deletion
    is_gone = instance.missing_since is not None and instance.abandoned_since is None
    if ending is not None or is_gone:
        return False
    if instance.catalog is CatalogState.REFUSED:  # an active group's machine is tried again
        return not active
    if instance.catalog is CatalogState.ABSENT:
        return True
    lost_since = instance.lost_since
    cataloged = instance.catalog in {CatalogState.CATALOGED, CatalogState.ADDING}
    return cataloged and lost_since is not None and elapsed(lost_since) >= patience


def permit(instance: Instance, now: UnixSeconds) -> Permit | None:
    """The permit to destroy this VM (S1); None when there is none.

    A cordoned VM has none, whatever the Machine Provider says: an operator keeps it.

    Args:
        instance: the entity, just read.
    """
    if instance.is_tombstone or instance.cordon is not None:
        return None
    if instance.pending_deletion is not None:
        return Permit.RECLAIMED
    if instance.catalog is CatalogState.REMOVED:
        return Permit.REMOVED
    # REFUSED also counts as absent: the catalog holds another's entry under its host name.
    absent = instance.catalog in {CatalogState.ABSENT, CatalogState.REFUSED}
    if absent and not lease_runs(instance, now):
        return Permit.ABSENT
    if instance.catalog is CatalogState.NEVER and instance.lease is None:
        return Permit.NEVER_CATALOGED
    return None


def lease_runs(instance: Instance, now: UnixSeconds) -> bool:
    """Whether a known lease has not expired; a lease without a known end never expires."""
    lease = instance.lease
    if lease is None:
        return False
    return lease.expiration is None or now < lease.expiration
