"""The demand: what requests wait for, told when it changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from machine_provider.test_leases_api import ANN, BOB, running
from support.provider_harness import DAEMON


async def test_what_waits_is_told_by_kind_and_without_what_no_machine_would_help(
    tmp_path: Path,
) -> None:
    """Not a request of a group at its limit, nor one for a certain machine."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", num_cpus=2)
        await mp.lease("b1", BOB)
        await mp.lease("b2", BOB)
        await mp.lease("r1")
        await mp.lease("r2", count=3, dimensions={"num_cpus": 8})
        await mp.lease("r3", dimensions={"hostname": "vm-9"})
        found = await mp.ok("GET", "demand", who=DAEMON)
        assert {str(one["dimensions"]): one["count"] for one in found["waiting"]} == {
            "{'os_family': 'LINUX'}": 1,
            "{'num_cpus': 8}": 3,
        }
        assert "403" in await mp.refused("GET", "demand", who=ANN)


async def test_an_answer_comes_with_the_news_or_after_the_wait(tmp_path: Path) -> None:
    """A request is known at once; while nobody asks, nothing is said."""
    async with running(tmp_path) as mp:
        known = (await mp.ok("GET", "demand", who=DAEMON))["version"]
        clock = mp.place.clock
        start = clock.monotonic()
        path = f"demand?after={known}&wait=50"
        assert (await mp.ok("GET", path, who=DAEMON))["version"] == known
        assert 50 <= clock.monotonic() - start < 51
        waiting = asyncio.create_task(mp.ok("GET", path, who=DAEMON), name="demand")
        await asyncio.sleep(20)
        start = clock.monotonic()
        lease = await mp.lease("r1")
        found = await waiting
        assert clock.monotonic() - start < 1
        assert [one["count"] for one in found["waiting"]] == [1]
        await mp.ok("POST", f"leases/{lease['id']}:release")
        after = f"demand?after={found['version']}&wait=50"
        assert (await mp.ok("GET", after, who=DAEMON))["version"] == known


async def test_a_call_that_waits_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """It is answered at once."""
    async with running(tmp_path) as mp:
        known = (await mp.ok("GET", "demand", who=DAEMON))["version"]
        path = f"demand?after={known}&wait=55"
        waiting = asyncio.create_task(mp.ok("GET", path, who=DAEMON), name="demand")
        await asyncio.sleep(1)
        start = mp.place.clock.monotonic()
        await mp.service.stop()
        assert (await waiting)["version"] == known
        assert mp.place.clock.monotonic() - start < 1
