"""rules.aging: when a machine is too old or does not come up, and what that does to its group."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gce_backend.model.entities import CatalogState, Instance, InstanceGroupManager
from gce_backend.model.observed import Member
from gce_backend.model.orders import DrainCause
from gce_backend.rules.aging import (
    IN_A_ROW,
    boot_pace,
    does_not_run,
    in_a_row,
    in_turn,
    is_aged,
    is_late,
    marked_as_aged,
    marked_as_not_up,
    replaced_for_age,
)
from gce_backend.rules.group_sizes import Use, wanted_size
from gce_backend.rules.melt_down import LONGEST_PAUSE
from support.machines import CATALOGED, LEASED, NOW

MANAGER = InstanceGroupManager(3, max_age_seconds=1000, boot_seconds=100)
AGES = st.lists(st.floats(0, 4000), max_size=12)


def elapsed(since: float) -> float:
    """Seconds since a time, at NOW."""
    return NOW - since


def test_only_a_free_machine_of_that_age_is_replaced_and_it_stays_until_then() -> None:
    """Never a leased one, nor one that something else befalls."""
    old = replace(CATALOGED, listed_since=NOW - 1000)
    assert is_aged(old, MANAGER, elapsed, NOW)
    young = replace(old, listed_since=NOW - 999)
    leased = replace(old, lease=LEASED)
    for other in (young, leased, replace(old, missing_since=NOW), replace(old, listed_since=None)):
        assert not is_aged(other, MANAGER, elapsed, NOW)
    assert not is_aged(old, replace(MANAGER, max_age_seconds=0), elapsed, NOW)
    assert marked_as_aged(leased, MANAGER, NOW, room=True) is leased
    marked = marked_as_aged(old, MANAGER, NOW, room=True)
    assert replaced_for_age(marked)
    assert not is_aged(marked, MANAGER, elapsed, NOW)
    assert marked.drain is not None
    assert marked.drain.max_unavailable == 0
    without = marked_as_aged(old, MANAGER, NOW, room=False).drain
    assert without is not None
    assert without.max_unavailable == 1
    assert "1000 s" in str(marked.drain)


@given(size=st.integers(0, 2000), going=st.integers(0, 2000), maximum=st.integers(1, 3000))
def test_a_tenth_of_a_group_is_replaced_for_age_at_a_time(
    size: int, going: int, maximum: int
) -> None:
    """At least one, and the group never has more than its maximum."""
    assert going + in_turn(size, going) <= max(going, 1, size // 10)
    assert in_turn(size, 0) >= 1
    manager = InstanceGroupManager(min(size, maximum), maximum_size=maximum)
    assert wanted_size(manager, 0, Use(ageing=going)) <= maximum


def test_a_machine_that_does_not_come_up_is_given_up_in_time() -> None:
    """A VM that fails or has stopped is another matter; so is one that the catalog waits for."""
    rising = Instance(gce_id=7, rising_since=NOW - 100, listed_since=NOW - 100)
    staging = Member("a", 7, "STAGING", "CREATING")
    assert does_not_run(rising, staging, MANAGER, elapsed)
    for member in (
        None,
        Member("a", 7, "RUNNING", "NONE"),
        Member("a", 7, "TERMINATED", "NONE"),
        Member("a", 8, "STAGING", "CREATING"),
        Member("a", 7, "STAGING", "CREATING", "no room", "ZONE_RESOURCE_POOL_EXHAUSTED"),
    ):
        assert not does_not_run(rising, member, MANAGER, elapsed)
    assert not does_not_run(replace(rising, rising_since=NOW - 99), staging, MANAGER, elapsed)
    assert not does_not_run(rising, staging, replace(MANAGER, boot_seconds=-1), elapsed)
    silent = Instance(gce_id=7, catalog=CatalogState.CATALOGED, adding_since=NOW - 100)
    assert is_late(silent.adding_since, MANAGER, elapsed)
    assert not is_late(NOW - 99, MANAGER, elapsed)
    assert not is_late(None, MANAGER, elapsed)
    drain = marked_as_not_up(silent, MANAGER, NOW).drain
    assert drain is not None
    assert (drain.cause, drain.max_unavailable) == (DrainCause.BOOT, None)
    leased = replace(silent, lease=LEASED)
    assert marked_as_not_up(leased, MANAGER, NOW) is leased


@given(failures=AGES, success=st.none() | st.floats(0, 4000), coming=st.integers(0, 3))
def test_after_three_in_a_row_one_is_tried_at_a_time_ever_more_slowly(
    failures: list[float], success: float | None, coming: int
) -> None:
    """One success ends it; it never stands still for ever."""
    row = in_a_row(failures, success)
    pace = boot_pace(row, coming=coming)
    if len(row) < IN_A_ROW:
        assert pace.most is None
        return
    assert pace.most in {0, 1}
    assert pace.most == 0 or not coming
    assert (pace.most == 0) == (0 < pace.wait <= LONGEST_PAUSE)
    assert boot_pace([*row, min(row)], coming=0).wait >= boot_pace(row, coming=0).wait
    later = [age + LONGEST_PAUSE for age in row]
    assert boot_pace(later, coming=0).most == 1
    assert boot_pace(in_a_row(failures, 0.0), coming=coming).most is None
