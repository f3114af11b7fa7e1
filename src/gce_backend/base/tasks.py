"""Waiting for several things at once, and for long computations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

OFF_LOOP_BYTES = 100_000
"""Input above which a computation goes to a thread."""


class Tasks:
    """The tasks of one process, which end only by a defect or when the process stops."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()  # one of them has

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._ended.set())
        self._tasks.append(task)
        return task

    async def wait(self) -> None:
        """Waits until one of the tasks ends.

        Raises:
            BaseException: what that task raised.
        """
        await self._ended.wait()
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Cancels all tasks, and waits until they have ended."""
        await end(*self._tasks)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks, and waits until they have ended; what they raise stays with them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Waits for the first of these to end, cancels the others, and raises what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*tasks)
    for task in done:
        task.result()


async def off_loop(work: Callable[[], T], size: int) -> T:
    """Computes something without holding up the event loop.

    Args:
        work: the computation, pure.
        size: bytes of its input; a small one is computed at once.
    """
    return await asyncio.to_thread(work) if size > OFF_LOOP_BYTES else work()
