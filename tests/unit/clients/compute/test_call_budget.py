"""Call budgets, retry budget and back-off."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gce_backend.base.errors import InvalidRequestError, RateLimitedError, TransientError
from gce_backend.clients.compute.call_budget import CallBudget, Priority, Quota, QuotaGroup
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget
from support.simulation import VirtualClock, VirtualTimeLoop

READ, MUTATE = (Quota("p", group) for group in (QuotaGroup.READ, QuotaGroup.MUTATE))
OTHER = Quota("q", QuotaGroup.READ)


def budget_of(limit: int, max_wait: float = 1e6) -> CallBudget:
    """A budget with one limit for all groups."""
    return CallBudget(VirtualClock(), dict.fromkeys(QuotaGroup, limit), max_wait=max_wait)


@settings(max_examples=60)
@example(limit=1, gaps=[0.9, 59.5], pauses=[])
@given(
    limit=st.integers(1, 7),
    gaps=st.lists(st.floats(0, 90) | st.floats(59, 61), min_size=1, max_size=60),
    pauses=st.lists(st.tuples(st.floats(0, 500), st.floats(0, 100)), max_size=3),
)
def test_no_sixty_seconds_hold_more_calls_than_the_limit(
    limit: int, gaps: list[float], pauses: list[tuple[float, float]]
) -> None:
    """S4: whatever the arrivals, no window of a minute exceeds the budget; none is sent paused."""
    sent: list[float] = []
    paused: list[tuple[float, float]] = []

    async def scenario() -> None:
        budget = budget_of(limit)
        loop = asyncio.get_running_loop()

        async def call() -> None:
            await budget.acquire(READ)
            sent.append(loop.time())

        async def pause(at: float, seconds: float) -> None:
            await asyncio.sleep(at)
            budget.pause(READ, loop.time() + seconds)
            paused.append((loop.time(), loop.time() + seconds))

        tasks = [asyncio.create_task(pause(*one)) for one in pauses]
        for gap in gaps:
            await asyncio.sleep(gap)
            tasks.append(asyncio.create_task(call()))
        await asyncio.gather(*tasks)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())
    assert len(sent) == len(gaps)
    for begin in sent:
        assert sum(1 for at in sent if begin <= at < begin + 60) <= limit
        assert not any(first < begin < last for first, last in paused)


async def test_callers_are_served_in_the_order_in_which_they_came() -> None:
    """First come, first served, also over several windows."""
    budget = budget_of(2)
    order: list[int] = []

    async def call(number: int) -> None:
        await budget.acquire(READ)
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(7)))
    assert order == list(range(7))
    assert asyncio.get_running_loop().time() >= 180


async def test_metadata_leaves_room_for_what_is_urgent_and_is_passed_by_it() -> None:
    """Updates stop at three quarters of a quota; deletions, growth and looks go at once."""
    budget = budget_of(40)
    assert budget.room(MUTATE, Priority.METADATA) == (30, 0.0)
    for _ in range(30):
        await budget.acquire(MUTATE, Priority.METADATA)
    waits = asyncio.create_task(budget.acquire(MUTATE, Priority.METADATA))
    await asyncio.sleep(1.0)
    assert not waits.done()
    assert budget.room(MUTATE, Priority.METADATA).calls == 0
    assert budget.room(MUTATE, Priority.METADATA).wait == pytest.approx(60.0)
    for priority, least in ((Priority.FREE, 4), (Priority.GROW, 2), (Priority.LOOK, 4)):
        assert budget.room(MUTATE, priority).calls == least
        for _ in range(least):
            await budget.acquire(MUTATE, priority)
    loop = asyncio.get_running_loop()
    assert loop.time() == 1.0
    assert budget.remaining(MUTATE) == 0
    await waits
    assert loop.time() >= 60.0


@settings(max_examples=40)
@given(
    limit=st.integers(10, 40),
    crowds=st.lists(st.integers(0, 100), min_size=4, max_size=4),
)
def test_every_priority_has_its_floor_and_the_rest_goes_to_the_most_urgent(
    limit: int, crowds: list[int]
) -> None:
    """However many wait: in the first minute each gets its floor, or all that it has asked for."""
    sent: list[tuple[float, Priority]] = []

    async def scenario() -> None:
        budget = budget_of(limit)
        loop = asyncio.get_running_loop()

        async def call(priority: Priority) -> None:
            await budget.acquire(MUTATE, priority)
            sent.append((loop.time(), priority))

        crowd = [one for one in reversed(Priority) for _ in range(crowds[one])]
        await asyncio.gather(*map(call, crowd))

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())
    assert len(sent) == sum(crowds)
    for begin in {at for at, _ in sent}:
        window = [priority for at, priority in sent if begin <= at < begin + 60]
        assert len(window) <= limit
    later = [priority for at, priority in sent if 60 <= at < 120]
    for priority, part in zip(Priority, (0.1, 0.05, 0.1, 0.1), strict=True):
        left = crowds[priority] - sum(one is priority for at, one in sent if at < 60)
        assert later.count(priority) >= min(left, int(limit * part))
        more_urgent = [one for one in Priority if one < priority]
        if later.count(priority) > int(limit * part):  # more than its floor: none more urgent waits
            last = max((at for at, one in sent if one in more_urgent), default=0.0)
            assert last < 120


async def test_a_cancelled_caller_costs_nothing_and_lets_the_next_one_through() -> None:
    """Cancelling who waits frees the turn."""
    budget = budget_of(1)
    await budget.acquire(READ)
    first = asyncio.create_task(budget.acquire(READ))
    second = asyncio.create_task(budget.acquire(READ))
    await asyncio.sleep(1)
    first.cancel()
    await asyncio.wait({first, second})
    assert first.cancelled()
    assert second.done()
    assert second.exception() is None
    assert asyncio.get_running_loop().time() < 62


async def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    """The error says when to come back, and coming back then works."""
    budget = budget_of(3, max_wait=20)
    for _ in range(3):
        await budget.acquire(READ)
    with pytest.raises(RateLimitedError) as caught:
        await budget.acquire(READ)
    assert asyncio.get_running_loop().time() == 0
    assert caught.value.retry_after is not None
    await asyncio.sleep(caught.value.retry_after)
    await budget.acquire(READ)


async def test_a_pause_that_comes_while_waiting_ends_the_wait_in_time() -> None:
    """A pause beyond `max_wait` refuses also those who wait already."""
    budget = budget_of(1, max_wait=65)
    await budget.acquire(READ)
    waiting = asyncio.create_task(budget.acquire(READ))
    await asyncio.sleep(1)
    budget.pause(READ, 500)
    await asyncio.wait({waiting})
    assert isinstance(waiting.exception(), RateLimitedError)
    assert asyncio.get_running_loop().time() <= 66


async def test_projects_and_groups_are_counted_apart() -> None:
    """One that is used up or paused leaves the others alone."""
    budget = budget_of(1, max_wait=0)
    await budget.acquire(READ)
    await budget.acquire(OTHER)
    budget.pause(MUTATE, 100)
    await budget.acquire(Quota("q", QuotaGroup.MUTATE))
    assert budget.remaining(READ) == 0
    assert budget.remaining(MUTATE) == 0
    assert budget.remaining(Quota("p", QuotaGroup.OPERATION_GET)) == 1


async def test_memory_does_not_grow_with_the_limit() -> None:
    """A minute of calls is kept as at most one number per second."""
    budget = budget_of(100_000)
    for _ in range(90):
        for _ in range(50):
            await budget.acquire(READ)
        await asyncio.sleep(1)
    assert len(budget._lane(READ)._sent) <= 62


def test_the_back_off_is_capped_and_jittered() -> None:
    """Full jitter: anything from nothing to the bound, which doubles up to the cap."""
    backoff = Backoff(first=1, cap=8)
    chance = Random(1)
    for retry, bound in ((1, 1), (2, 2), (3, 4), (4, 8), (50, 8)):
        delays = [backoff.delay(retry, chance) for _ in range(300)]
        assert 0 <= min(delays) < bound * 0.1
        assert bound * 0.9 < max(delays) <= bound


def test_retries_are_a_part_of_all_calls_once_the_burst_is_spent() -> None:
    """A thousand failing calls get the burst and one retry in ten."""
    budget = RetryBudget(ratio=0.1, burst=10)
    retries = 0
    for _ in range(1000):
        budget.deposit()
        retries += budget.withdraw()
    assert 105 <= retries <= 110


async def tries_of(error: Exception, retrier: Retrier) -> int:
    """How often a call is tried that always fails like this."""
    tries = 0

    async def fail() -> None:
        nonlocal tries
        tries += 1
        raise error

    with pytest.raises(type(error)):
        await retrier.run(fail)
    return tries


async def test_only_what_may_pass_is_repeated_and_only_when_it_may_be_soon() -> None:
    """Terminal errors and long waits go straight to the caller."""
    chance = Random(1)
    retrier = Retrier(Backoff(tries=4, cap=10), RetryBudget(burst=100), chance)
    assert await tries_of(TransientError("m", "x"), retrier) == 4
    assert await tries_of(TransientError("m", "x", retry_after=3), retrier) == 4
    assert asyncio.get_running_loop().time() >= 9
    assert await tries_of(TransientError("m", "x", retry_after=11), retrier) == 1
    assert await tries_of(InvalidRequestError("m", "x"), retrier) == 1


async def test_an_empty_retry_budget_stops_repetitions() -> None:
    """A storm of failures is not doubled."""
    chance = Random(1)
    retrier = Retrier(Backoff(tries=4), RetryBudget(ratio=0, burst=2), chance)
    assert await tries_of(TransientError("m", "x"), retrier) == 3
    assert await tries_of(TransientError("m", "x"), retrier) == 1
