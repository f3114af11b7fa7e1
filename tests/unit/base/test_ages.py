"""base.ages: ages of stored times, whatever the wall clock does."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gce_backend.base.ages import REMEMBERED_SECONDS, Ages

NOW = 1_000_000.0
DAY = 86_400.0
STEPS = st.lists(
    st.tuples(st.floats(0.0, 500.0), st.floats(-3 * DAY, 3 * DAY)), min_size=1, max_size=30
)
"""How long until the next look, and how far the wall clock jumps meanwhile, in seconds."""


@given(stored=st.floats(-3 * DAY, 3 * DAY), steps=STEPS)
def test_hole_18_an_age_grows_with_monotonic_time_whatever_the_wall_clock_does(
    stored: float, steps: list[tuple[float, float]]
) -> None:
    """From the first look on; a time in the future is new then."""
    ages, moment, jumped = Ages(), 50.0, 0.0
    first = ages.elapsed(NOW + stored, NOW, moment)
    assert first == pytest.approx(max(0.0, -stored), abs=1e-6)
    passed = 0.0
    for wait, jump in steps:
        passed, moment, jumped = passed + wait, moment + wait, jumped + jump
        age = ages.elapsed(NOW + stored, NOW + passed + jumped, moment)
        assert age == pytest.approx(first + passed, abs=1e-6)


@given(ahead=st.floats(-3 * DAY, 3 * DAY), longest=st.floats(0.0, 2 * DAY), steps=STEPS)
def test_hole_18_no_wait_is_longer_than_it_can_have_been_planned(
    ahead: float, longest: float, steps: list[tuple[float, float]]
) -> None:
    """It shrinks with monotonic time from the first look on; one planned further ahead is over."""
    assume(abs(ahead - longest) > 1e-3)
    ages, moment, jumped = Ages(), 50.0, 0.0
    first = ages.remaining(NOW + ahead, longest, NOW, moment)
    assert 0.0 <= first <= longest + 1e-6
    assert first == pytest.approx(max(0.0, ahead) if ahead <= longest else 0.0, abs=1e-6)
    passed = 0.0
    for wait, jump in steps:
        passed, moment, jumped = passed + wait, moment + wait, jumped + jump
        left = ages.remaining(NOW + ahead, longest, NOW + passed + jumped, moment)
        assert left == pytest.approx(max(0.0, first - passed), abs=1e-6)


def test_what_nobody_asks_about_is_forgotten() -> None:
    """After an hour or two; what is asked about stays, however long."""
    ages = Ages()
    for second in range(10_000):
        ages.elapsed(NOW + second, NOW + second, float(second))
        assert ages.elapsed(NOW, NOW + second - DAY, float(second)) == second
    assert len(ages._recent) + len(ages._older) <= 2 * REMEMBERED_SECONDS + 4
