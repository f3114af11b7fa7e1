"""How fast a group is refilled whose VMs vanish or stop again and again. Pure.

A machine that is lost now and then is replaced at once, and so is a whole group that is lost once.
Where more are lost within an hour than the group has, something takes them as they come: then a few
are made to see whether they live, after a pause that doubles with each turn-over of the group. Once
nothing has been lost for a while after that pause, the group is refilled as a whole.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from gce_backend.base.ages import Elapsed
from gce_backend.model.entities import Instance

MELT_DOWN = "MeltDown"
"""The condition of a group that loses its VMs again and again."""
WINDOW_SECONDS = 3600.0
"""Losses count for this long."""
FEW = 3
"""Losses within the window that slow no group, however small."""
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0
"""Seconds between the last loss and the next try: at the first turn-over, and at most."""
PROBATION_SECONDS = 120.0
"""For how long nothing may be lost after a pause until the group is refilled as a whole."""


class Pace(msgspec.Struct, frozen=True):
    """How fast a group may grow now.

    Attributes:
        lost: VMs that it lost within the window and nobody here asked for.
        turnovers: how many times as many as it is to have, but for the first time.
        most: machines that may be made now; None: as many as it lacks.
        wait: seconds until more may be made; 0 when `most` is None.
    """

    lost: int = 0
    turnovers: int = 0
    most: int | None = None
    wait: float = 0.0

    @property
    def is_melting(self) -> bool:
        """Whether more VMs were lost than chance explains."""
        return self.turnovers > 0

    def limited(self, missing: int) -> int:
        """How many of the machines that a group lacks may be made now."""
        return missing if self.most is None else min(missing, self.most)


FULL = Pace()
"""Nothing slows the group."""


def lost_for(instance: Instance, elapsed: Elapsed) -> float | None:
    """Seconds since a VM vanished, stopped or left its group; None when it did not.

    What was to be deleted when that happened was not lost.
    """
    troubles = (instance.missing_since, instance.stopped_since)
    ages = [elapsed(since) for since in troubles if since is not None]
    if not ages:
        return None
    pending, drain, deletion = instance.pending_deletion, instance.drain, instance.deletion
    wishes = (
        pending.since if pending is not None else None,
        drain.since if drain is not None else None,
        deletion.requested if deletion is not None else None,
    )
    wished = any(elapsed(since) >= max(ages) for since in wishes if since is not None)
    return None if wished else max(ages)


def pace(size: int, losses: Collection[float], grown: float | None) -> Pace:
    """How fast a group may grow.

    Args:
        size: machines that it is to have.
        losses: how long ago each was lost, in seconds.
        grown: how long ago it last grew, in seconds; None when that is not known.
    """
    recent = [age for age in losses if age < WINDOW_SECONDS]
    turnovers = max(0, len(recent) - 1) // max(size, FEW)
    if not turnovers:
        return Pace(lost=len(recent))
    pause = min(FIRST_PAUSE * 2.0 ** min(turnovers - 1, 16), LONGEST_PAUSE)
    quiet = min(recent)
    lives = pause + PROBATION_SECONDS - quiet
    if lives <= 0:
        return Pace(len(recent), turnovers)
    if quiet < pause:
        return Pace(len(recent), turnovers, 0, pause - quiet)
    tried = grown is not None and grown < quiet
    most = 0 if tried else max(1, size >> min(turnovers, 16))
    return Pace(len(recent), turnovers, most, lives)


def melt_down_message(lost: int) -> str:
    """What to tell of a group that loses its VMs again and again."""
    return (
        f"{lost} of its VMs vanished or stopped within an hour, and nobody here asked for it. The "
        "group is refilled a few at a time until they live. Find out who deletes them, or why they "
        "stop."
    )
