"""rules.schedules: sizes by a place's clock, also on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.types import ManagerConfig, Schedule
from gce_backend.model.entities import NextSizes
from gce_backend.rules.schedules import next_change, sizes_at

WORKDAYS = tuple(range(5))
DAILY = tuple(range(7))


def at(text: str) -> float:
    """The moment of an ISO 8601 text."""
    return datetime.fromisoformat(text).timestamp()


def minutes(text: str) -> int:
    """Minutes after midnight."""
    hours, _, rest = text.partition(":")
    return 60 * int(hours) + int(rest)


def manager(*schedules: Schedule) -> ManagerConfig:
    """One that keeps two machines otherwise."""
    return ManagerConfig(
        template_base_name="linux",
        minimum_size=2,
        maximum_size=30,
        zone="us-central1-a",
        schedules=schedules,
    )


def schedule(
    start: str,
    end: str,
    minimum: int = 10,
    *,
    days: tuple[int, ...] = DAILY,
    zone: str = "Europe/Zurich",
) -> Schedule:
    """One that keeps ten machines."""
    return Schedule(
        days=days,
        start=minutes(start),
        end=minutes(end),
        time_zone=zone,
        minimum_size=minimum,
    )


@pytest.mark.parametrize(
    ("moment", "minimum"),
    [
        ("2026-12-01T07:59:59+01:00", 2),  # a Tuesday
        ("2026-12-01T08:00+01:00", 10),
        ("2026-12-01T17:59:59+01:00", 10),
        ("2026-12-01T18:00+01:00", 2),
        ("2026-12-05T12:00+01:00", 2),  # a Saturday
    ],
)
def test_working_hours(moment: str, minimum: int) -> None:
    """It begins and ends on the minute; fields that a schedule leaves out stay."""
    sizes = sizes_at(manager(schedule("08:00", "18:00", days=WORKDAYS)), at(moment))
    assert sizes == (minimum, 30, None)


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    """From Friday evening to Saturday morning."""
    night = manager(schedule("22:00", "06:00", days=(4,)))
    assert sizes_at(night, at("2026-12-04T23:00+01:00")).minimum_size == 10
    assert sizes_at(night, at("2026-12-05T05:59+01:00")).minimum_size == 10
    assert sizes_at(night, at("2026-12-05T06:00+01:00")).minimum_size == 2
    assert sizes_at(night, at("2026-12-05T23:00+01:00")).minimum_size == 2


@pytest.mark.parametrize(
    ("start", "end", "begins", "ends"),
    [
        # Spring, 2027-03-28: 02:00 to 03:00 do not exist.
        ("02:30", "05:00", "2027-03-28T01:30+00:00", "2027-03-28T03:00+00:00"),
        ("01:00", "02:30", "2027-03-28T00:00+00:00", "2027-03-28T01:30+00:00"),
        # Autumn, 2026-10-25: 02:00 to 03:00 come twice.
        ("02:30", "05:00", "2026-10-25T00:30+00:00", "2026-10-25T04:00+00:00"),
        ("01:00", "02:30", "2026-10-24T23:00+00:00", "2026-10-25T00:30+00:00"),
    ],
)
def test_days_on_which_clocks_change(start: str, end: str, begins: str, ends: str) -> None:
    """It begins once and ends once."""
    one = manager(schedule(start, end))
    first, last = at(begins), at(ends)
    assert sizes_at(one, first - 1).minimum_size == 2
    assert sizes_at(one, first).minimum_size == 10
    assert sizes_at(one, last - 1).minimum_size == 10
    assert sizes_at(one, last).minimum_size == 2
    assert next_change(one, first - 1) == NextSizes(at=first, minimum_size=10, maximum_size=30)
    assert next_change(one, first) == NextSizes(at=last, minimum_size=2, maximum_size=30)


def test_the_last_schedule_in_force_decides_and_equal_sizes_are_no_change() -> None:
    """One after the other without a gap is one time."""
    both = manager(schedule("08:00", "12:00"), schedule("12:00", "18:00"))
    morning = at("2026-12-01T09:00+01:00")
    found = next_change(both, morning)
    assert found is not None
    assert found.at == at("2026-12-01T18:00+01:00")
    over = manager(schedule("08:00", "18:00"), schedule("10:00", "11:00", 20))
    assert sizes_at(over, at("2026-12-01T10:30+01:00")).minimum_size == 20
    assert sizes_at(over, at("2026-12-01T11:30+01:00")).minimum_size == 10
    assert next_change(manager(), morning) is None


@given(
    start=st.integers(0, 24 * 60 - 1),
    length=st.integers(1, 24 * 60),
    days=st.sets(st.integers(0, 6), min_size=1),
    zone=st.sampled_from(["Europe/Zurich", "America/New_York", "UTC", "Australia/Lord_Howe"]),
    hours=st.integers(0, 24 * 365),
)
def test_nothing_changes_before_the_next_change(
    start: int, length: int, days: set[int], zone: str, hours: int
) -> None:
    """And at it, the sizes are those that were said."""
    one = manager(
        Schedule(
            days=tuple(sorted(days)),
            start=start,
            end=(start + length) % (24 * 60) or 24 * 60,
            time_zone=zone,
            minimum_size=10,
        )
    )
    now = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours)).timestamp()
    found, present = next_change(one, now), sizes_at(one, now)
    until = found.at if found is not None else now + 7 * 86400
    step = max(1.0, (until - now) / 50)
    assert all(
        sizes_at(one, now + n * step) == present for n in range(50) if n * step < until - now
    )
    if found is not None:
        assert sizes_at(one, found.at).minimum_size == found.minimum_size != present.minimum_size
