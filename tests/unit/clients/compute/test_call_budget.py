"""Call budgets, retry budget and back-off."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gce_backend.base.errors import InvalidRequestError, RateLimitedError, TransientError
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget
from support.simulation import VirtualClock, VirtualTimeLoop

READ, MUTATE = QuotaGroup.READ, QuotaGroup.MUTATE


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
            await budget.acquire("p", READ)
            sent.append(loop.time())

        async def pause(at: float, seconds: float) -> None:
            await asyncio.sleep(at)
            budget.pause("p", READ, loop.time() + seconds)
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
        await budget.acquire("p", READ)
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(7)))
    assert order == list(range(7))
    assert asyncio.get_running_loop().time() >= 180


async def test_the_last_tenth_is_for_urgent_calls_and_they_pass_those_that_wait() -> None:
    """Small calls stop at nine tenths and wait; an urgent one goes at once, up to the limit."""
    budget = budget_of(20)
    for _ in range(18):
        await budget.acquire("p", QuotaGroup.READ, urgent=False)
    small = asyncio.create_task(budget.acquire("p", QuotaGroup.READ, urgent=False))
    await asyncio.sleep(1.0)
    assert not small.done()
    for _ in range(2):
        await budget.acquire("p", QuotaGroup.READ)
    loop = asyncio.get_running_loop()
    assert loop.time() == 1.0
    assert budget.remaining("p", QuotaGroup.READ) == 0
    await small
    assert loop.time() >= 60.0


async def test_a_cancelled_caller_costs_nothing_and_lets_the_next_one_through() -> None:
    """Cancelling who waits frees the turn."""
    budget = budget_of(1)
    await budget.acquire("p", READ)
    first = asyncio.create_task(budget.acquire("p", READ))
    second = asyncio.create_task(budget.acquire("p", READ))
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
        await budget.acquire("p", READ)
    with pytest.raises(RateLimitedError) as caught:
        await budget.acquire("p", READ)
    assert asyncio.get_running_loop().time() == 0
    assert caught.value.retry_after is not None
    await asyncio.sleep(caught.value.retry_after)
    await budget.acquire("p", READ)


async def test_a_pause_that_comes_while_waiting_ends_the_wait_in_time() -> None:
    """A pause beyond `max_wait` refuses also those who wait already."""
    budget = budget_of(1, max_wait=65)
    await budget.acquire("p", READ)
    waiting = asyncio.create_task(budget.acquire("p", READ))
    await asyncio.sleep(1)
    budget.pause("p", READ, 500)
    await asyncio.wait({waiting})
    assert isinstance(waiting.exception(), RateLimitedError)
    assert asyncio.get_running_loop().time() <= 66


async def test_projects_and_groups_are_counted_apart() -> None:
    """One that is used up or paused leaves the others alone."""
    budget = budget_of(1, max_wait=0)
    await budget.acquire("p", READ)
    await budget.acquire("q", READ)
    budget.pause("p", MUTATE, 100)
    await budget.acquire("q", MUTATE)
    assert budget.remaining("p", READ) == 0
    assert budget.remaining("p", MUTATE) == 0
    assert budget.remaining("p", QuotaGroup.OPERATION_GET) == 1


async def test_memory_does_not_grow_with_the_limit() -> None:
    """A minute of calls is kept as at most one number per second."""
    budget = budget_of(100_000)
    for _ in range(90):
        for _ in range(50):
            await budget.acquire("p", READ)
        await asyncio.sleep(1)
    assert len(budget._lane("p", READ)._sent) <= 62


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
