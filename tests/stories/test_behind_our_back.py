"""What others did behind our back is mended, and an answer that lies destroys nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.outside import cataloged, delete_vm, ids, make_marked_group, whole

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
"""Looks at what did not change twice a minute, so that tests are short."""
SELDOM = {"import-config": "* * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
"""For long tests: neither configuration nor leases are looked at every moment."""
GROUPS = "compute.instanceGroupManagers"
LISTS = (f"{GROUPS}.aggregatedList", f"{GROUPS}.listManagedInstances")


@pytest.mark.parametrize("options", [CloudOptions(), CloudOptions().instant()])
async def test_hazard_18_vm_deleted_outside_leaves_the_catalog_and_is_replaced(
    tmp_path: Path, options: CloudOptions
) -> None:
    """Nothing in its group tells of it, no job has a call to make, and nobody can lease a ghost."""
    async with world(tmp_path, options=options) as w:
        deleted = set(await cataloged(w, 3))
        await w.pass_time(120)
        for name in deleted:
            await delete_vm(w, name)

        async def out() -> bool:
            return not deleted & (await w.catalog()).keys()

        assert await w.until(out) < 90
        assert await w.until(whole(w, 3, without=deleted)) < 180


async def test_leased_vm_deleted_outside_ends_its_lease_and_is_replaced(tmp_path: Path) -> None:
    """Nobody can use it any longer: the machine goes, and another comes."""
    async with world(tmp_path, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        name = await w.lease()
        await w.pass_time(120)
        await delete_vm(w, name)
        await w.until(whole(w, 3, without={name}), within=300)
        assert (await ids(w)).items() >= {n: i for n, i in before.items() if n != name}.items()
        [lease] = (await w.call("GET", "/api/v1/leases"))["leases"]
        assert (lease["state"], lease["ended"]) == ("ended", "LOST")


async def test_lease_on_a_machine_of_a_group_deleted_outside_ends_in_a_whole_fleet(
    tmp_path: Path,
) -> None:
    """The lease of a machine that no longer exists ends without anybody's help."""
    async with world(tmp_path, settings=SOON, options=CloudOptions()) as w:
        await cataloged(w, 3)
        name = await w.lease()
        group = next(iter(await w.groups())).split("/")[1]
        await w.compute("DELETE", f"zones/{ZONE}/instanceGroupManagers/{group}")
        await w.until(whole(w, 3, without={name}), within=900)


async def test_metadata_changed_outside_is_kept(tmp_path: Path) -> None:
    """What somebody put beside our keys stays, also through another subscription."""
    async with world(tmp_path, crons=SELDOM, options=CALM) as w:
        name = min(await cataloged(w, 3))
        path = f"zones/{ZONE}/instances/{name}"

        async def subscribed() -> bool:
            items = (await w.compute("GET", path))["metadata"].get("items", [])
            return "pubsub_subscription" in {item["key"] for item in items}

        await w.until(subscribed)
        metadata = (await w.compute("GET", path))["metadata"]
        items = [*metadata["items"], {"key": "owner", "value": "somebody"}]
        body = {"fingerprint": metadata["fingerprint"], "items": items}
        await w.compute("POST", f"{path}/setMetadata", body)
        await w.pass_time(60)
        await w.restart_daemon()
        await w.pass_time(600)
        after = (await w.compute("GET", path))["metadata"]["items"]
        assert {item["key"]: item["value"] for item in items} == {
            item["key"]: item["value"] for item in after
        }


@pytest.mark.parametrize("leased", [False, True])
async def test_group_that_repairs_all_the_same_makes_its_machine_a_missing_one(
    tmp_path: Path, leased: bool
) -> None:
    """Fault 34: the VM under the old name is another one, never taken for what was leased.

    It is a new machine once the earlier one is gone from the catalog.
    """
    async with world(tmp_path, settings=SOON, start=False) as w:
        await make_marked_group(w, await w.mark(), size=3, policy="REPAIR")
        await w.start_daemon()
        before = await cataloged(w, 3)
        name = await w.lease() if leased else min(before)
        await delete_vm_of_repairing_group(w, name, before[name])
        if leased:
            await w.until(lambda: w.is_in(name, "missing"))
            assert (await ids(w))[name] != before[name]

        async def is_known_anew() -> bool:
            async with w.fleet() as fleet:
                known = [found for key, found in fleet.instances.items() if key.name == name]
            return [str(found.gce_id) for found in known] == [(await ids(w))[name]]

        await w.until(is_known_anew)
        await w.until(whole(w, 3, without=set()))
        assert (await ids(w))[name] != before[name]


async def delete_vm_of_repairing_group(w: World, name: str, gce_id: str) -> None:
    """Somebody deletes a VM, and its group makes it again."""
    await w.compute("DELETE", f"zones/{ZONE}/instances/{name}")

    async def again() -> bool:
        return (await ids(w)).get(name, gce_id) != gce_id

    await w.until(again)


@pytest.mark.parametrize("kind", ["empty", "unreachable", "lost-page", "truncate", "html"])
@pytest.mark.parametrize("method", LISTS)
async def test_list_that_lies_for_minutes_destroys_nothing(
    tmp_path: Path, method: str, kind: str
) -> None:
    """Faults 15, 21 and 22: unknown, never empty: every machine stays, leased or not."""
    managers = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=managers, settings=SOON, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 5)
        held = await w.lease()
        catalog = await w.catalog()
        await w.reset_calls()
        await w.inject(method, kind=kind, times=None)
        await w.pass_time(200)
        await w.restart_daemon()
        await w.pass_time(100)
        assert await w.fired()
        # A list that says that it is complete is believed so far; that of members has no warnings.
        if kind != "empty" and (method, kind) != (LISTS[1], "unreachable"):
            assert "missing" not in await w.states()
        calls = await w.calls()
        assert await ids(w) == before
        assert await w.catalog() == catalog
        for call in ("deleteInstances", "delete", "insert", "createInstances"):
            assert calls[f"{GROUPS}.{call}"] == 0
        assert calls["machine_provider.catalog.delete_machine"] == 0
        await w.clear_faults()
        await w.until_states(cataloged=4, leased=1)
        assert await w.is_in(held, "leased")


SPOILED = (
    *(f"{GROUPS}.{name}" for name in ("get", "aggregatedList", "listManagedInstances")),
    *(f"{GROUPS}.{name}" for name in ("deleteInstances", "insert")),
    *("compute.instances.get", "compute.instanceTemplates.get"),
    *("machine_provider.catalog.add_machines", "machine_provider.catalog.delete_machine"),
    *("datastore.projects.lookup", "datastore.projects.commit", "datastore.projects.runQuery"),
)


@pytest.mark.parametrize(
    ("method", "kind"),
    [(method, ("truncate", "html")[number % 2]) for number, method in enumerate(SPOILED)],
)
async def test_spoiled_answers_delay_a_roll_out_and_harm_nobody(
    tmp_path: Path, method: str, kind: str
) -> None:
    """Fault 15, in the middle of the liveliest time; the leased machine is there afterwards."""
    async with world(tmp_path, settings=SOON) as w:
        before = await cataloged(w, 3)
        held = await w.lease()
        await w.inject(method, kind=kind, times=3)
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.restart_daemon()

        async def rolled() -> bool:
            vms, catalog = await w.vms(), await w.catalog()
            new = vms.keys() - before.keys()
            return (
                vms.keys() & before.keys() == {held}
                and {n for n, s in catalog.items() if s == "AVAILABLE"} == new
                and len(new) == 3
            )

        await w.until(rolled, within=1800)
        assert await w.fired()
        assert (await ids(w))[held] == before[held]
        assert (await w.catalog())[held] == "LEASED"


async def test_while_the_machine_provider_is_down_nothing_drains_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    """Fault 29: no deletion, no way out of the catalog; the new revision comes up meanwhile."""
    async with world(tmp_path, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        held = await w.lease()
        catalog = await w.catalog()
        await w.inject("machine_provider.*", times=None)
        await w.reset_calls()
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.pass_time(600)
        assert await w.fired()
        calls = await w.calls()
        assert before.items() <= (await ids(w)).items()
        assert len(await w.vms()) == 3 + 1  # one that proves itself first, which needs the catalog
        assert await w.catalog() == catalog
        assert calls[f"{GROUPS}.deleteInstances"] == 0
        assert calls["machine_provider.catalog.add_machines"] <= 60
        await w.clear_faults()

        async def rolled() -> bool:
            return (await w.vms()).keys() & before.keys() == {held}

        await w.until(rolled, within=900)
