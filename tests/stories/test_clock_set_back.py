"""The clock is set back a day in the middle of each wait: nothing waits out the jump (fault 52)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import (
    DeletionSettings,
    FetchSettings,
    MachineProviderSettings,
    Settings,
)
from support.broker_messages import has, one_machine, publish, settled, subscribed
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.outside import cataloged, delete_vm, whole

DAY = 86_400.0
ADD = "machine_provider.catalog.add_machines"
GROUPS = "compute.instanceGroupManagers"
SETTINGS = Settings(
    deletion=DeletionSettings(unconfirmed_count=10),
    fetch=FetchSettings(resync_seconds=30),
    machine_provider=MachineProviderSettings(sweep_per_minute=600, lost_seconds=60.0),
)
SELDOM = {"import-config": "*/10 * * * * *"}

Wait = Callable[[World], Awaitable[Callable[[], Awaitable[bool]]]]
"""Brings a world into the middle of a wait; returns what holds after it."""


async def missing(w: World) -> Callable[[], Awaitable[bool]]:
    """Somebody deleted a VM: ten seconds until it leaves the catalog."""
    name = min(await cataloged(w, 3))
    await delete_vm(w, name)
    await w.until(lambda: w.is_in(name, "missing"), every=0.1)
    return whole(w, 3, without={name})


async def stopped(w: World) -> Callable[[], Awaitable[bool]]:
    """A VM stopped: two minutes until another takes its place."""
    name = min(await cataloged(w, 3))
    await w.compute("POST", f"zones/{ZONE}/instances/{name}/stop")
    await w.until(lambda: w.is_in(name, "stopped"))
    await w.pass_time(60)
    return whole(w, 3, without={name})


async def lost(w: World) -> Callable[[], Awaitable[bool]]:
    """The catalog does not know a machine: a minute until it is replaced."""
    name = min(await cataloged(w, 3))
    await w.broker("catalog.delete_machine", {"dimensions": {"hostname": name}})
    await w.pass_time(40)
    return whole(w, 3, without={name})


async def settling(w: World) -> Callable[[], Awaitable[bool]]:
    """Nobody knows whether an addition took effect: five minutes until its entry cannot come."""
    await w.inject(ADD, status=503, times=None)
    await w.until_states(running=3)
    old = set(await w.vms())
    w.write_config(template(machine_type="e2-medium"), manager())
    await w.pass_time(100)
    await w.clear_faults()
    return whole(w, 3, without=old)


async def put_back(w: World) -> Callable[[], Awaitable[bool]]:
    """An update of metadata failed five times: more than a minute until the next try."""
    machine = await one_machine(w)
    await settled(w)
    await w.inject("compute.instances.setMetadata", kind="operation", reason="ERROR", times=5)
    await publish(w, subscribed(machine, "news"))
    await w.until(lambda: _is(w.fired, 5), every=0.1)
    await w.pass_time(20)
    return lambda: has(w, machine, "pubsub_subscription", "news")


async def unborn(w: World) -> Callable[[], Awaitable[bool]]:
    """A group drains while nobody knows whether it was made: ten minutes until it never was."""
    await cataloged(w, 3)
    await w.inject(f"{GROUPS}.insert", kind="drop", times=None)
    w.write_config(template(), manager() + manager(zone=OTHER_ZONE))
    await w.until(w.has_fired)
    w.write_config(template(), manager())
    await w.pass_time(60)

    async def forgotten() -> bool:
        fleet = await w.get("/api/fleet")
        revisions = [it for shown in fleet.get("templates", ()) for it in shown["revisions"]]
        return bool(revisions) and all(len(it["managers"]) == 1 for it in revisions)

    assert not await forgotten()
    return forgotten


async def _is(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() == wanted


WAITS: dict[Wait, tuple[float, float]] = {
    missing: (0, 180),
    stopped: (20, 300),
    lost: (5, 200),
    settling: (100, 420),
    put_back: (0, 200),
    unborn: (300, 700),
}
"""Seconds after which each ends at the earliest, and at the latest: it may begin anew once."""


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("wait", WAITS)
async def test_hole_18_a_clock_set_back_a_day_in_the_middle_of_a_wait_neither_delays_nor_hastens(
    tmp_path: Path, wait: Wait, *, restarted: bool
) -> None:
    """A process that knew the time before goes on; one that starts after it begins the wait anew.

    Were the jump waited out, it would take a day.
    """
    async with world(tmp_path, settings=SETTINGS, crons=SELDOM, options=CloudOptions()) as w:
        ended = await wait(w)
        assert not await ended()
        w.jump(-DAY)
        if restarted:
            await w.restart_daemon()
        least, most = WAITS[wait]
        assert least <= await w.until(ended, within=most)
