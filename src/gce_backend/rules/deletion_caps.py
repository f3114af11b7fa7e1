"""The caps on deletions: what any fault, ours or another's, can destroy in a while. Pure (S5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import Begun, Permit
from gce_backend.settings.settings import DeletionSettings

SLOTS = 60
"""Parts of the window in which deletions are counted together."""


class Cap(StrEnum):
    """What is counted together."""

    RECLAIMED = "reclaimed"
    """Machines whose leases ended: they go at the pace of leases, whatever the fleet's size."""
    PERMITTED = "permitted"
    """All others: whoever asks for them, most of a fleet stays."""
    UNCONFIRMED = "unconfirmed"
    """Those of the others that the Machine Provider did not know."""


COUNTED: Mapping[Cap, frozenset[Permit]] = {
    Cap.RECLAIMED: frozenset({Permit.RECLAIMED}),
    Cap.PERMITTED: frozenset({Permit.REMOVED, Permit.NEVER_CATALOGED, Permit.ABSENT}),
    Cap.UNCONFIRMED: frozenset({Permit.ABSENT}),
}


def limits(settings: DeletionSettings, fleet_size: int) -> dict[Cap, int]:
    """How many deletions may begin within a window, by cap.

    Args:
        settings: the caps.
        fleet_size: machines in the fleet, for the shares.
    """
    return {
        Cap.RECLAIMED: max(settings.reclaimed_count, int(fleet_size * settings.reclaimed_share)),
        Cap.PERMITTED: max(settings.permitted_count, int(fleet_size * settings.permitted_share)),
        Cap.UNCONFIRMED: max(
            settings.unconfirmed_count, int(fleet_size * settings.unconfirmed_share)
        ),
    }


def admitted(
    asked: Iterable[Permit], begun: Iterable[Begun], capped: Mapping[Cap, int]
) -> list[bool]:
    """Which deletions may begin, in the order in which they are asked for.

    Args:
        asked: their permits.
        begun: the deletions that count.
        capped: how many may begin, by cap; a cap that is not there does not hold.
    """
    by_permit = used(begun)
    left = {
        cap: limit - sum(by_permit[permit] for permit in COUNTED[cap])
        for cap, limit in capped.items()
    }
    answers: list[bool] = []
    for permit in asked:
        counting = [cap for cap in left if permit in COUNTED[cap]]
        fits = all(left[cap] > 0 for cap in counting)
        for cap in counting:
            left[cap] -= fits
        answers.append(fits)
    return answers


def used(begun: Iterable[Begun]) -> Counter[Permit]:
    """How many deletions have begun, by permit.

    Args:
        begun: the deletions that count.
    """
    total: Counter[Permit] = Counter()
    for one in begun:
        total.update(one.permits)
    return total


def slot_seconds(settings: DeletionSettings) -> float:
    """For how long deletions are counted together: so much later than the window they are free.

    Args:
        settings: the window.
    """
    return settings.window_seconds / SLOTS


def begin(
    begun: tuple[Begun, ...], permits: Iterable[Permit], now: UnixSeconds, slot: float
) -> tuple[Begun, ...]:
    """The deletions that count when these begin too.

    Args:
        begun: those that count already, oldest first.
        permits: what allows those that begin now.
        slot: seconds in which deletions are counted together.
    """
    new = Counter(permits)
    if not new:
        return begun
    last = begun[-1] if begun else None
    if last is not None and 0 <= now - last.at < slot:
        return (*begun[:-1], replace(last, permits=dict(Counter(last.permits) + new)))
    return (*begun, Begun(now, dict(new)))
