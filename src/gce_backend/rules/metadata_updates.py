"""Changes to a VM's metadata: compresses, merges, refuses and restores them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import Instance, MetadataUpdate

FIRST_DELAY = 5.0
LONGEST_DELAY = 600.0
MAX_TOTAL = 512 * 1024
"""Bytes of keys and values that Compute accepts for a VM."""

_DENIED = ("startup-script", "shutdown-script", "ssh-keys", "sshkeys", "windows-", "sysprep-")


def is_denied(key: str) -> bool:
    """Whether a message must not set this key, which would run code on the VM or give access."""
    return key.lower().startswith(_DENIED)


def compress(instance: Instance) -> Instance:
    """All pending updates as one active update; later ones win."""
    if not instance.pending_metadata_updates or instance.active_metadata_update is not None:
        return instance
    items: dict[str, str | None] = {}
    for update in instance.pending_metadata_updates:
        items.update(update.items)
    updates = instance.pending_metadata_updates
    active = MetadataUpdate(
        items,
        attempts=max(update.attempts for update in updates),
        not_before=max(update.not_before for update in updates),
    )
    return replace(instance, pending_metadata_updates=(), active_metadata_update=active)


def merge(present: Mapping[str, str], items: Mapping[str, str | None]) -> dict[str, str]:
    """A VM's metadata with an update applied: None removes a key, others' keys stay.

    Args:
        present: the VM's metadata.
        items: the update; denied keys in it are left out.
    """
    merged = dict(present)
    for key, value in items.items():
        if is_denied(key):
            continue
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def is_too_large(metadata: Mapping[str, str]) -> bool:
    """Whether Compute would always refuse this metadata."""
    return sum(len(f"{key}{value}".encode()) for key, value in metadata.items()) > MAX_TOTAL


def put_back(instance: Instance, now: UnixSeconds) -> Instance:
    """Puts the active update back in front of the pending ones, without its operation."""
    active = instance.active_metadata_update
    if active is None:
        return instance
    delay = min(FIRST_DELAY * 2.0 ** min(active.attempts, 16), LONGEST_DELAY)
    update = MetadataUpdate(active.items, attempts=active.attempts + 1, not_before=now + delay)
    return replace(
        instance,
        active_metadata_update=None,
        pending_metadata_updates=(update, *instance.pending_metadata_updates),
    )


def finish(instance: Instance) -> Instance:
    """The change after the active update was applied."""
    return replace(instance, active_metadata_update=None)
