"""What jobs ask machines for: few have it, so that nobody has to look at the many others. Pure."""

from __future__ import annotations

import enum

from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.orders import DrainCause


class Facet(enum.Enum):
    """Something about a machine that follows from its entity alone, not from the time."""

    UPDATING = "updating"
    """Its metadata is to be changed."""
    UNCATALOGED = "uncataloged"
    """It is not known to be in the catalog, and its VM is not proven gone."""
    TROUBLED = "troubled"
    """Its VM was not listed, or does not run, or the catalog denies it.

    Also once it is deleted, unless that was only because it was reclaimed, as most machines are.
    """
    NOT_UP = "not-up"
    """It leaves, or has left, because it did not come up."""
    LEAVING = "leaving"
    """It is reclaimed, drained, cordoned or being deleted, and its VM is not proven gone."""
    DELETED = "deleted"
    """Its VM is proven gone."""
    LEASED = "leased"
    """A lease on it is known, which may have expired, and its VM is not proven gone."""
    NOT_OFFERED = "not-offered"
    """It is neither leased nor can be, and its VM is not proven gone."""
    NOT_SWEPT = "not-swept"
    """The sweep does not ask the catalog about it, and its VM is not proven gone."""


_NONE: frozenset[Facet] = frozenset()


def facets_of(instance: Instance | None) -> frozenset[Facet]:
    """The facets of a machine; an absent one has none."""
    if instance is None:
        return _NONE
    found = []
    cataloged = instance.catalog is CatalogState.CATALOGED
    if _is_troubled(instance):
        found.append(Facet.TROUBLED)
    if instance.drain is not None and instance.drain.cause is DrainCause.BOOT:
        found.append(Facet.NOT_UP)
    if instance.active_metadata_update is not None or instance.pending_metadata_updates:
        found.append(Facet.UPDATING)
    if instance.is_tombstone:
        found.append(Facet.DELETED)
        return frozenset(found)
    if not is_offered(instance):
        found.append(Facet.NOT_OFFERED)
    if not is_swept(instance):
        found.append(Facet.NOT_SWEPT)
    if not cataloged:
        found.append(Facet.UNCATALOGED)
    ending = instance.pending_deletion or instance.deletion or instance.drain or instance.cordon
    if ending is not None:
        found.append(Facet.LEAVING)
    if instance.lease is not None:
        found.append(Facet.LEASED)
    return frozenset(found) if found else _NONE


def _is_troubled(instance: Instance) -> bool:
    troubles = [
        since
        for since in (
            instance.missing_since,
            instance.stopped_since,
            instance.lost_since,
            instance.abandoned_since,
        )
        if since is not None
    ]
    if not troubles:
        return False
    reclaimed = instance.pending_deletion
    if reclaimed is None or instance.lease is not None or not instance.is_tombstone:
        return True
    return min(troubles) < reclaimed.since


def is_offered(instance: Instance) -> bool:
    """Whether a machine is leased or can be."""
    return (
        instance.catalog is CatalogState.CATALOGED
        and instance.deletion is None
        and instance.lost_since is None
        and instance.missing_since is None
        and instance.stopped_since is None
        and instance.drain is None
    )


def is_swept(instance: Instance) -> bool:
    """Whether the sweep asks the catalog about a machine."""
    if instance.pending_deletion is not None or instance.deletion is not None:
        return False
    return instance.catalog is CatalogState.CATALOGED or is_held_for_ever(instance)


def is_held_for_ever(instance: Instance) -> bool:
    """Whether a machine that the catalog is not known to hold has a lease without a known end."""
    lease = instance.lease
    elsewhere = instance.catalog not in {CatalogState.CATALOGED, CatalogState.REMOVED}
    return elsewhere and lease is not None and lease.expiration is None
