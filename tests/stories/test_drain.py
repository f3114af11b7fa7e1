"""What the configuration no longer names goes, bottom up, when nobody holds it any more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, manager, template, world
from support.fleet_views import reasons
from support.two_templates import BOTH, MANAGERS, SHORT, drop, gone, up, vms_are


@pytest.mark.parametrize("options", [CloudOptions(), CloudOptions().instant()])
async def test_hazard_06_removed_template_goes_with_all_that_it_had(
    tmp_path: Path, options: CloudOptions
) -> None:
    """VMs, their disks, group, template, catalog entries and entities; the other one stays."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, options=options
    ) as w:
        await up(w)
        others = {name for name in await w.vms() if name.startswith("other-")}
        drop(w)
        await w.until(gone(w))
        assert set(await w.vms()) == others
        assert set(await w.catalog()) == others


async def test_revision_named_again_is_reactivated_and_its_machines_cataloged_again(
    tmp_path: Path,
) -> None:
    """The leased one was never out; those whose VMs still run come back as they are."""
    async with world(tmp_path, templates=BOTH, managers=MANAGERS) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0)
        mine = {name for name in await w.vms() if name.startswith("linux-")}
        before = {name: vm["id"] for name, vm in (await w.vms()).items()}
        await w.act("/api/pause")
        drop(w)
        await w.pass_time(10)
        assert {m["state"] for m in await w.machines("linux")} == {"leased", "draining"}
        w.write_config(BOTH, MANAGERS)
        await w.pass_time(10)
        await w.act("/api/resume")
        await w.until_states(cataloged=6, leased=1)
        assert {name: vm["id"] for name, vm in (await w.vms()).items()} == before
        drop(w)
        await w.until(vms_are(w, {held}))
        w.write_config(BOTH, MANAGERS)
        await w.until_states(cataloged=6, leased=1)
        assert (await w.vms())[held]["id"] == before[held]
        assert len(mine & (await w.vms()).keys()) == 1


async def test_only_the_zone_that_was_removed_drains(tmp_path: Path) -> None:
    """The template stays active, and its machines elsewhere are not touched."""
    managers = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=managers, settings=SHORT) as w:
        await w.until_states(cataloged=5)
        kept = {name for name, vm in (await w.vms()).items() if vm["zone"] == ZONE}
        w.write_config(template(), manager(minimum=3))

        async def drained() -> bool:
            fleet = await w.get("/api/fleet")
            zones = [m["zone"] for m in fleet["templates"][0]["revisions"][0]["managers"]]
            return zones == [ZONE] and set(await w.vms()) == kept

        await w.until(drained)
        await w.until_states(cataloged=3)
        assert len(await w.groups()) == 1


async def test_hazard_12_and_13_names_fit_and_differ_between_zones(tmp_path: Path) -> None:
    """The longest base name in two zones: every VM has a host name of its own, of 63 at most."""
    name = "b" * 37
    managers = manager(name) + manager(name, zone=OTHER_ZONE)
    async with world(tmp_path, templates=template(name), managers=managers) as w:
        await w.until_states(cataloged=6)
        assert len(await w.catalog()) == 6
        assert all(len(host) <= 63 for host in await w.catalog())
        groups = {group.split("/")[1] for group in await w.groups()}
        assert len(groups) == 2


async def test_example_fleet_goes_without_a_trace(tmp_path: Path) -> None:
    """One approved, empty configuration: nothing is left in the cloud, the catalog, the store."""
    example = Path(__file__).parents[2] / "config"
    shutil.copytree(example, tmp_path / "config")
    texts = [(example / name).read_text() for name in ("templates.cfg", "managers.cfg")]
    async with world(
        tmp_path, templates=texts[0], managers=texts[1], settings=SHORT, options=CloudOptions()
    ) as w:
        await w.until_states(cataloged=12)
        w.write_config("", "")

        async def held() -> bool:
            return "HeldForApproval" in await reasons(w)

        await w.until(held)
        conditions = (await w.get("/api/fleet"))["configuration"]["conditions"]
        revision = conditions[0]["message"].split()[1]
        assert await w.act("/api/approve", {"revision": revision}) == 200

        async def nothing() -> bool:
            return not (await w.get("/api/fleet"))["templates"]

        await w.until(nothing)
        state = await w.cloud_state()
        assert await w.catalog() == {}
        compute = state["compute"]["projects"].get(PROJECT, {})
        assert not any(compute.values())
