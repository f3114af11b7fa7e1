"""Retries of failed calls: delays, number, and share of all calls."""

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
        tries: the most times a call is sent, including the first.
    """

    first: float = 0.5
    cap: float = 10.0
    tries: int = 4

    def delay(self, retry: int, chance: random.Random) -> float:
        """Seconds to wait before the `retry`-th repetition, counted from 1."""
        return chance.uniform(0.0, min(self.cap, self.first * 2.0 ** min(retry - 1, 60)))


class RetryBudget:
    """Limits the share of retries among all calls, so that they cannot overload a service.

    A token bucket: each first try adds `ratio` of a token, each retry takes a whole one.

    Args:
        ratio: retries per first try in the long run.
        burst: retries allowed at once after few retries.
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

    It does not retry a refused token, which the exchange replaces once. Nor does it retry a call
    whose error asks for a longer wait than the back-off's cap: the caller schedules that.

    Args:
        backoff: the delays and the number of tries.
        budget: limits the number of retries.
        chance: jitter.
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
        """Returns the first success of `attempt`, or raises its last error."""
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
