"""Questions to the Machine Provider about many machines: one goes first, a time-out ends all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gce_backend.actions.fan_out import Result
from gce_backend.base.errors import PermissionDeniedError, TransientError
from gce_backend.engine.context import Context

BROKER = "machine-provider"
"""The subject of the condition while it does not answer."""


class BrokerTurns:
    """One round of questions, which ends when the Machine Provider does not answer.

    Attributes:
        answered: whether an answer has come.
        silent: whether a question had no answer; then no more are asked.
    """

    def __init__(self, context: Context) -> None:
        self.answered = False
        self.silent = False
        self._conditions = context.conditions
        self._alone = asyncio.Lock()

    async def ask(self, question: Callable[[], Awaitable[Result]]) -> Result:
        """Asks when it is this question's turn; WAITING when the round has ended before.

        Args:
            question: asks about one machine.

        Raises:
            RemoteError: there is no answer, or it is an error.
        """
        if not self.answered:
            async with self._alone:
                if not self.answered:
                    return await self._ask(question)
        return await self._ask(question)

    async def _ask(self, question: Callable[[], Awaitable[Result]]) -> Result:
        if self.silent:
            return Result.WAITING
        try:
            step = await question()
        except (TransientError, PermissionDeniedError) as error:
            self.silent = True
            if not self._conditions.blocked(BROKER):
                self._conditions.fail(BROKER, error)
            raise
        self.answered = True
        return step
