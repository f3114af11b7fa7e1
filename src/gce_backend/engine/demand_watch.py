"""Reads what requests at the Machine Provider wait for, all the time, while a group can grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from gce_backend.base.errors import BackendError
from gce_backend.clients.machine_provider import MethodNotOffered
from gce_backend.engine.context import Context

IDLE_SECONDS = 5.0
"""Seconds between two looks for a group that can grow."""
LEAST_SECONDS = 1.0
"""Least time from one question to the next, if the Machine Provider does not wait for news."""
NEWS_SECONDS = 0.05
"""The same after news. With a longer one, groups grow for requests that are served meanwhile."""
ASK_SECONDS = 50
"""Seconds for which the Machine Provider waits for news."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds until the next try after a failure."""
NOT_OFFERED_SECONDS = 600.0
"""Seconds until a Machine Provider without the method is asked again."""
BELIEVED_SECONDS = 120.0
"""Seconds for which the last answer holds while there is no other."""


class DemandWatch:
    """Keeps `memory.demand` up to date.

    Args:
        context: what is known, and the Machine Provider.
        changed: called when the waiting requests are others.
    """

    def __init__(self, context: Context, changed: Callable[[], None]) -> None:
        self._context = context
        self._changed = changed
        self._problem = ""
        self._pause = FIRST_PAUSE
        self._answered = context.clock.monotonic()

    async def run(self) -> NoReturn:
        """Reads until it is cancelled."""
        while True:
            if not self._matters():
                self._forget()
                await asyncio.sleep(IDLE_SECONDS)
                continue
            began = self._context.clock.monotonic()
            known = self._context.memory.demand.version
            pause = await self._ask()
            is_news = self._context.memory.demand.version != known
            least = NEWS_SECONDS if is_news else LEAST_SECONDS
            await asyncio.sleep(max(pause, least + began - self._context.clock.monotonic()))

    def _matters(self) -> bool:
        fleet = self._context.fleet
        return any(manager.maximum_size for _, manager in fleet.active_managers())

    async def _ask(self) -> float:
        """Asks once; returns the seconds until the next time."""
        demand, clock = self._context.memory.demand, self._context.clock
        try:
            answer = await self._context.broker().demand(demand.version, wait=ASK_SECONDS)
        except BackendError as error:
            self._tell(str(error))
            if clock.monotonic() - self._answered > BELIEVED_SECONDS:
                self._forget()
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            return pause
        self._answered, self._pause = clock.monotonic(), FIRST_PAUSE
        if isinstance(answer, MethodNotOffered):
            self._tell("it does not tell what requests wait for")
            self._forget()
            return NOT_OFFERED_SECONDS
        self._tell("")
        if answer.version != demand.version:
            demand.version, demand.requests = answer.version, answer.waiting
            demand.since = clock.now()
            self._changed()
        return 0.0

    def _forget(self) -> None:
        demand = self._context.memory.demand
        demand.version = ""
        if demand.requests:
            demand.requests = ()
            self._changed()

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            self._context.log.warning("demand.unknown", error=problem)
        elif self._problem and not problem:
            self._context.log.info("demand.known")
        self._problem = problem
