"""A process ends with its first task; long computations leave the event loop free."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gce_backend.base.tasks import OFF_LOOP_BYTES, Tasks, off_loop


async def test_line_04_a_long_computation_goes_to_a_thread_and_the_loop_goes_on() -> None:
    """The computation waits here for what only the running loop can do."""
    turned = threading.Event()

    def compute() -> bool:
        return turned.wait(60.0) and threading.current_thread() is not threading.main_thread()

    asyncio.get_running_loop().call_soon(turned.set)
    assert await off_loop(compute, OFF_LOOP_BYTES + 1)


async def test_a_short_one_is_done_at_once() -> None:
    """A thread would cost more than it."""
    assert await off_loop(threading.current_thread, OFF_LOOP_BYTES) is threading.main_thread()


async def test_a_defect_in_one_task_is_raised_to_who_waits_and_the_others_are_ended() -> None:
    """A process that lost one of its tasks must not live on without it."""
    tasks, ended = Tasks(), asyncio.Event()

    async def fail() -> None:
        raise ValueError("a defect")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks.spawn("work", work())
    tasks.spawn("fail", fail())
    with pytest.raises(ValueError, match="a defect"):
        await tasks.wait()
    assert not ended.is_set()
    await tasks.end()
    assert ended.is_set()
