"""Crashes at every moment of what tells ours from others' (holes 8 and 12)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings, FetchSettings, Settings
from support.crashing import OneBlow, end_and_start
from support.fleet_harness import ZONE, World, manager, template, world
from support.outside import cataloged, ids, replace_group

EVERY = bool(os.environ.get("GCE_BACKEND_TEST_EVERY_CRASH"))
"""Blows at every change instead of at a sample of them."""
SETTINGS = Settings(
    fetch=FetchSettings(resync_seconds=30), deletion=DeletionSettings(tombstone_seconds=5.0)
)
SELDOM = {"import-config": "*/10 * * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)


def moments(total: int, sample: int) -> range:
    """Changes to strike, counted from 1: all, or a sample spread evenly."""
    return range(1, total + 1, 1 if EVERY else max(1, total // sample))


@contextlib.asynccontextmanager
async def crash(w: World, at: int, when: str) -> AsyncIterator[OneBlow]:
    """From now on the daemon's n-th change is its last; another daemon takes over."""
    faults = OneBlow(at, "before" if when == "before" else "after", only="!", deadly=True)
    w.cloud.faults = faults
    end = asyncio.create_task(end_and_start(w, faults, "crash"), name="blow")
    try:
        yield faults
    finally:
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)


def whole(w: World, count: int, theirs: set[str]) -> Callable[[], Awaitable[bool]]:
    """Whether so many VMs beside theirs exist, and exactly these can be leased."""

    async def reached() -> bool:
        ours = (await w.vms()).keys() - theirs
        return len(ours) == count and await w.catalog() == dict.fromkeys(ours, "AVAILABLE")

    return reached


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", moments(14, 3))
async def test_hole_08_a_crash_while_a_replaced_group_is_noticed_loses_nothing(
    tmp_path: Path, at: int, when: str
) -> None:
    """The other one's VM stands; ours are replaced once."""
    async with world(
        tmp_path, managers=manager(minimum=2), settings=SETTINGS, crons=SELDOM, options=CALM
    ) as w:
        await cataloged(w, 2)
        (group,) = await w.groups()
        await replace_group(w, group, ["by-hand-1"])
        await w.until(lambda: has(w, "by-hand-1"))
        theirs = (await ids(w))["by-hand-1"]
        async with crash(w, at, when) as faults:
            await w.until(whole(w, 2, {"by-hand-1"}), within=1200)
            await w.pass_time(120)
            assert faults.struck.is_set(), faults.count
        assert await whole(w, 2, {"by-hand-1"})()
        assert (await ids(w))["by-hand-1"] == theirs
        assert len(await w.groups()) == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", moments(4, 2))
async def test_hole_12_a_crash_while_members_are_given_up_takes_no_more(
    tmp_path: Path, at: int, when: str
) -> None:
    """Exactly those that are not wanted go, and those that exist stay."""
    async with world(tmp_path, settings=SETTINGS, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        w.write_config(template(), manager(minimum=6))
        await w.until_states(cataloged=3, creating=3)
        w.write_config(template(), manager(minimum=4))
        injected = w.cloud.faults.injected
        async with crash(w, at, when) as faults:
            faults.injected += [fault for fault in injected if fault.kind == "stockout"]
            await w.until(lambda: has_target(w, 4), within=900)
            await w.pass_time(120)
            assert faults.struck.is_set(), faults.count
            await w.clear_faults()
            await w.until(whole(w, 4, set()), within=900)
            await w.pass_time(120)
        assert await has_target(w, 4)
        assert before.items() <= (await ids(w)).items()


async def has(w: World, name: str) -> bool:
    """Whether there is a VM of this name."""
    return name in await w.vms()


async def has_target(w: World, size: int) -> bool:
    """Whether the only group has this target size."""
    return [group["targetSize"] for group in (await w.groups()).values()] == [size]
