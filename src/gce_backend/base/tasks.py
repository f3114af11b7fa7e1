"""Waiting for several things at once, and for long computations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

OFF_LOOP_BYTES = 100_000
"""Input above which a computation goes to a thread."""


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Waits for the first of these to end, cancels the others, and raises what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def off_loop(work: Callable[[], T], size: int) -> T:
    """Computes something without holding up the event loop.

    Args:
        work: the computation, pure.
        size: bytes of its input; a small one is computed at once.
    """
    return await asyncio.to_thread(work) if size > OFF_LOOP_BYTES else work()
