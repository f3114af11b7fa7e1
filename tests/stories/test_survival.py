"""Store contention, deferred reads, two daemons, clock jumps, a blocked loop, lost resources."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import aiohttp
import pytest

from gce_backend.clients.exchange import Answer, Exchange, HttpRequest
from gce_backend.daemon.daemon import Daemon
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.datastore import DatastoreService
from gce_backend.settings.settings import DeletionSettings, Settings
from support.crashing import Life
from support.fleet_harness import manager, world
from support.simulation import VirtualTimeLoop

DAY = 86400.0
SLOWLY = CloudOptions(
    operation_seconds=0.3, boot_seconds=1.0, delete_seconds=0.5, dispatch_seconds=0.1
)
FORGETFUL = Settings(deletion=DeletionSettings(tombstone_seconds=20.0, window_seconds=20.0))


def _datastore(cloud: Cloud) -> DatastoreService:
    return next(s for s in cloud._services if isinstance(s, DatastoreService))


async def test_aborted_commits_and_transactions_are_tried_again_as_a_whole(tmp_path: Path) -> None:
    """Datastore answers ABORTED to many writes, and the life ends as it should (fault 23)."""
    async with world(tmp_path, options=SLOWLY, settings=FORGETFUL, start=False) as w:
        aborted = {"status": 409, "reason": "ABORTED", "message": "contention"}
        for skip in range(0, 60, 3):
            await w.inject("datastore.projects.commit", skip=skip, times=2, **aborted)
        await w.inject("datastore.projects.beginTransaction", skip=2, times=2, **aborted)
        await w.start_daemon()
        await Life(w).live()
        assert await w.fired() >= 40


async def test_deferred_lookups_and_unfinished_queries_are_followed_to_the_end(
    tmp_path: Path,
) -> None:
    """A store that answers two entities at a time is read completely (fault 25)."""
    async with world(tmp_path, managers=manager(minimum=9), start=False) as w:
        store = _datastore(w.cloud)
        store.defer_after, store.batch_size = 2, 2
        await w.start_daemon()
        await w.until_states(cataloged=9)
        held = await w.lease()
        await w.restart_daemon()
        await w.until_states(cataloged=8, leased=1)
        assert await w.is_in(held, "leased")
        await w.release()
        await w.until_states(cataloged=9)
        calls = await w.calls()
        assert calls["datastore.projects.runQuery"] > 9 + 9 // 2, "batches were unfinished"
        assert held not in await w.vms()


@contextmanager
def _pausable(gate: asyncio.Event) -> Iterator[list[aiohttp.ClientSession]]:
    """Holds what these sessions send and receive while the gate is shut: as if not scheduled."""
    paused: list[aiohttp.ClientSession] = []
    plain = Exchange.send

    async def held(exchange: Exchange, request: HttpRequest, token: str | None) -> Answer:
        if exchange._session not in paused:
            return await plain(exchange, request, token)
        await gate.wait()
        answer = await plain(exchange, request, token)
        await gate.wait()
        return answer

    with mock.patch.object(Exchange, "send", held):
        yield paused


@pytest.mark.parametrize("seed", range(4))
async def test_two_daemons_one_paused_and_resumed_do_no_harm(tmp_path: Path, seed: int) -> None:
    """An old replica acts on what it remembers: version guards keep that harmless (fault 26)."""
    rng = random.Random(seed)
    gate = asyncio.Event()
    gate.set()
    async with world(tmp_path, options=SLOWLY, settings=FORGETFUL) as w:
        second = Daemon(w.settings, clock=w.clock, rng=random.Random(1000 + seed))
        with _pausable(gate) as paused:
            await second.start()
            assert second._clients is not None
            paused.append(second._clients.session)

            async def stumble() -> None:
                while True:
                    await asyncio.sleep(rng.uniform(0.1, 8.0))
                    gate.clear()
                    await asyncio.sleep(rng.uniform(1.0, 90.0))
                    gate.set()

            stumbling = asyncio.create_task(stumble())
            try:
                await Life(w).live()
                assert second.context is not None
            finally:
                stumbling.cancel()
                gate.set()
                await second.abort()


@pytest.mark.parametrize("seed", range(3))
async def test_a_clock_that_jumps_days_back_and_forth_changes_nothing(
    tmp_path: Path, seed: int
) -> None:
    """Timers go by monotonic time: the wall clock may be off by a day at any moment (fault 27)."""
    rng = random.Random(seed)
    async with world(tmp_path, options=SLOWLY, settings=FORGETFUL) as w:
        jumps = 0

        async def tick_badly() -> None:
            nonlocal jumps
            while True:
                await asyncio.sleep(rng.uniform(0.5, 6.0))
                jump = rng.choice((-DAY, DAY))
                w.jump(jump)
                await asyncio.sleep(rng.uniform(0.1, 3.0))
                w.jump(-jump)
                jumps += 1

        jumping = asyncio.create_task(tick_badly())
        try:
            await Life(w).live()
        finally:
            jumping.cancel()
        assert jumps > 5


async def test_a_blocked_event_loop_is_said_by_healthz(tmp_path: Path) -> None:
    """After ten seconds without a turn of the loop /healthz fails for a while (fault 38)."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)

        async def health() -> tuple[int, str]:
            async with w.session.get(w.daemon.url + "/healthz") as response:
                return response.status, await response.text()

        assert (await health())[0] == 200
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop._jumping.offset += 10.0  # ten seconds in which nothing else ran
        await w.pass_time(12.0)
        status, text = await health()
        assert status == 503
        assert "event_loop" in text
        await w.pass_time(60.0)
        assert (await health())[0] == 200
