"""A configuration that changes under a running fleet: what follows it, and what is held back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings, Settings, StoreSettings
from support.deletions import DELETE_INSTANCES, DELETE_MACHINE
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world
from support.others import replica
from support.templates_gone import nothing_left_of, of, templates

UNREVIEWED = Settings(store=StoreSettings(resync_seconds=86_400.0))
"""What others write is not found by looking through the store."""
EPOCH = 1_800_000_005.0
"""Five seconds after a minute has turned."""
RESIZE = "compute.instanceGroupManagers.createInstances"
TWO = template("one") + template("two")
FORGETFUL = Settings(deletion=DeletionSettings(tombstone_seconds=30.0, window_seconds=30.0))
"""Deleted machines are not remembered for an hour: what becomes of a template is seen soon."""


async def test_a_changed_field_drains_the_old_revision_and_catalogs_the_new_one(
    tmp_path: Path,
) -> None:
    """In the end only the new revision exists, and there was always something to lease."""
    async with world(tmp_path, managers=manager(minimum=4), options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        old_vms, old_groups, old_templates = await w.vms(), await w.groups(), await templates(w)
        w.write_config(template(machine_type="e2-medium"), manager(minimum=4))
        fewest = 4

        async def rolled() -> bool:
            nonlocal fewest
            fewest = min(fewest, len(await w.catalog()))
            gone = not (await w.vms()).keys() & old_vms.keys()
            return gone and not (await templates(w)) & old_templates

        await w.until(rolled)
        await w.until_states(cataloged=4)
        assert fewest == 4
        assert len(await w.vms()) == 4
        assert len(await w.groups()) == 1
        assert not (await w.groups()).keys() & old_groups.keys()
        assert set(await w.catalog()) == set(await w.vms())
        for name in await w.vms():
            vm = await w.compute("GET", f"zones/{ZONE}/instances/{name}")
            assert vm["machineType"].endswith("/e2-medium")


async def test_a_fresh_revision_takes_the_place_of_one_that_never_came_up(tmp_path: Path) -> None:
    """A template that was wrong is mended in the configuration; the wrong one leaves no trace."""
    wrong, right = template(image_name="missing-image"), template()
    async with world(tmp_path, templates=wrong) as w:
        await w.pass_time(60.0)
        assert not await w.vms()
        w.write_config(right, manager())
        await w.until_states(cataloged=3)

        async def one_revision() -> bool:
            [shown] = (await w.get("/api/fleet"))["templates"]
            return len(shown["revisions"]) == 1

        await w.until(one_revision, within=60.0)


async def test_a_removed_template_goes_with_all_that_it_had(tmp_path: Path) -> None:
    """Catalog entries, VMs, groups, the instance template, the entities; the other one stays."""
    managers = manager("one") + manager("two")
    async with world(tmp_path, templates=TWO, managers=managers, settings=FORGETFUL) as w:
        await w.until_states(cataloged=6)
        kept = of(set(await w.vms()), "one")
        w.write_config(template("one"), manager("one"))
        await w.until(lambda: nothing_left_of(w, "two"), every=5.0)
        assert set(await w.vms()) == kept
        assert set(await w.catalog()) == kept
        state = await w.cloud_state()
        assert not set(state["compute"]["projects"][PROJECT]["disks"]) - kept


async def test_a_second_change_during_a_roll_out_leaves_only_the_last_revision(
    tmp_path: Path,
) -> None:
    """Two changes, one after the other, and the zone's machines are of the third revision."""
    wide = Settings(deletion=DeletionSettings(permitted_count=500))
    async with world(tmp_path, options=CloudOptions(), settings=wide) as w:
        await w.until_states(cataloged=3)
        for machine_type in ("e2-medium", "e2-micro"):
            w.write_config(template(machine_type=machine_type), manager())
            await asyncio.sleep(7.0)

        async def only_the_last() -> bool:
            return len(await templates(w)) == 1 and len(await w.groups()) == 1

        await w.until(only_the_last)
        await w.until_states(cataloged=3)
        for name in await w.vms():
            vm = await w.compute("GET", f"zones/{ZONE}/instances/{name}")
            assert vm["machineType"].endswith("/e2-micro")


async def test_a_daemon_that_has_not_heard_yet_undoes_nothing_of_a_newer_configuration(
    tmp_path: Path,
) -> None:
    """Fault 26: two daemons, of which one reads the configuration 50 seconds after the other."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    crons = {"import-config": "40 * * * * *"}
    async with world(
        tmp_path, managers=both, options=CloudOptions(), crons=crons, epoch=EPOCH
    ) as w:
        await w.until_states(cataloged=5)
        async with replica(w, {"import-config": "50 * * * * *"}):
            for number in range(5):
                await w.lease(f"r{number}", duration=80_000)
            w.write_config(template(), manager())
            await w.pass_time(180.0)  # both know that the zone drains, and wait for the leases
            await w.reset_calls()
            await w.pass_time(45.0 - w.clock.now() % 60.0 + 60.0)  # the second one reads it first
            w.write_config(template(), manager() + manager(zone=OTHER_ZONE, minimum=4))
            await w.until_states(leased=5, cataloged=2)
            await w.pass_time(120.0)
            calls = await w.calls()
            assert await w.states() == {"leased": 5, "cataloged": 2}
    assert calls[RESIZE] == 1
    assert calls[DELETE_MACHINE] == calls[DELETE_INSTANCES] == 0


@pytest.mark.parametrize("held", [False, True])
async def test_a_daemon_that_has_not_heard_looks_before_it_takes_a_machine_away(
    tmp_path: Path, *, held: bool
) -> None:
    """Fault 26: it believes that a zone drains, which another one has named again meanwhile."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    crons = {"import-config": "0 0 1 1 *"}
    async with world(tmp_path, managers=both, settings=UNREVIEWED, crons=crons, epoch=EPOCH) as w:
        await w.until_states(cataloged=5)
        for number in range(5 * held):
            await w.lease(f"r{number}", duration=80_000)
        assert await w.act("/api/pause", {"zone": OTHER_ZONE}) == 200
        w.write_config(template(), manager())
        await w.restart_daemon()
        await w.until(lambda: _drains(w, OTHER_ZONE))
        group = next(name for name in await w.groups() if name.startswith(OTHER_ZONE))
        zone, name = group.split("/")
        await w.compute("POST", f"zones/{zone}/instanceGroupManagers/{name}/resize?size=3")
        await w.until(lambda: _shows(w, 6))
        w.write_config(template(), both)
        async with replica(w, {"import-config": "* * * * *"}):
            await w.pass_time(10.0)
        await w.reset_calls()
        assert await w.act("/api/resume", {"zone": OTHER_ZONE}) == 200
        await w.until_states(leased=5 * held, cataloged=6 - 5 * held)
        calls = await w.calls()
    assert calls[DELETE_MACHINE] == calls[DELETE_INSTANCES] == 0


async def _drains(w: World, zone: str) -> bool:
    fleet = await w.get("/api/status")
    return any((row["zone"], row["state"]) == (zone, "draining") for row in fleet.get("fleet", ()))


async def _shows(w: World, machines: int) -> bool:
    return len(await w.machines()) == machines
