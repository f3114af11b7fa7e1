"""The caps on deletions: what any fault, ours or another's, can destroy in a while. Pure (S5)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from gce_backend.model.entities import Permit
from gce_backend.settings.settings import DeletionSettings


class Evidence(StrEnum):
    """What a permit rests on."""

    EXPLICIT = "explicit"
    """Something was said for that very machine, or it never was in the catalog."""
    ABSENCE = "absence"
    """The Machine Provider did not know it."""


EVIDENCE = {
    Permit.RECLAIMED: Evidence.EXPLICIT,
    Permit.REMOVED: Evidence.EXPLICIT,
    Permit.NEVER_CATALOGED: Evidence.EXPLICIT,
    Permit.ABSENT: Evidence.ABSENCE,
}


class Allowance(msgspec.Struct, frozen=True):
    """How many more deletions may begin now, by evidence."""

    explicit: int
    absence: int

    def of(self, evidence: Evidence) -> int:
        """How many with this evidence."""
        return self.explicit if evidence is Evidence.EXPLICIT else self.absence


def allowance(
    settings: DeletionSettings,
    recent: Iterable[Permit],
    fleet_size: int,
    *,
    lifted: bool,
) -> Allowance:
    """How many deletions may begin now.

    Args:
        settings: the caps.
        recent: permits of the deletions that began within the window, or are about to begin.
        fleet_size: machines in the fleet, for the shares.
        lifted: whether an operator has lifted the caps for now.
    """
    if lifted:
        return Allowance(fleet_size, fleet_size)
    used = dict.fromkeys(Evidence, 0)
    for permit in recent:
        used[EVIDENCE[permit]] += 1
    wide = max(settings.permitted_count, int(fleet_size * settings.permitted_share))
    narrow = max(settings.unconfirmed_count, int(fleet_size * settings.unconfirmed_share))
    return Allowance(
        explicit=max(0, wide - used[Evidence.EXPLICIT]),
        absence=max(0, narrow - used[Evidence.ABSENCE]),
    )
