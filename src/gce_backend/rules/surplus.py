"""Which machines a group has too many, and which of them leave. Pure.

A group has surplus when it has had more machines than it needs for the whole of its manager's
`surplus_seconds`. So a demand that comes and goes within that time makes a group grow once, and
shrink once. What an operator's lower limit makes too many leaves at once. A machine that somebody
holds is never chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.base.dates import UnixSeconds
from gce_backend.configuration.values import KEEP_SURPLUS
from gce_backend.model.entities import CatalogState, Excess, Instance, InstanceGroupManager
from gce_backend.model.orders import Drain
from gce_backend.rules.group_sizes import Use, needed_size
from gce_backend.rules.permits import lease_runs

SLOTS = 30
"""Samples that a history of `surplus_seconds` has; what happens within one slot is one sample."""
REASON = "its group has more machines than it needs."


class Limits(NamedTuple):
    """What the configuration says of a group's size; no maximum is infinite, no spare_size 0."""

    minimum: int
    maximum: float
    spare: int


class Now(NamedTuple):
    """The present time, in Unix seconds and in monotonic seconds."""

    time: UnixSeconds
    moment: float


class SizeSample(NamedTuple):
    """A group at one time, and until the next sample.

    Attributes:
        at: when, monotonic seconds.
        size: machines that it had, without those on their way out; None when that was under higher
            limits, and no longer matters.
        use: what was asked of it.
    """

    at: float
    size: int | None
    use: Use


class SizeHistory(msgspec.Struct, frozen=True):
    """A group's sizes of the last `surplus_seconds`, as far as this process has seen them.

    Attributes:
        limits: what the configuration said last.
        samples: oldest first; the first may be older.
        lowered: whether the limits fell since the first sample: what is unknown does not hold
            surplus back then.
    """

    limits: Limits
    samples: tuple[SizeSample, ...] = ()
    lowered: bool = False


def limits_of(manager: InstanceGroupManager) -> Limits:
    """A manager's limits."""
    return Limits(
        manager.minimum_size, manager.maximum_size or float("inf"), manager.spare_size or 0
    )


def noted(
    history: SizeHistory | None,
    manager: InstanceGroupManager,
    size: int,
    use: Use,
    moment: float,
) -> SizeHistory:
    """A history with what was seen now.

    Args:
        history: of this process until now; None when there is none.
        size: the group's target size without the machines that are on their way out.
        use: what is asked of the group.
        moment: the present time in monotonic seconds.
    """
    limits = limits_of(manager)
    samples = history.samples if history is not None else ()
    lowered = history.lowered if history is not None else False
    if history is not None and any(
        now < before for now, before in zip(limits, history.limits, strict=True)
    ):
        samples, lowered = tuple(sample._replace(size=None) for sample in samples), True
        if use.share is not None:  # earlier shares were parts of the higher limits
            samples = ()
    window = max(0, manager.surplus_seconds)
    samples = _with(samples, SizeSample(moment, size, use), window / SLOTS)
    while len(samples) > 1 and samples[1].at <= moment - window:
        samples = samples[1:]
    return SizeHistory(limits, samples, lowered)


def remembered(
    excess: Excess, manager: InstanceGroupManager, moment: float, elapsed: Elapsed
) -> SizeHistory:
    """The history of a group, as far as an earlier process has stored it.

    Args:
        excess: what it stored.
        manager: the group's manager.
        moment: the present time in monotonic seconds.
    """
    use = Use(share=excess.needed)
    sample = SizeSample(moment - elapsed(excess.since), excess.size, use)
    return SizeHistory(limits_of(manager), (sample,))


def excess_of(
    history: SizeHistory, manager: InstanceGroupManager, size: int, use: Use, now: Now
) -> Excess | None:
    """Since when a group has had more machines than it needs, as far as the history tells.

    Args:
        history: with what was seen now.
        manager: the group's manager.
        size: the group's target size without the machines that are on their way out.
        use: what is asked of the group now.
        now: the present time.
    """
    needed = needed_size(manager, use)
    if size <= needed:
        return None
    since, least = now.moment, size
    for sample in reversed(history.samples):
        wanted = needed_size(manager, sample.use)
        if sample.size is None or min(least, sample.size) <= max(needed, wanted):
            break
        since, least, needed = sample.at, min(least, sample.size), max(needed, wanted)
    return Excess(now.time - (now.moment - since), least, needed)


def is_worth_storing(known: Excess | None, new: Excess | None, age: float, window: float) -> bool:
    """Whether what is stored of an excess is no longer true, or is much too weak.

    Args:
        known: what is stored.
        new: what is so.
        age: how long ago the stored one began, in seconds.
        window: the group's surplus_seconds.
    """
    if known is None or new is None:
        return known is not new
    if new.needed > known.needed or new.size < known.size:
        return True
    weak = (new.size, new.needed) != (known.size, known.needed)
    return weak and age > 2 * max(window, SLOTS)


def _with(samples: tuple[SizeSample, ...], new: SizeSample, slot: float) -> tuple[SizeSample, ...]:
    """The samples and a new one; within a slot the smaller size and the larger use count."""
    last = samples[-1] if samples else None
    if last is None or new.at - last.at >= slot:
        same = last is not None and (last.size, last.use) == (new.size, new.use)
        return samples if same else (*samples, new)
    size = new.size if last.size is None or new.size is None else min(last.size, new.size)
    shares = [one.share for one in (last.use, new.use) if one.share is not None]
    leased, waiting = max(last.use.leased, new.use.leased), max(last.use.waiting, new.use.waiting)
    use = Use(leased, waiting, max(shares, default=None))
    return (*samples[:-1], SizeSample(last.at, size, use))


def surplus(
    history: SizeHistory, manager: InstanceGroupManager, size: int, use: Use, moment: float
) -> int:
    """How many machines of a group are too many, and have been for long enough.

    Args:
        history: with what was seen now.
        size: the group's target size without the machines that are on their way out.
        use: what is asked of the group now.
        moment: the present time in monotonic seconds.
    """
    if manager.surplus_seconds == KEEP_SURPLUS or not history.samples:
        return 0
    known = history.samples[0].at <= moment - manager.surplus_seconds
    if not known and not history.lowered:
        return 0
    kept = max(needed_size(manager, one) for one in (use, *(it.use for it in history.samples)))
    excess = size - kept
    for sample in history.samples:
        if sample.size is not None:
            excess = min(excess, sample.size - needed_size(manager, sample.use))
    return max(0, excess)


def is_idle(instance: Instance, now: UnixSeconds) -> bool:
    """Whether a machine may be removed as surplus: nobody holds it, and nothing befalls it."""
    troubled = (
        instance.drain,
        instance.cordon,
        instance.pending_deletion,
        instance.deletion,
        instance.missing_since,
        instance.stopped_since,
        instance.lost_since,
    )
    settled = instance.catalog not in {CatalogState.ADDING, CatalogState.ABSENT}
    return settled and not lease_runs(instance, now) and all(it is None for it in troubled)


def is_on_its_way_out(instance: Instance) -> bool:
    """Whether a machine that its group may still count is about to be deleted.

    A cordoned machine is not: it is kept, and counts.
    """
    ending = (
        instance.drain,
        instance.pending_deletion,
        instance.deletion,
        instance.missing_since,
        instance.stopped_since,
    )
    ends = instance.catalog is CatalogState.ABSENT or any(it is not None for it in ending)
    return ends and instance.cordon is None


def waits_to_leave(instance: Instance) -> bool:
    """Whether a drained machine stays until another can be leased in its place."""
    drain, gone = instance.drain, (instance.missing_since, instance.stopped_since)
    stays = instance.deletion is None and all(it is None for it in gone)
    return stays and drain is not None and drain.max_unavailable is not None


def first_to_leave(idle: Iterable[tuple[str, Instance]], count: int) -> tuple[str, ...]:
    """The names of the surplus machines: those of least use first, then the oldest.

    Args:
        idle: machines for which `is_idle` holds, by name.
        count: how many leave.
    """
    return tuple(name for name, _ in sorted(idle, key=_order)[:count])


def _order(named: tuple[str, Instance]) -> tuple[int, float, str]:
    name, instance = named
    offered = instance.catalog is CatalogState.CATALOGED
    rank = offered + (instance.gce_id is not None)
    return rank, instance.adding_since or 0.0, name


def marked(instance: Instance, now: UnixSeconds) -> Instance:
    """The change when a machine is surplus: it drains."""
    if not is_idle(instance, now):
        return instance
    return replace(instance, drain=Drain(REASON, now, surplus=True))


def unmarked(instance: Instance) -> Instance:
    """The change when a machine that drains as surplus is needed after all."""
    drain = instance.drain
    if drain is None or not drain.surplus or instance.deletion is not None:
        return instance
    return replace(instance, drain=None)


def to_keep(
    marked_ones: Iterable[tuple[str, Instance]], count: int, now: UnixSeconds
) -> tuple[str, ...]:
    """The names of machines that drain as surplus and stay after all.

    These are the leased ones, and of the others those that are still in the catalog first.

    Args:
        marked_ones: machines that drain as surplus and whose deletion has not begun, by name.
        count: how many the group needs.
    """
    leased = [name for name, instance in marked_ones if lease_runs(instance, now)]
    rest = [named for named in marked_ones if named[0] not in leased]
    rest.sort(key=lambda named: (named[1].catalog is not CatalogState.CATALOGED, named[0]))
    return (*leased, *(name for name, _ in rest[: max(0, count)]))
