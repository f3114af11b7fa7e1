"""How fast to refill a group whose VMs vanish or stop repeatedly. Pure.

A machine that is lost occasionally is replaced at once, and so is a whole group. If a group
loses more machines within an hour than its size, something destroys them as they come. Then only a
few are created to test whether they live, after a pause that doubles with each turnover of the
group. Once nothing has been lost for a while after that pause, the whole group is refilled.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from gce_backend.base.ages import Elapsed
from gce_backend.model.entities import Instance

MELT_DOWN = "MeltDown"
"""The condition of a group that loses its VMs repeatedly."""
WINDOW_SECONDS = 3600.0
"""Seconds for which a loss counts."""
FEW = 3
"""Losses within the window that do not slow any group, however small."""
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0
"""Seconds between the last loss and the next try: after the first turnover, and at most."""
PROBATION_SECONDS = 120.0
"""Seconds without a loss after a pause until the whole group is refilled."""


class Pace(msgspec.Struct, frozen=True):
    """How fast a group may grow now.

    Attributes:
        lost: VMs that it lost within the window without a deletion by the daemon.
        turnovers: how many times its size it lost, not counting the first time.
        most: most machines that may be created now; None: as many as it lacks.
        wait: seconds until more may be created; 0 when `most` is None.
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
        """How many of the missing machines may be created now."""
        return missing if self.most is None else min(missing, self.most)


FULL = Pace()
"""Nothing slows the group."""


def lost_for(instance: Instance, elapsed: Elapsed) -> float | None:
    """Seconds since a VM vanished, stopped or left its group; None when it did not.

    A VM that was about to be deleted does not count as lost, nor one that an operator looks at.
    """
    troubles = (instance.missing_since, instance.stopped_since)
    ages = [elapsed(since) for since in troubles if since is not None]
    if not ages:
        return None
    pending, deletion = instance.pending_deletion, instance.deletion
    ordered = instance.cordon or instance.drain
    wishes = (
        pending.since if pending is not None else None,
        ordered.since if ordered is not None else None,
        deletion.requested if deletion is not None else None,
    )
    wished = any(elapsed(since) >= max(ages) for since in wishes if since is not None)
    return None if wished else max(ages)


def pace(size: int, losses: Collection[float], grown: float | None) -> Pace:
    """How fast a group may grow.

    Args:
        size: the number of machines that it should have.
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
    """The message about a group that loses its VMs repeatedly."""
    return (
        f"{lost} of its VMs vanished or stopped within an hour, and nobody here asked for it. The "
        "group is refilled a few at a time until they live. Find out who deletes them, or why they "
        "stop."
    )
