"""base.dates: any number is a moment of the calendar."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.base.dates import date

FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "moment"),
    [
        (0.0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1e300, LAST),
        (-1e300, FIRST),
        (math.inf, LAST),
        (-math.inf, FIRST),
        (math.nan, FIRST),
    ],
)
def test_what_no_calendar_holds_is_told_as_the_nearest_that_it_does(
    seconds: float, moment: datetime
) -> None:
    """A number that is none is as early as can be."""
    assert date(seconds) == moment


@given(st.floats())
def test_every_number_has_a_date_that_every_zone_can_tell(seconds: float) -> None:
    """Whatever a peer or an older store has sent."""
    assert FIRST <= date(seconds) <= LAST
