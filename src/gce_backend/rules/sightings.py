"""What a listed or an unlisted VM means for its entity. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from gce_backend.model.entities import (
    CatalogState,
    Instance,
)


def seen_instance(instance: Instance | None, gce_id: int | None, url: str, now: float) -> Instance:
    """What fetch-instances makes of an entity whose VM is listed.

    Args:
        instance: the entity; None when there is none.
        gce_id: the listed VM's id; None before the VM exists.
        url: its resource link.
        now: Unix seconds.

    Returns:
        The entity to store; the same object when nothing changes.
    """
    if instance is None:
        return Instance(gce_id=gce_id, url=url, rising_since=now)
    if gce_id is None or gce_id == instance.gce_id:
        same = gce_id == instance.gce_id  # where it has lost its id, the one we know is gone
        if instance.missing_since is not None and same and not instance.is_tombstone:
            return replace(instance, missing_since=None)
        return instance
    if instance.is_tombstone:  # the name is used again, by another VM
        return Instance(gce_id=gce_id, url=url, rising_since=now)
    if instance.gce_id is None and instance.deletion is None:
        return replace(instance, gce_id=gce_id, url=url, missing_since=None)
    if instance.catalog is CatalogState.NEVER and instance.deletion is None:
        news = replace(instance, gce_id=gce_id, url=url, missing_since=None, drain=None)
        return replace(news, rising_since=now)
    # Another VM under the name of one that the catalog knows: the one we know is missing.
    return instance if instance.missing_since is not None else replace(instance, missing_since=now)


def unseen_instance(instance: Instance, now: float) -> Instance:
    """What fetch-instances makes of an entity that a complete listing does not show."""
    if instance.is_tombstone:
        return instance
    if instance.missing_since is not None and instance.missing_since <= now:
        return instance
    return replace(instance, missing_since=now)  # anew where the clock was set back


MISSING_SECONDS = 10.0
"""How long a group must go on not listing a VM before anything is done about it."""


def is_lost(instance: Instance, now: float, patience: float) -> bool:
    """Whether a machine is to leave the catalog although the configuration names it.

    Its group does not list it any more, or the catalog itself has not known it for a while.

    Args:
        instance: the entity.
        now: Unix seconds.
        patience: seconds for which the catalog must go on not knowing it.
    """
    if instance.missing_since is not None:
        return now - instance.missing_since >= MISSING_SECONDS
    return instance.lost_since is not None and now - instance.lost_since >= patience
