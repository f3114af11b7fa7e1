"""The world's floor: exact time, processes that pause and die, a network whose calls come late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.keys import TemplateKey
from simulation import chance
from simulation.loop import Process, SimulatedLoop, StuckError
from simulation.network import Fate, Harmless, MemoryConnector, Request, Verdict


def run(work: Callable[[SimulatedLoop], Awaitable[Any]]) -> Any:
    """Runs something in simulated time."""
    loop = SimulatedLoop()
    try:
        with chance.governed("test", loop):
            return loop.run_until_complete(work(loop))
    finally:
        loop.close()


async def _server(loop: SimulatedLoop) -> tuple[str, list[float], web.AppRunner]:
    """A server that notes when it was asked."""
    asked: list[float] = []

    async def answer(_: web.Request) -> web.Response:
        asked.append(round(loop.time()))
        return web.Response(text="x" * 100)

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}/", asked, runner


class _One(Harmless):
    """One request meets one fate."""

    def __init__(self, fate: Fate, seconds: float) -> None:
        self._left = [Verdict(fate, seconds)]

    def verdict(self, request: Request) -> Verdict | None:
        """What happens to it."""
        del request
        return self._left.pop() if self._left else None


def test_time_jumps_to_the_next_timer() -> None:
    """An hour takes no time."""

    async def work(loop: SimulatedLoop) -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert run(work) == 3600


def test_a_world_that_waits_for_nothing_is_told() -> None:
    """It does not hang."""

    async def work(loop: SimulatedLoop) -> None:
        await loop.create_future()

    with pytest.raises(StuckError):
        run(work)


def test_a_paused_process_goes_on_where_it_was_and_a_dead_one_never() -> None:
    """Not even its `finally` runs."""
    seen: list[str] = []

    async def count() -> None:
        try:
            for number in range(5):
                await asyncio.sleep(1)
                seen.append(str(number))
        finally:
            seen.append("end")

    async def work(loop: SimulatedLoop) -> None:
        process = Process("p")
        with process.entered():
            task = asyncio.create_task(count())
        await asyncio.sleep(1.5)
        process.paused = True
        await asyncio.sleep(10)
        assert seen == ["0"]
        process.resume(loop)
        await asyncio.sleep(1.5)
        assert seen == ["0", "1", "2"]
        process.dead = True
        await asyncio.sleep(10)
        assert seen == ["0", "1", "2"]
        process.dead = False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(work)


@pytest.mark.parametrize(
    ("fate", "seconds", "succeeds", "asked"),
    [
        ("drop", 0.0, False, []),
        ("lose", 0.0, False, [0]),
        ("late", 300.0, False, [300]),
        ("stall", 0.0, False, []),
        ("drip", 8.0, True, [0]),
        ("repeat", 60.0, True, [0, 60]),
    ],
)
def test_a_call_meets_its_fate(
    fate: Fate,
    seconds: float,
    succeeds: bool,
    asked: list[float],
) -> None:
    """A late call is executed after its client has given up."""

    async def work(loop: SimulatedLoop) -> tuple[bool, list[float]]:
        url, seen, runner = await _server(loop)
        loop.network.harm = _One(fate, seconds)
        connector = MemoryConnector(loop.network, "client")
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            good = True
            try:
                async with session.post(url) as response:
                    await response.read()
            except (aiohttp.ClientError, TimeoutError):
                good = False
            await asyncio.sleep(1000)
            async with session.post(url) as response:  # the next call is well
                assert await response.text() == "x" * 100
        await runner.cleanup()
        return good, seen[:-1]

    assert run(work) == (succeeds, asked)


def test_a_key_has_the_same_place_in_every_process() -> None:
    """A set of keys is walked through in the same order, wherever their class lies in memory."""

    async def work(_: SimulatedLoop) -> tuple[int, int]:
        key = TemplateKey("InstanceTemplate", "linux")
        return hash(key), hash(key.child("revision").child("zone"))

    root = hash(("InstanceTemplate", "linux"))
    revision = hash(("InstanceTemplateRevision", "revision", root))
    assert run(work) == (root, hash(("InstanceGroupManager", "zone", revision)))


def test_chance_follows_from_the_seed() -> None:
    """Also that of libraries, and of generators without a seed."""

    async def work(_: SimulatedLoop) -> list[float]:
        return [random.Random().random(), random.random()]

    assert run(work) == run(work)
    assert CloudOptions().token_seconds > 0
