"""Which daemons run on a store, by the heartbeats that each writes. Pure.

A daemon writes a heartbeat when it starts, and then only while there are heartbeats of another one:
alone, it writes nothing. Another daemon is alive if its heartbeats changed between two reads. So a
wrong clock, or the last heartbeat of a killed process, does not look like a daemon.
"""

from __future__ import annotations

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import Beat, Daemons

FORGOTTEN_SECONDS = 3600.0
"""After which the last sign of a daemon that gave no other is dropped."""


def beaten(known: Daemons, process: str, where: str, now: UnixSeconds) -> Daemons:
    """The signs of life with a new one of this process.

    Args:
        process: its id.
        where: where it runs, for people.
    """
    kept = {
        other: beat
        for other, beat in known.running.items()
        if abs(now - beat.seen) < FORGOTTEN_SECONDS
    }
    return Daemons({**kept, process: Beat(where, now)})


def is_alone(known: Daemons, process: str) -> bool:
    """Whether a process is the only one that has given signs: it need not give another."""
    return known.running.keys() == {process}


def gone(known: Daemons, process: str) -> Daemons:
    """The signs of life without those of this process, which ends."""
    return Daemons({other: beat for other, beat in known.running.items() if other != process})


def others(before: Daemons | None, found: Daemons, process: str) -> list[str]:
    """Where other daemons run, for people.

    Args:
        before: the signs at the look before; None at the first look.
        found: the signs now.
        process: the id of the process that looks.
    """
    if before is None:
        return []
    return sorted(
        beat.where
        for other, beat in found.running.items()
        if other != process and other in before.running and before.running[other] != beat
    )
