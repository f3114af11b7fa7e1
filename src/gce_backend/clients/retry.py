"""Repeating failed calls: after how long, how often, and as what share of all calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from gce_backend.base.errors import TransientError, UnauthenticatedError
from gce_backend.clients.observer import CallObserver

T = TypeVar("T")


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Capped exponential back-off with full jitter.

    Attributes:
        first: upper bound of the first wait, in seconds; each next bound is twice as high.
        cap: upper bound of every wait, in seconds.
        tries: how often a call is sent at most, the first time included.
    """

    first: float = 0.5
    cap: float = 10.0
    tries: int = 4

    def delay(self, retry: int, chance: random.Random) -> float:
        """Seconds to wait before the `retry`-th repetition, counted from 1."""
        return chance.uniform(0.0, min(self.cap, self.first * 2.0 ** min(retry - 1, 60)))


class RetryBudget:
    """Lets retries be only a part of all calls, so that they cannot double a service's trouble.

    A token bucket: each first try puts `ratio` of a token in, each retry takes a whole one.

    Args:
        ratio: retries per first try in the long run.
        burst: retries allowed at once when there were few lately.
    """

    def __init__(self, *, ratio: float = 0.1, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._burst = burst
        self._tokens = burst

    def deposit(self) -> None:
        """Notes a first try."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Takes one retry; False when there is none left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Retrier:
    """Sends a call again while its failure is transient and the budget lasts.

    A refused token is not repeated here (whoever holds tokens does that once), nor is a call whose
    error asks for a longer wait than the back-off's cap: that is the caller's to schedule.

    Args:
        backoff: how long to wait, and how often to try.
        budget: how many repetitions there may be.
        chance: jitter.
        observer: notified of every repetition.
    """

    def __init__(
        self,
        backoff: Backoff,
        budget: RetryBudget,
        chance: random.Random,
        observer: CallObserver | None = None,
    ) -> None:
        self._backoff = backoff
        self._budget = budget
        self._chance = chance
        self._observer = observer

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first success of `attempt`, or its last error."""
        self._budget.deposit()
        tries = 1
        while True:
            try:
                return await attempt()
            except UnauthenticatedError:
                raise
            except TransientError as error:
                delay = max(self._backoff.delay(tries, self._chance), error.retry_after or 0.0)
                if tries >= self._backoff.tries or delay > self._backoff.cap:
                    raise
                if not self._budget.withdraw():
                    raise
                if self._observer is not None:
                    self._observer.retry(error.method)
            tries += 1
            await asyncio.sleep(delay)
