"""What the configuration no longer names goes, bottom up, when nobody holds it any more."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings, Settings
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world

BOTH = template() + template("other", machine_type="e2-medium")
MANAGERS = manager() + manager("other", minimum=4)
"""Two templates; that of three machines may be removed without a word."""
SHORT = Settings(deletion=DeletionSettings(tombstone_seconds=30, window_seconds=30))
SELDOM = {"import-config": "*/20 * * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
GROUPS = "compute.instanceGroupManagers"
DELETE_MACHINE = "machine_provider.catalog.delete_machine"


async def of_template(w: World, name: str = "linux") -> dict[str, Any]:
    """All that exists of a template: entities, cloud resources, catalog entries."""
    fleet = await w.get("/api/fleet")
    known = fleet.get("templates", [{"base_name": name}])  # a daemon that starts does not know
    compute = (await w.cloud_state())["compute"]["projects"].get(PROJECT, {})
    found = {
        "entities": [t for t in known if t["base_name"] == name],
        "templates": [t for t in compute.get("instanceTemplates", ()) if t.startswith(f"{name}-")],
        "groups": [g for g in compute.get("groups", {}) if g.split("/")[1].startswith(f"{name}-")],
        "vms": [vm for vm in compute.get("instances", {}) if vm.startswith(f"{name}-")],
        "disks": [disk for disk in compute.get("disks", ()) if disk.startswith(f"{name}-")],
        "catalog": [host for host in await w.catalog() if host.startswith(f"{name}-")],
    }
    return {kind: there for kind, there in found.items() if there}


def gone(w: World, name: str = "linux") -> Callable[[], Awaitable[bool]]:
    """Whether nothing is left of a template."""

    async def reached() -> bool:
        return not await of_template(w, name)

    return reached


def vms_are(w: World, names: set[str]) -> Callable[[], Awaitable[bool]]:
    """Whether these are the VMs of the first template."""

    async def reached() -> bool:
        return set((await of_template(w)).get("vms", ())) == names

    return reached


async def up(w: World, count: int = 7) -> None:
    """Waits until both templates' machines can be leased."""

    async def reached() -> bool:
        return list((await w.catalog()).values()).count("AVAILABLE") == count

    await w.until(reached)
    await w.until_states(cataloged=count)


def drop(w: World) -> None:
    """The first template and its manager leave the configuration."""
    w.write_config(template("other", machine_type="e2-medium"), manager("other", minimum=4))


async def reasons(w: World) -> set[str]:
    """The reasons of all conditions in force."""
    return {condition["reason"] for condition in (await w.get("/api/fleet"))["conditions"]}


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


async def test_leased_machine_is_waited_for_and_asked_about_seldom(tmp_path: Path) -> None:
    """A quarter of an hour long: nothing of it is touched; after its lease all of it goes."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0, duration=7200)
        vm = (await w.vms())[held]
        drop(w)
        await w.until(vms_are(w, {held}))
        await w.reset_calls()
        await w.pass_time(900)
        calls = await w.calls()
        assert (await w.vms())[held] == vm
        assert (await w.catalog())[held] == "LEASED"
        assert calls[DELETE_MACHINE] == 0
        assert calls[f"{GROUPS}.delete"] == calls["compute.instanceTemplates.delete"] == 0
        await w.release()
        await w.until(gone(w))


async def test_hazard_21_answer_leased_is_not_asked_for_again_every_minute(tmp_path: Path) -> None:
    """The lease's message is lost: the Machine Provider's word is enough, and asked ever less."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.inject("machine_provider.catalog.get", status=503, times=None)
        await w.restart_daemon()  # the pull that was under way ends with it
        request = {
            "request_id": "r1",
            "duration": 7200,
            "dimensions": {"os_family": "LINUX", "num_cpus": 2, "memory_gb": 2.0},
        }
        await w.broker("machine_provider.lease", request)

        async def leased() -> bool:
            return "LEASED" in (await w.catalog()).values()

        await w.until(leased)
        held = next(name for name, state in (await w.catalog()).items() if state == "LEASED")
        drop(w)
        await w.until(vms_are(w, {held}))
        await w.reset_calls()
        await w.pass_time(900)
        assert await w.fired()
        assert 2 <= (await w.calls())[DELETE_MACHINE] <= 12
        assert held in await w.vms()
        await w.clear_faults()
        await w.release()
        await w.until(gone(w), within=1800)


async def test_catalog_that_forgot_a_leased_machine_does_not_end_its_lease(tmp_path: Path) -> None:
    """ENTRY_NOT_FOUND while a known lease runs means wait: the VM lives to the lease's end."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0, duration=700)
        await w.inject("machine_provider.catalog.get", kind="empty", times=None)
        await w.inject(DELETE_MACHINE, kind="status", status=404, reason="notFound", times=None)
        drop(w)
        await w.pass_time(500)
        assert await w.fired()
        assert held in await w.vms()
        await w.clear_faults()
        await w.until(gone(w), within=3600)


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


async def test_while_the_machine_provider_is_down_nothing_drains(tmp_path: Path) -> None:
    """Fault 29: it is asked seldom, and not for every machine; all VMs stay until it answers."""
    managers = manager(minimum=30) + manager("other", minimum=40)
    async with world(
        tmp_path, templates=BOTH, managers=managers, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w, 70)
        vms, catalog = await w.vms(), await w.catalog()
        await w.inject("machine_provider.*", times=None)
        await w.reset_calls()
        w.write_config(template("other", machine_type="e2-medium"), manager("other", minimum=40))
        await w.pass_time(600)
        assert await w.fired()
        assert (await w.vms(), await w.catalog()) == (vms, catalog)
        assert 3 <= (await w.calls())[DELETE_MACHINE] <= 60
        await w.clear_faults()
        await w.until(gone(w), within=1800)


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


async def test_group_is_deleted_only_after_two_looks_some_seconds_apart(tmp_path: Path) -> None:
    """The setting's five seconds lie between the group's being empty and its end."""
    async with world(tmp_path, templates=BOTH, managers=MANAGERS) as w:
        await up(w)
        drop(w)

        async def empty() -> bool:
            groups = await w.groups()
            mine = [g for name, g in groups.items() if "/linux-" in name]
            return bool(mine) and not mine[0]["instances"]

        await w.until(empty, every=0.05)
        start = w.clock.monotonic()

        async def deleted() -> bool:
            return not any("/linux-" in name for name in await w.groups())

        await w.until(deleted, every=0.05)
        assert w.clock.monotonic() - start >= 4.9


async def test_hazard_03_members_list_that_is_empty_does_not_let_a_group_go(
    tmp_path: Path,
) -> None:
    """Fault 22: a group whose machines were never listed drains: its size speaks for them."""
    async with world(tmp_path, templates=BOTH, managers=MANAGERS, start=False) as w:
        await w.inject(f"{GROUPS}.listManagedInstances", kind="empty", times=None)
        await w.start_daemon()

        async def seven() -> bool:
            return len(await w.vms()) == 7

        await w.until(seven)
        mine = {name for name in await w.vms() if name.startswith("linux-")}
        drop(w)
        await w.pass_time(300)
        assert await w.fired()
        assert (await w.calls())[f"{GROUPS}.delete"] == 0
        assert mine <= (await w.vms()).keys()
        await w.clear_faults()
        await w.until(vms_are(w, set()), within=900)


async def test_group_listed_empty_once_keeps_its_leased_machine(tmp_path: Path) -> None:
    """Fault 22: one lying list while everything drains."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0)
        await w.inject(f"{GROUPS}.listManagedInstances", kind="empty", times=4)
        drop(w)
        await w.pass_time(300)
        assert await w.fired() == 4
        assert held in await w.vms()
        assert (await w.catalog())[held] == "LEASED"


async def test_template_that_somebody_else_uses_waits_for_them(tmp_path: Path) -> None:
    """Being in use is a reason to wait, shown and seldom tried; then all of it goes."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        (name,) = (await of_template(w))["templates"]
        body = {
            "name": "theirs",
            "baseInstanceName": "theirs",
            "instanceTemplate": f"projects/{PROJECT}/global/instanceTemplates/{name}",
            "targetSize": 0,
        }
        await w.compute("POST", f"zones/{OTHER_ZONE}/instanceGroupManagers", body)
        drop(w)
        await w.until(vms_are(w, set()))
        await w.pass_time(600)
        assert (await of_template(w))["templates"] == [name]
        assert "ResourceInUse" in await reasons(w)
        assert (await w.calls())["compute.instanceTemplates.delete"] <= 15
        await w.compute("DELETE", f"zones/{OTHER_ZONE}/instanceGroupManagers/theirs")
        await w.until(gone(w), within=1800)


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("seconds", [2.5, 5.0, 8.0, 13.0])
async def test_template_removed_while_it_is_being_made_leaves_nothing_behind(
    tmp_path: Path, seconds: float, crash: bool
) -> None:
    """With operations of five seconds: template, group and VMs are each in flight in turn."""
    options = msgspec.structs.replace(CloudOptions(), operation_seconds=5.0)
    rest = template("other", machine_type="e2-medium"), manager("other", minimum=4)
    async with world(
        tmp_path, templates=rest[0], managers=rest[1], settings=SHORT, options=options
    ) as w:
        await w.until_states(cataloged=4)
        w.write_config(BOTH, MANAGERS)
        await w.pass_time(seconds)
        drop(w)
        if crash:
            await w.pass_time(2.5)  # it drains, and what was begun has not ended
            await w.restart_daemon()
        await w.until(gone(w), within=1800)
        await w.until_states(cataloged=4)


async def test_hazard_21_template_without_managers_is_made_and_stays_without_machines(
    tmp_path: Path,
) -> None:
    """It stops nothing and nobody; its first manager finds it ready."""
    async with world(tmp_path, templates=BOTH, managers=manager()) as w:
        await w.until_states(cataloged=3)
        assert [
            r["state"] for r in (await of_template(w, "other"))["entities"][0]["revisions"]
        ] == ["active"]
        jobs = (await w.get("/api/jobs"))["jobs"]
        assert all(job["consecutive_failures"] == 0 for job in jobs)
        w.write_config(BOTH, MANAGERS)
        await w.until_states(cataloged=7)


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
