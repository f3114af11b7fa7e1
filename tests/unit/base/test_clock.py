"""base.clock: what a clock says of stored times."""

from __future__ import annotations

import asyncio

from support.simulation import VirtualClock

DAY = 86_400.0


async def test_hole_18_a_stamp_keeps_its_age_when_the_clock_jumps_before_anybody_asks() -> None:
    """Ahead or back: seconds later it is seconds old."""
    for jump in (DAY, -DAY):
        clock = VirtualClock(1_000_000.0)
        stored = clock.stamp()
        await asyncio.sleep(5)
        clock.epoch += jump
        assert clock.elapsed(stored) == 5


async def test_hole_18_a_planned_time_comes_when_it_was_planned() -> None:
    """Though the clock is set back a day in the middle of the wait."""
    clock = VirtualClock(1_000_000.0)
    until = clock.now() + 60
    assert clock.remaining(until, 600) == 60
    await asyncio.sleep(50)
    clock.epoch -= DAY
    assert clock.remaining(until, 600) == 10
    await asyncio.sleep(10)
    assert clock.remaining(until, 600) == 0


async def test_the_earliest_time_leaves_out_what_the_clock_was_set_ahead() -> None:
    """A clock that is set back takes it along: nothing comes too early by it."""
    clock = VirtualClock(1_000_000.0)
    begun = clock.earliest()
    await asyncio.sleep(5)
    clock.epoch += DAY
    assert clock.earliest() == begun + 5
    clock.epoch -= 2 * DAY
    assert clock.earliest() == clock.now() == begun + 5 - DAY


async def test_the_earliest_time_is_that_which_a_server_tells() -> None:
    """The soonest answer counts. A clock may be behind, too, and be put right."""
    clock = VirtualClock(1_000_000.0 + DAY)
    begun = clock.monotonic()
    assert clock.earliest() == 1_000_000.0 + DAY
    await asyncio.sleep(5)
    clock.told(1_000_005.0, begun)  # it was under way for five seconds
    assert clock.earliest() == 1_000_010.0
    clock.told(1_000_005.0, begun + 5)
    assert clock.earliest() == 1_000_005.0
    await asyncio.sleep(5)
    clock.told(1_000_010.0, begun + 6)
    assert clock.earliest() == 1_000_010.0
    clock.epoch -= 2 * DAY
    assert clock.earliest() == clock.now() == 1_000_010.0 - DAY
    clock.epoch += 1.5 * DAY
    assert clock.earliest() == 1_000_010.0
