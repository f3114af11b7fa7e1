"""rules.group_sizes: up to the minimum, within the room that other revisions leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import InFlight, InstanceGroupManager
from gce_backend.model.observed import Member
from gce_backend.rules.group_sizes import (
    UNUSED,
    Use,
    beside,
    given_up,
    growth,
    needed_size,
    room,
    wanted_size,
)
from support.documents import DOCS, tables_of, text_of

SIZES = st.integers(0, 2000)
MADE = InstanceGroupManager(3, 5, url="u")
BEING_MADE = InstanceGroupManager(3, 5, in_flight=InFlight("insert", "id", 0.0, 3))
NOT_MADE = InstanceGroupManager(3, 5)


@pytest.mark.parametrize(
    ("maximum", "others", "left"), [(0, 7, None), (5, 0, 5), (5, 3, 2), (5, 5, 0), (5, 9, 0)]
)
def test_room_is_what_the_other_revisions_leave(
    maximum: int, others: int, left: int | None
) -> None:
    """A maximum of 0 is no limit."""
    assert room(maximum, others) == left


@pytest.mark.parametrize(
    ("maximum", "siblings", "total"),
    [
        (5, [], 0),
        (5, [(MADE, 2), (MADE, 1)], 3),
        (5, [(MADE, 2), (MADE, None)], None),
        (5, [(BEING_MADE, None)], None),
        (5, [(NOT_MADE, None), (MADE, 2)], 2),
        (0, [(MADE, None)], 0),
    ],
)
def test_a_group_that_was_not_seen_counts_only_where_there_is_a_maximum(
    maximum: int, siblings: list[tuple[InstanceGroupManager, int | None]], total: int | None
) -> None:
    """Whether it is empty is not known, so that nothing grows beside it within a maximum."""
    assert beside(InstanceGroupManager(3, maximum), siblings) == total


@given(minimum=SIZES, maximum=SIZES, target=SIZES, others=SIZES)
def test_a_group_is_never_lowered_and_never_raised_above_its_minimum_or_room(
    minimum: int, maximum: int, target: int, others: int
) -> None:
    """Compute picks the victims of a lower size: there is none."""
    manager = InstanceGroupManager(minimum, maximum)
    more = growth(manager, target, others, UNUSED)
    if not more:
        assert target >= wanted_size(manager, others, UNUSED)
        return
    assert 0 < more <= minimum - target
    assert not maximum or target + more + others <= maximum
    assert growth(manager, target + more, others, UNUSED) == 0


def _number(cell: str) -> int | None:
    """A number of the documentation's table; None for `absent`."""
    return None if cell == "absent" else int(cell)


def test_sizes_are_those_of_the_documentation() -> None:
    """docs/configuration.md has an example of each rule: minimum, a tenth, spare ones, maximum."""
    heads = ("leased", "waiting", "`minimum_size`", "`maximum_size`", "`spare_size`", "machines")
    rows = tables_of(text_of(DOCS / "configuration.md"), *heads)
    assert len(rows) == 7
    for row in rows:
        leased, waiting, minimum, maximum, spare, machines = map(_number, row)
        manager = InstanceGroupManager(minimum or 0, maximum or 0, spare_size=spare)
        use = Use(leased=leased or 0, waiting=waiting or 0)
        assert wanted_size(manager, 0, use) == machines, row


@given(
    minimum=SIZES,
    maximum=SIZES,
    spare=st.none() | SIZES,
    use=st.builds(Use, leased=SIZES, waiting=SIZES, share=st.none(), ageing=st.just(0)),
)
def test_a_group_that_follows_demand_stays_within_its_limits(
    minimum: int, maximum: int, spare: int | None, use: Use
) -> None:
    """A machine for each lease and request, and the spare ones, as far as its maximum lets."""
    minimum = min(minimum, maximum) if maximum else minimum
    found = needed_size(InstanceGroupManager(minimum, maximum, spare_size=spare), use)
    if not maximum:
        assert found == minimum, "without a maximum it keeps its minimum"
        return
    assert minimum <= found <= maximum
    busy = use.leased + use.waiting
    assert found >= min(maximum, busy + (spare or 0))
    if spare is None:
        assert 10 * found >= min(10 * maximum, 11 * use.leased)
        assert found in {minimum, maximum, busy} or 10 * found < 11 * use.leased + 10


@pytest.mark.parametrize(
    ("target", "leased", "more"),
    [(0, 0, 300), (300, 300, 30), (300, 900, 100), (400, 900, 100), (950, 900, 40), (990, 900, 0)],
)
def test_a_group_grows_to_its_minimum_at_once_and_by_a_hundred_above(
    target: int, leased: int, more: int
) -> None:
    """As the ancestor grew: a tenth more than what is leased, at most 100 machines at a time."""
    manager = InstanceGroupManager(300, 1000)
    assert growth(manager, target, 0, Use(leased=leased)) == more


def _member(
    name: str, gce_id: int | None = None, action: str = "CREATING", code: str = ""
) -> Member:
    return Member(name, gce_id, "", action, error="no", error_code=code)


@pytest.mark.parametrize(
    ("target_size", "wanted", "deleting", "expected"),
    [
        (6, 6, (), ""),
        (6, 9, (), ""),
        (6, 5, (), "a"),
        (6, 5, ("b",), "b"),
        (6, 4, (), "ab"),
        (6, 0, (), "ab"),
    ],
)
def test_only_what_cannot_be_made_is_given_up_and_no_more_than_is_unwanted(
    target_size: int, wanted: int, deleting: tuple[str, ...], expected: str
) -> None:
    """Never what exists, nor what is being made without trouble, nor what goes already."""
    stockout = "ZONE_RESOURCE_POOL_EXHAUSTED"
    members = [
        _member("a", code=stockout),
        _member("b", action="CREATING_WITHOUT_RETRIES", code="QUOTA_EXCEEDED"),
        _member("c"),
        _member("d", gce_id=7, code=stockout),
        _member("e", gce_id=8, action="NONE"),
        _member("f", action="DELETING", code=stockout),
    ]
    assert given_up(members, target_size, wanted, deleting) == frozenset(expected)
