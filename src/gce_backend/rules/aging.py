"""Which machines are too old or never come up, and how fast those are replaced. Pure.

An old machine that nobody holds is replaced: another is made first, then it leaves the catalog. A
machine that does not come up in time is deleted. Where several in a row do not, something is wrong
with all of them: their group tries one at a time, ever more slowly, until one comes up.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import CatalogState, Instance, InstanceGroupManager
from gce_backend.model.observed import Member
from gce_backend.model.orders import Drain, DrainCause
from gce_backend.rules.melt_down import FIRST_PAUSE, FULL, LONGEST_PAUSE, Pace
from gce_backend.rules.surplus import is_idle

IN_A_ROW = 3
"""Machines in a row that do not come up until their group tries one at a time."""
LOOK_SECONDS = 60.0
"""Seconds until a group is looked at again whose next machine is on trial."""
SHARE = 10
"""One machine of so many is replaced for its age at a time, at least one of a group."""
NOT_UP = "BootFailing"
"""The condition of a group whose machines do not come up."""


def is_aged(
    instance: Instance, manager: InstanceGroupManager, elapsed: Elapsed, now: UnixSeconds
) -> bool:
    """Whether a machine is to be replaced for its age: nobody holds it, and nothing befalls it."""
    if not manager.max_age_seconds or instance.listed_since is None:
        return False
    old = elapsed(instance.listed_since) >= manager.max_age_seconds
    return old and instance.catalog is CatalogState.CATALOGED and is_idle(instance, now)


def replaced_for_age(instance: Instance) -> bool:
    """Whether a machine stays only until another has come in its place."""
    drain, stays = instance.drain, instance.deletion is None
    return stays and drain is not None and drain.cause is DrainCause.AGE


def in_turn(size: int, going: int) -> int:
    """How many more machines of a group may be replaced for their age now.

    Args:
        size: machines that the group needs.
        going: machines that are being replaced for it.
    """
    return max(0, max(1, size // SHARE) - going)


def marked_as_aged(
    instance: Instance, manager: InstanceGroupManager, now: UnixSeconds, *, room: bool
) -> Instance:
    """The change when a machine's turn has come: it drains once another can be leased.

    Args:
        room: whether the maximum leaves room for one more; without, the old machine leaves first.
    """
    if not is_idle(instance, now):
        return instance
    reason = f"It is older than its manager's max_age_seconds ({manager.max_age_seconds} s)."
    cause, lacking = DrainCause.AGE, 0 if room else 1
    return replace(instance, drain=Drain(reason, now, max_unavailable=lacking, cause=cause))


def does_not_run(
    instance: Instance, member: Member | None, manager: InstanceGroupManager, elapsed: Elapsed
) -> bool:
    """Whether a VM was requested boot_seconds ago, and has neither come to run nor failed."""
    return (
        is_late(instance.rising_since, manager, elapsed)
        and instance.catalog is CatalogState.NEVER
        and member is not None
        and member.gce_id == instance.gce_id
        and member.is_starting
    )


def is_late(since: UnixSeconds | None, manager: InstanceGroupManager, elapsed: Elapsed) -> bool:
    """Whether a machine has had boot_seconds since a time: when it was requested, or cataloged."""
    patience = manager.boot_seconds
    return patience > 0 and since is not None and elapsed(since) >= patience


def marked_as_not_up(
    instance: Instance, manager: InstanceGroupManager, now: UnixSeconds
) -> Instance:
    """The change when a machine did not come up: it drains at once."""
    if not is_idle(instance, now):
        return instance
    reason = f"It did not come up within its manager's boot_seconds ({manager.boot_seconds} s)."
    return replace(instance, drain=Drain(reason, now, cause=DrainCause.BOOT))


def in_a_row(failures: Collection[float], success: float | None) -> list[float]:
    """The failures since the last machine came up.

    Args:
        failures: how long ago a machine was given up each time, in seconds.
        success: how long ago the last one came up, in seconds; None when none did.
    """
    return [age for age in failures if success is None or age < success]


def boot_pace(failures: Collection[float], *, coming: int) -> Pace:
    """How fast a group may grow whose machines do not come up.

    Args:
        failures: how long ago machines in a row were given up, in seconds.
        coming: its machines that have not come up yet.
    """
    more = len(failures) - IN_A_ROW
    if more < 0:
        return FULL
    pause = min(FIRST_PAUSE * 2.0 ** min(more, 16), LONGEST_PAUSE)
    quiet = min(failures)
    if quiet < pause:
        return Pace(most=0, wait=pause - quiet)
    return Pace(most=0, wait=LOOK_SECONDS) if coming else Pace(most=1)


def not_up_message(count: int, seconds: int) -> str:
    """The message about a group whose machines do not come up.

    Args:
        count: so many in a row.
        seconds: the boot_seconds of its manager.
    """
    return (
        f"{count} of its machines in a row did not come up within {seconds} s and were replaced. "
        "It tries one at a time, ever more slowly, until one comes up. Look at the serial console "
        "of one, and at its image and start-up script."
    )
