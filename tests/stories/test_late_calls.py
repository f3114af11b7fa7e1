"""Calls that Compute executes long after the daemon gave up waiting for them (fault 43)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gce_backend.settings.settings import (
    ComputeSettings,
    FetchSettings,
    RolloutSettings,
    Settings,
)
from support.deletions import DELETE_INSTANCES, entity, settings
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

GROUPS = "compute.instanceGroupManagers"
IMPATIENT = Settings(
    compute=ComputeSettings(read_timeout=5.0, total_timeout=10.0),
    rollout=RolloutSettings(empty_seconds=5.0),
)
"""Calls that hang are given up long before they are executed."""
WATCHFUL = msgspec.structs.replace(
    IMPATIENT, fetch=FetchSettings(resync_seconds=5), jobs=settings(resync_seconds=5).jobs
)
"""Groups are listed every few seconds."""
BOTH = manager() + manager(zone=OTHER_ZONE)


async def _is_cataloged(w: World, count: int) -> bool:
    return (await w.states())["cataloged"] == count


async def _names(w: World) -> list[str]:
    """The groups of the zone that is taken away and named again."""
    return [name for name in await w.groups() if name.startswith(OTHER_ZONE)]


async def test_a_late_deletion_of_a_group_hits_no_machine_of_the_group_that_follows_it(
    tmp_path: Path,
) -> None:
    """Its zone is named again while the deletion hangs: what is leased then lives on.

    The group whose deletion had begun is deleted to its end, and the next one has another name.
    """
    async with world(tmp_path, managers=BOTH, settings=IMPATIENT) as w:
        await w.until_states(cataloged=6)
        before = await _names(w)
        await w.inject(f"{GROUPS}.delete", kind="latency", when="before", seconds=70.0, times=1)
        w.write_config(template(), manager())
        await w.until(w.has_fired)
        w.write_config(template(), BOTH)
        await w.until(lambda: _is_cataloged(w, 6), within=300.0)
        held = [await w.lease(f"r{number}", duration=100_000) for number in range(6)]
        after = await _names(w)
        assert not set(before) & set(after)
        assert len(after) == 1
        await w.pass_time(180.0)
        assert set(held) <= set(await w.vms())
        assert await _names(w) == after


async def test_a_deletion_sent_by_a_replica_that_was_stopped_meets_a_name_that_nobody_uses(
    tmp_path: Path,
) -> None:
    """It was decided before the group was deleted, made again and leased."""
    async with world(tmp_path, managers=BOTH, settings=IMPATIENT) as w:
        await w.until_states(cataloged=6)
        [before] = await _names(w)
        w.write_config(template(), manager())

        async def gone() -> bool:
            return not await _names(w)

        await w.until(gone)
        w.write_config(template(), BOTH)
        await w.until(lambda: _is_cataloged(w, 6))
        held = [await w.lease(f"r{number}", duration=100_000) for number in range(6)]
        zone, name = before.split("/")
        answer = await w.compute("DELETE", f"zones/{zone}/instanceGroupManagers/{name}")
        assert answer["error"]["code"] == 404
        await w.pass_time(60.0)
        assert set(held) <= set(await w.vms())


async def test_a_late_growth_neither_shrinks_a_group_nor_doubles_it(tmp_path: Path) -> None:
    """A growth to 5 is executed after one to 10: the same ten machines go on, none is lost."""
    async with world(tmp_path, settings=IMPATIENT) as w:
        await w.until_states(cataloged=3)
        await w.inject(
            f"{GROUPS}.createInstances", kind="latency", when="before", seconds=70.0, times=1
        )
        w.write_config(template(), manager(minimum=5))
        await w.until(w.has_fired)
        w.write_config(template(), manager(minimum=10))
        await w.until(lambda: _is_cataloged(w, 10), within=300.0)
        held = [await w.lease(f"r{number}", duration=100_000) for number in range(10)]
        await w.pass_time(180.0)
        assert set(await w.vms()) == set(held)
        assert [group["targetSize"] for group in (await w.groups()).values()] == [10]
        assert (await w.calls())[f"{GROUPS}.resize"] == 0


async def test_a_deletion_whose_intent_is_stored_is_sent_after_a_crash_also_when_named_again(
    tmp_path: Path,
) -> None:
    """The daemon dies while the deletion hangs: the next one ends it under the same requestId."""
    async with world(tmp_path, managers=BOTH, settings=IMPATIENT) as w:
        await w.until_states(cataloged=6)
        before = await _names(w)
        await w.inject(f"{GROUPS}.delete", kind="latency", when="before", seconds=70.0, times=1)
        w.write_config(template(), manager())
        await w.until(w.has_fired)
        await w.crash_daemon()
        w.write_config(template(), BOTH)
        await w.start_daemon()
        await w.until(lambda: _is_cataloged(w, 6), within=300.0)
        await w.pass_time(120.0)
        assert len(await w.vms()) == 6
        assert not set(before) & set(await _names(w))


async def test_machines_are_not_cataloged_in_a_group_whose_deletion_has_begun(
    tmp_path: Path,
) -> None:
    """Somebody raises it while its deletion hangs, and its zone is named again: they go with it."""
    async with world(tmp_path, managers=BOTH, settings=IMPATIENT) as w:
        await w.until_states(cataloged=6)
        [before] = await _names(w)
        await w.inject(f"{GROUPS}.delete", kind="latency", when="before", seconds=70.0, times=1)
        w.write_config(template(), manager())
        await w.until(w.has_fired)
        zone, name = before.split("/")
        await w.compute("POST", f"zones/{zone}/instanceGroupManagers/{name}/resize?size=2")
        strangers = set((await w.groups())[before]["instances"])
        assert len(strangers) == 2
        w.write_config(template(), BOTH)

        async def refilled() -> bool:
            assert not strangers & set(await w.catalog())
            return await _is_cataloged(w, 6)

        await w.until(refilled)
        assert before not in await w.groups()
        assert len(await w.vms()) == 6
        assert zone != ZONE


async def test_a_late_deletion_hits_no_machine_that_was_offered_under_the_name(
    tmp_path: Path,
) -> None:
    """Somebody recreates a VM while its deletion hangs: the new VM is replaced, never offered."""
    async with world(tmp_path, settings=WATCHFUL) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        path = f"zones/{ZONE}/instances/{name}"
        before = (await w.compute("GET", path))["id"]
        await w.inject(DELETE_INSTANCES, kind="late", held=1, seconds=300, times=None)
        await w.release()
        await w.until(w.has_fired)
        group = f"zones/{ZONE}/instanceGroupManagers/{name.rpartition('-')[0]}"
        await w.compute("POST", f"{group}/recreateInstances", {"instances": [path]})

        async def is_replaced() -> bool:
            known = entity(w, name)
            assert name not in await w.catalog() or str(known and known.gce_id) == before
            return known is not None and known.drain is not None and known.drain.endangered

        await w.until(is_replaced)
        new = entity(w, name)
        assert new is not None
        assert str(new.gce_id) == (await w.compute("GET", path))["id"] != before
        [told] = (await w.get(f"/api/explain?name={name}"))["found"]
        assert any("It is replaced: A deletion" in event["reason"] for event in told["events"])
        await w.until(lambda: w.is_in(name, "deleted"))
        await w.until_states(cataloged=3)
        held = [await w.lease(f"s{number}", duration=100_000) for number in range(3)]
        await w.clear_faults()
        await w.pass_time(330)
        assert set(held) == set(await w.vms())


@pytest.mark.parametrize("call", ["insert", "createInstances"])
async def test_hole_12_a_minimum_that_was_corrected_is_not_made_from_what_is_in_flight(
    tmp_path: Path, call: str
) -> None:
    """It was 7 for a while in which Compute took no calls: only what is wanted now is made."""
    async with world(tmp_path, settings=IMPATIENT, start=False) as w:
        if call == "createInstances":
            await w.start_daemon()
            await w.until_states(cataloged=3)
        await w.inject(f"{GROUPS}.{call}", status=503, times=None)
        w.write_config(template(), manager(minimum=7))
        if call == "insert":
            await w.start_daemon()
        await w.until(w.has_fired)
        w.write_config(template(), manager(minimum=4))
        await w.until(lambda: w.shows_minimum(4))
        await w.clear_faults()
        await w.until(lambda: _is_cataloged(w, 4))
        await w.pass_time(60.0)
        assert len(await w.vms()) == 4
