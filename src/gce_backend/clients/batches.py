"""Questions about single subjects that come at the same moment, sent as one call.

Who asks neither sees the batch nor shares its fate: each gets its own answer, and what spoils a
whole batch is asked again one by one. How many go together follows the pace of the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from gce_backend.base.errors import (
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    RemoteError,
)

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")

QUICK_SECONDS = 2.0
"""A batch that takes no longer is doubled the next time; one that takes twice as long is halved."""
MOMENT_SECONDS = 0.005
"""Who asks within this time of another goes with it."""
_NOT_OFFERED = {404, 405, 501}
"""Statuses with which a service answers that does not know the method for batches."""


@dataclass(frozen=True, slots=True)
class _Answer(Generic[A]):
    value: A


_Batch: TypeAlias = "dict[S, asyncio.Future[_Answer[A] | RemoteError | None]]"
"""Who asks, by subject; None is for what is to be asked about alone."""


class Batches(Generic[S, A]):
    """Sends questions together.

    Args:
        ask_one: asks about one subject.
        ask_many: asks about several, and returns an answer or an error for each, in their order.
        most: subjects of one call.
        first: subjects of the first call; more than one for questions that change nothing.
        never_alone: whether a subject goes as a batch also when nobody else asks, if the service
            offers batches.
    """

    def __init__(
        self,
        ask_one: Callable[[S], Awaitable[A]],
        ask_many: Callable[[Sequence[S]], Awaitable[Sequence[A | RemoteError]]],
        *,
        most: int,
        first: int = 1,
        never_alone: Callable[[S], bool] = lambda _: False,
    ) -> None:
        self._ask_one = ask_one
        self._ask_many = ask_many
        self._most = most
        self._never_alone = never_alone
        self._size = min(first, most)
        self._offered = True
        self._open: _Batch[S, A] = {}

    async def ask(self, subject: S) -> A:
        """Asks about one subject, together with who asks at the same moment.

        Raises:
            RemoteError: there is no answer about it, or it is an error.
        """
        batch = self._open
        leads = not batch or len(batch) >= self._size or subject in batch
        if leads:
            batch = self._open = {}
        future = batch[subject] = asyncio.get_running_loop().create_future()
        if leads:
            await self._lead(batch)
        answer = await future
        if isinstance(answer, RemoteError):
            raise answer
        return answer.value if answer is not None else await self._alone(subject)

    async def _alone(self, subject: S) -> A:
        start = asyncio.get_running_loop().time()
        answer = await self._ask_one(subject)
        quick = asyncio.get_running_loop().time() - start <= QUICK_SECONDS
        if quick and self._offered:
            self._size = max(self._size, min(2, self._most))
        return answer

    async def _lead(self, batch: _Batch[S, A]) -> None:
        """Collects who asks now, and answers all of them.

        If this caller is cancelled in the middle, the others ask alone.
        """
        answers: Sequence[_Answer[A] | RemoteError | None] = ()
        try:
            joined = 0
            while joined < len(batch) < self._size:
                joined = len(batch)
                await asyncio.sleep(MOMENT_SECONDS)
            self._close(batch)
            answers = await self._answers(list(batch))
        finally:
            self._close(batch)
            if not answers:  # given up in the middle: the next one is to be quicker
                self._size = 1
            for index, future in enumerate(batch.values()):
                if not future.done():
                    future.set_result(answers[index] if answers else None)

    def _close(self, batch: _Batch[S, A]) -> None:
        if self._open is batch:
            self._open = {}

    async def _answers(self, subjects: list[S]) -> Sequence[_Answer[A] | RemoteError | None]:
        """An answer or error for each; None for those that are to be asked about alone."""
        alone: list[_Answer[A] | RemoteError | None] = [None] * len(subjects)
        if len(subjects) == 1 and not (self._offered and self._never_alone(subjects[0])):
            return alone
        start = asyncio.get_running_loop().time()
        try:
            answers = await self._ask_many(subjects)
        except (NotFoundError, InvalidRequestError, MalformedResponseError) as error:
            if error.status in _NOT_OFFERED:
                self._offered, self._size = False, 1
            return alone
        except RemoteError as error:
            self._size = 1
            return [error] * len(subjects)
        took = asyncio.get_running_loop().time() - start
        if took <= QUICK_SECONDS:
            self._size = max(self._size, min(2 * len(subjects), self._most))
        elif took > 2 * QUICK_SECONDS:
            self._size = max(1, len(subjects) // 2)
        return [one if isinstance(one, RemoteError) else _Answer(one) for one in answers]
