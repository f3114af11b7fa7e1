"""A machine's entity in each of its states: for tests of rules about one machine."""

from __future__ import annotations

from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    PendingDeletion,
    Permit,
)
from gce_backend.model.keys import manager_key
from gce_backend.model.observed import Member

NOW = 1_000_000.0
KEY = manager_key("linux", "0" * 40, "zone").child("linux-1")
VM = Instance(gce_id=7, url="u")
CATALOGED = replace(VM, catalog=CatalogState.CATALOGED)
ABSENT = replace(VM, catalog=CatalogState.ABSENT)
LEASED = Lease(NOW - 10, NOW + 10)
RECLAIMED = replace(CATALOGED, pending_deletion=PendingDeletion("", NOW))
UNDER_WAY = Deletion(Permit.ABSENT, NOW - 500, NOW - 500, "first")
TOMBSTONE = replace(
    RECLAIMED, deletion=Deletion(Permit.RECLAIMED, NOW, NOW, "x", NOW), missing_since=NOW - 1
)
RUNNING = Member("linux-1", 7, "RUNNING", "NONE")


def at(now: float) -> Elapsed:
    """How long ago stored times are at this time, Unix seconds; one in the future is new."""
    return lambda since: max(0.0, now - since)
