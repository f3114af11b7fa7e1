"""rules.melt_down: a group that loses its VMs again and again is refilled ever more slowly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gce_backend.model.entities import Deletion, Instance, PendingDeletion, Permit
from gce_backend.model.orders import Cordon, Drain
from gce_backend.rules.melt_down import (
    FEW,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PROBATION_SECONDS,
    WINDOW_SECONDS,
    Pace,
    lost_for,
    pace,
)
from support.machines import CATALOGED, NOW, VM, at

AGES = st.lists(st.floats(0.0, 2 * WINDOW_SECONDS), max_size=200)
SIZES = st.integers(0, 50)
GROWN = st.none() | st.floats(0.0, 2 * WINDOW_SECONDS)


@pytest.mark.parametrize("size", [0, 1, 3, 10, 1000])
def test_hole_20_a_group_that_is_lost_once_is_refilled_at_once(size: int) -> None:
    """As is one that lost a few: one lost machine slows nothing."""
    for lost in {1, FEW, max(size, FEW)}:
        assert pace(size, [0.0] * lost, None) == Pace(lost=lost)
    assert not pace(size, [0.0] * max(size, FEW), None).is_melting
    assert pace(size, [0.0] * (max(size, FEW) + 1), None).is_melting


@pytest.mark.parametrize(
    ("turnovers", "pause", "few"),
    [(1, 30, 50), (2, 60, 25), (5, 480, 3), (6, 600, 1), (40, 600, 1)],
)
def test_hole_20_each_turn_over_doubles_the_pause_and_halves_the_try(
    turnovers: int, pause: float, few: int
) -> None:
    """Nothing is made in the pause, a few after it, all once nothing was lost for a while."""

    def then(quiet: float, grown: float | None = None) -> tuple[int | None, float]:
        found = pace(100, [quiet] * (100 * turnovers + 1), grown)
        assert found.is_melting
        return found.most, found.wait

    assert then(0.0) == (0, pause)
    assert then(pause - 1) == (0, 1)
    assert then(pause) == (few, PROBATION_SECONDS)
    assert then(pause + 5, grown=pause + 6) == (few, PROBATION_SECONDS - 5)
    assert then(pause + 5, grown=4) == (0, PROBATION_SECONDS - 5)
    assert then(pause + PROBATION_SECONDS, grown=4) == (None, 0)


@given(size=SIZES, losses=AGES, grown=GROWN)
def test_hole_20_no_wait_is_longer_than_the_longest_pause_and_the_probation(
    size: int, losses: list[float], grown: float | None
) -> None:
    """And what nobody lost for so long is made; nothing is made beyond what is lacking."""
    found = pace(size, losses, grown)
    assert 0 <= found.wait <= LONGEST_PAUSE + PROBATION_SECONDS
    assert found.limited(7) <= 7
    assert (found.most is None) == (found.wait == 0)
    if all(age >= LONGEST_PAUSE + PROBATION_SECONDS for age in losses):
        assert found.limited(7) == 7


@given(size=SIZES, losses=AGES, more=AGES)
def test_hole_20_more_losses_never_hasten(
    size: int, losses: list[float], more: list[float]
) -> None:
    """Of two groups, the one that lost more waits no shorter and gets no more."""
    less, worse = pace(size, losses, None), pace(size, losses + more, None)
    assert worse.limited(1000) <= less.limited(1000)
    assert worse.turnovers >= less.turnovers


def test_hole_20_losses_are_forgotten_after_an_hour() -> None:
    """A group recovers whatever it went through."""
    assert pace(3, [WINDOW_SECONDS] * 100, None) == Pace()
    assert pace(3, [WINDOW_SECONDS - 1] * 4, None).most is None
    assert FIRST_PAUSE + PROBATION_SECONDS < WINDOW_SECONDS


def test_hole_20_only_what_nobody_here_asked_for_is_a_loss() -> None:
    """A VM that was to be deleted before it vanished or stopped was not lost."""
    missing = replace(VM, missing_since=NOW - 10)
    stopped = replace(CATALOGED, stopped_since=NOW - 20)
    both = replace(missing, stopped_since=NOW - 20)
    for instance, age in ((VM, None), (missing, 10), (stopped, 20), (both, 20)):
        assert lost_for(instance, at(NOW)) == age

    def deletion(requested: float) -> Deletion:
        return Deletion(Permit.ABSENT, requested, NOW, "x", NOW)

    def asked(instance: Instance, ago: float) -> list[Instance]:
        return [
            replace(instance, deletion=deletion(NOW - ago)),
            replace(instance, drain=Drain("", NOW - ago)),
            replace(instance, cordon=Cordon("", NOW - ago)),
            replace(instance, pending_deletion=PendingDeletion("", NOW - ago)),
        ]

    assert [lost_for(it, at(NOW)) for it in asked(missing, 11)] == [None] * 4
    assert [lost_for(it, at(NOW)) for it in asked(missing, 9)] == [10] * 4
