"""The caps on deletions: limit what any fault can destroy within a window. Pure (S5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import Begun, Permit
from gce_backend.settings.settings import DeletionSettings

K = TypeVar("K")

SLOTS = 60
"""Number of slots in a window; deletions within a slot are counted together."""


class Cap(StrEnum):
    """The kinds of caps."""

    RECLAIMED = "reclaimed"
    """Machines whose leases ended: their deletions follow the pace of leases, at any fleet size."""
    PERMITTED = "permitted"
    """All other machines: this cap keeps most of a fleet, whatever requests the deletions."""
    UNCONFIRMED = "unconfirmed"
    """The other machines that the Machine Provider did not know."""


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
    asked: Mapping[K, Permit], begun: Iterable[Begun], capped: Mapping[Cap, int]
) -> list[K]:
    """Which deletions may begin: the first that fit, in the order of the requests.

    Args:
        asked: the permits of the requested deletions, by machine.
        begun: the deletions that count.
        capped: how many may begin, by cap; a missing cap does not apply.
    """
    total = used(begun)
    left = {
        cap: limit - sum(total[permit] for permit in COUNTED[cap]) for cap, limit in capped.items()
    }
    begins: list[K] = []
    for key, permit in asked.items():
        counting = [cap for cap in left if permit in COUNTED[cap]]
        if all(left[cap] > 0 for cap in counting):
            begins.append(key)
            for cap in counting:
                left[cap] -= 1
    return begins


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
    """Seconds of a slot; deletions stop counting up to one slot later than the window ends.

    Args:
        settings: the window.
    """
    return settings.window_seconds / SLOTS


def counting(
    begun: Iterable[Begun], elapsed: Elapsed, settings: DeletionSettings
) -> tuple[Begun, ...]:
    """The deletions that still count.

    Args:
        begun: all that are stored.
        elapsed: how long ago something was; a jump of the wall clock does not age it.
        settings: the window.
    """
    kept = settings.window_seconds + slot_seconds(settings)
    return tuple(one for one in begun if elapsed(one.at) < kept)


def begin(
    begun: tuple[Begun, ...], permits: Iterable[Permit], now: UnixSeconds, slot: float
) -> tuple[Begun, ...]:
    """The deletions that count when these begin too.

    Args:
        begun: the deletions that already count, oldest first.
        permits: the permits of the deletions that begin now.
        slot: the length of a slot in seconds.
    """
    new = Counter(permits)
    if not new:
        return begun
    last = begun[-1] if begun else None
    if last is not None and 0 <= now - last.at < slot:
        return (*begun[:-1], replace(last, permits=dict(Counter(last.permits) + new)))
    return (*begun, Begun(now, dict(new)))


def by_permit(counts: Mapping[Permit, int]) -> str:
    """Numbers of deletions in words, e.g. `1 reclaimed, 2 absent`."""
    return ", ".join(f"{counts[it]} {it.value}" for it in Permit if counts.get(it))


def told(
    held: Mapping[Permit, int], begun: Iterable[Begun], capped: Mapping[Cap, int], seconds: float
) -> str:
    """Which caps hold deletions back, as a sentence.

    Args:
        held: how many are held back, by permit.
        begun: the deletions that count.
        capped: how many may begin, by cap.
        seconds: the length of the window.
    """
    total = used(begun)
    caps = [
        (cap, limit, sum(total[permit] for permit in COUNTED[cap]))
        for cap, limit in capped.items()
        if any(held.get(permit) for permit in COUNTED[cap])
    ]
    full = [one for one in caps if one[2] >= one[1]] or caps
    said = " and ".join(
        f"{limit} {_listed(COUNTED[cap])} (so far {count})" for cap, limit, count in full
    )
    return f"At most this many deletions may begin within {seconds:.0f} s: {said}."


def _listed(permits: frozenset[Permit]) -> str:
    return " or ".join(permit.value for permit in Permit if permit in permits)
