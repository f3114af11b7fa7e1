"""The caps' arithmetic (S5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import Begun, Permit
from gce_backend.rules.deletion_caps import (
    COUNTED,
    Cap,
    admitted,
    begin,
    by_permit,
    counting,
    limits,
    slot_seconds,
    told,
    used,
)
from gce_backend.settings.settings import DeletionSettings

DEFAULT = DeletionSettings()
PERMITS = st.lists(st.sampled_from(list(Permit)), max_size=60)
R, G, A, N = Permit.RECLAIMED, Permit.REMOVED, Permit.ABSENT, Permit.NEVER_CATALOGED


def _fitting(
    asked: Sequence[Permit], begun: Iterable[Begun], capped: Mapping[Cap, int]
) -> list[bool]:
    """Whether each of these deletions may begin, by its place."""
    begins = admitted(dict(enumerate(asked)), begun, capped)
    assert begins == sorted(begins)
    return [place in begins for place in range(len(asked))]


def test_every_permit_is_counted_and_a_not_found_twice() -> None:
    """Leases that end have a cap of their own; a not-found counts under the narrow cap as well."""
    counted = {permit: {cap for cap in Cap if permit in COUNTED[cap]} for permit in Permit}
    assert counted == {
        R: {Cap.RECLAIMED},
        G: {Cap.PERMITTED},
        N: {Cap.PERMITTED},
        A: {Cap.PERMITTED, Cap.UNCONFIRMED},
    }


@pytest.mark.parametrize(
    ("fleet", "reclaimed", "permitted", "unconfirmed"),
    [
        (1, 500, 5, 2),
        (10, 500, 5, 2),
        (11, 500, 5, 2),
        (120, 500, 60, 6),
        (1000, 1000, 500, 50),
        (100_000, 100_000, 50_000, 5000),
    ],
)
def test_the_defaults_leave_half_of_a_fleet_of_ten(
    fleet: int, reclaimed: int, permitted: int, unconfirmed: int
) -> None:
    """Each cap is the larger of its count and its share (ADR 0011)."""
    assert limits(DEFAULT, fleet) == {
        Cap.RECLAIMED: reclaimed,
        Cap.PERMITTED: permitted,
        Cap.UNCONFIRMED: unconfirmed,
    }


def test_hole_14_of_120_machines_half_may_go_and_all_that_were_reclaimed() -> None:
    """120 of 120 went in half a minute; a thousand leases that end at once are no loss."""
    small, large = limits(DEFAULT, 120), limits(DEFAULT, 1000)
    assert sum(_fitting([G] * 60 + [N] * 60, (), small)) == 60
    assert sum(_fitting([A] * 120, (), small)) == 6
    assert all(_fitting([R] * 1000, (), large))


def test_each_cap_is_a_number_or_a_share_of_the_fleet_and_the_larger_holds() -> None:
    """Each with its own number and its own share, rounded down."""
    numbers = DeletionSettings(
        reclaimed_count=1,
        permitted_count=2,
        unconfirmed_count=3,
        reclaimed_share=0.5,
        permitted_share=0.25,
        unconfirmed_share=0.125,
    )
    small = {Cap.RECLAIMED: 1, Cap.PERMITTED: 2, Cap.UNCONFIRMED: 3}
    assert limits(numbers, 0) == small
    assert limits(numbers, 39) == {Cap.RECLAIMED: 19, Cap.PERMITTED: 9, Cap.UNCONFIRMED: 4}


def test_what_is_admitted_is_the_first_that_fits() -> None:
    """One that does not fit stands in no other's way."""
    caps = {Cap.RECLAIMED: 1, Cap.PERMITTED: 3, Cap.UNCONFIRMED: 1}
    begun = (Begun(0.0, {G: 1}),)
    asked = [A, A, R, R, N, G]
    assert _fitting(asked, begun, caps) == [True, False, True, False, True, False]


@given(asked=PERMITS, before=PERMITS, fleet=st.integers(0, 300))
def test_what_has_begun_and_what_begins_never_exceed_the_caps(
    asked: list[Permit], before: list[Permit], fleet: int
) -> None:
    """Under each cap; and nothing is refused that would fit under all of its caps."""
    caps = limits(DeletionSettings(reclaimed_count=9, reclaimed_share=0.2), fleet)
    begun = begin((), before, 0.0, 10.0)
    answers = _fitting(asked, begun, caps)
    after = Counter(before) + Counter(p for p, fits in zip(asked, answers, strict=True) if fits)
    for cap, limit in caps.items():
        first = sum(n for permit, n in Counter(before).items() if permit in COUNTED[cap])
        assert sum(after[permit] for permit in COUNTED[cap]) <= max(limit, first)
    for permit, fits in zip(asked, answers, strict=True):
        if not fits:
            counting = [cap for cap in Cap if permit in COUNTED[cap]]
            assert any(sum(after[p] for p in COUNTED[cap]) >= caps[cap] for cap in counting)


def test_what_is_held_back_and_what_has_begun_is_told_by_permit() -> None:
    """In one order, without what is none."""
    assert by_permit({A: 2, R: 1, G: 0}) == "1 reclaimed, 2 absent"
    caps = {Cap.RECLAIMED: 4, Cap.PERMITTED: 9, Cap.UNCONFIRMED: 3}
    begun = Begun(0.0, {R: 1, A: 2}), Begun(9.0, {N: 3})
    start = "At most this many deletions may begin within 600 s: "
    assert told({R: 1}, begun, caps, 600.0) == f"{start}4 reclaimed (so far 1)."
    both = "9 removed or absent or never-cataloged (so far 5) and 3 absent (so far 2)."
    assert told({A: 1}, begun, caps, 600.0) == start + both, "none is full any longer"
    caps[Cap.UNCONFIRMED] = 2
    assert told({A: 1}, begun, caps, 600.0) == f"{start}2 absent (so far 2)."


def test_no_cap_holds_nothing_back() -> None:
    """An operator has lifted them."""
    assert all(_fitting([A, G, R, N] * 50, (Begun(0.0, {A: 50}),), {}))


def test_deletions_of_a_slot_are_counted_together_and_none_is_lost() -> None:
    """A window has no more than its slots, however often deletions begin."""
    slot = slot_seconds(DEFAULT)
    begun: tuple[Begun, ...] = ()
    for second in range(int(DEFAULT.window_seconds)):
        begun = begin(begun, [R, A], float(second), slot)
    assert used(begun) == {R: 600, A: 600}
    assert len(begun) == 60
    assert [one.at for one in begun[:3]] == [0.0, 10.0, 20.0]


def test_a_deletion_counts_until_the_window_and_a_slot_are_over() -> None:
    """Deletions of a slot are counted together, by the time of the first."""
    kept = DEFAULT.window_seconds + slot_seconds(DEFAULT)
    begun = (Begun(100.0, {R: 1}), Begun(101.0, {R: 1}))
    assert counting(begun, lambda at: 99.0 + kept - at, DEFAULT) == begun
    assert counting(begun, lambda at: 100.0 + kept - at, DEFAULT) == begun[1:]


def test_what_begins_in_the_same_second_is_counted_with_it() -> None:
    """Two batches of one run share a slot."""
    begun = begin((), [G], 5.0, 10.0)
    assert begin(begun, [G, A], 5.0, 10.0) == (Begun(5.0, {G: 2, A: 1}),)
    assert begin(begun, [R], 5.5, 10.0) == (Begun(5.0, {G: 1, R: 1}),)


def test_nothing_that_begins_changes_nothing() -> None:
    """No write without a reason."""
    begun = (Begun(5.0, {G: 1}),)
    assert begin(begun, [], 6.0, 10.0) is begun


def test_a_clock_that_was_set_back_does_not_make_deletions_older() -> None:
    """What begins before the last that began is counted by itself."""
    begun = begin((Begun(1000.0, {G: 1}),), [G], 500.0, 10.0)
    assert begun == (Begun(1000.0, {G: 1}), Begun(500.0, {G: 1}))
    assert begin(begun, [R], 509.0, 10.0)[-1] == Begun(500.0, {G: 1, R: 1})
    assert begin(begun, [R], 510.0, 10.0)[-1] == Begun(510.0, {R: 1})
