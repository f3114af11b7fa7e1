"""What sizes a manager has at a time, by its schedules. Pure.

Begin and end are moments of a place's own clock. One that a change of the clock skips counts by the
clock before the change; of one that comes twice, the first counts. So each schedule begins and ends
once a day, also on the days on which clocks change.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds, date
from gce_backend.configuration.types import ManagerConfig, Schedule
from gce_backend.configuration.values import time_zone
from gce_backend.model.entities import NextSizes

DAYS_AHEAD = 8
"""Days in which a weekly schedule has begun and ended once."""


class Sizes(NamedTuple):
    """A manager's sizes."""

    minimum_size: int
    maximum_size: int
    spare_size: int | None


def sizes_at(manager: ManagerConfig, now: UnixSeconds) -> Sizes:
    """A manager's sizes at a time; of several schedules in force the last one decides."""
    sizes = own = Sizes(manager.minimum_size, manager.maximum_size, manager.spare_size)
    for schedule in manager.schedules:
        if any(start <= now < end for start, end in _times(schedule, now)):
            minimum, maximum = schedule.minimum_size, schedule.maximum_size
            sizes = Sizes(
                own.minimum_size if minimum is None else minimum,
                own.maximum_size if maximum is None else maximum,
                own.spare_size if schedule.spare_size is None else schedule.spare_size,
            )
    return sizes


def next_change(manager: ManagerConfig, now: UnixSeconds) -> NextSizes | None:
    """When a manager's sizes change next, and to what; None when they stay."""
    moments = {
        moment
        for schedule in manager.schedules
        for times in _times(schedule, now)
        for moment in times
        if moment > now
    }
    present = sizes_at(manager, now)
    for moment in sorted(moments):
        then = sizes_at(manager, moment)
        if then != present:
            return NextSizes(at=moment, **then._asdict())
    return None


def _times(schedule: Schedule, now: UnixSeconds) -> Iterator[tuple[UnixSeconds, UnixSeconds]]:
    """When a schedule begins and ends, from the day before this one on."""
    zone = time_zone(schedule.time_zone) or UTC
    today = date(now).astimezone(zone).date()
    midnight = datetime(today.year, today.month, today.day)  # noqa: DTZ001  (a place's own clock)
    over = schedule.end <= schedule.start
    for number in range(-1, DAYS_AHEAD + 1):
        day = midnight + timedelta(days=number)
        if day.weekday() in schedule.days:
            start = day + timedelta(minutes=schedule.start)
            end = day + timedelta(minutes=schedule.end, days=over)
            yield start.replace(tzinfo=zone).timestamp(), end.replace(tzinfo=zone).timestamp()
