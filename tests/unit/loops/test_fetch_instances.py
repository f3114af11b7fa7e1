"""fetch-instances: each VM has an entity, and only a complete list shows that one is missing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gce_backend.fleet.picture import Change
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import ComputeSettings, FetchSettings, JobSettings, Settings
from support.deletions import metric
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.outside import abandon, delete_vm, make_group, make_template, whole

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
"""Looks at what did not change twice a minute, so that tests are short."""
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=5.0)
SELDOM = {"import-config": "* * * * *"}
"""For long tests: what does not matter here is seldom looked at."""
WATCHFUL = Settings(fetch=FetchSettings(resync_seconds=5.0))
"""Members and groups are listed again every few seconds, although nothing changed."""
CLIENT_TRIES = 4
LIST_GROUPS = "compute.instanceGroupManagers.aggregatedList"
LIST_MEMBERS = "compute.instanceGroupManagers.listManagedInstances"


async def watch(w: World, seconds: float, wanted: dict[str, int]) -> None:
    """Lets time pass, and sees at every moment that the machines are in these states."""
    for _ in range(int(seconds / 0.5)):
        assert dict(await w.states()) == wanted
        await w.pass_time(0.5)


def w_seen(w: World, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether the daemon shows so many machines."""

    async def reached() -> bool:
        return len(await w.machines()) == count

    return reached


async def test_abandoned_vm_is_shown_as_missing_kept_and_replaced_in_its_group(
    tmp_path: Path,
) -> None:
    """The role of least privilege may not delete it; the group is filled up beside it."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        await w.until_states(cataloged=3)
        before = {name: vm["id"] for name, vm in (await w.vms()).items()}
        name = min(before)
        refused = {"status": 403, "reason": "forbidden", "times": None}
        await w.inject("compute.instances.delete", **refused)
        await abandon(w, name)

        async def is_missing() -> bool:
            return any(
                machine["name"] == name and machine["state"] == "missing"
                for machine in await w.machines()
            )

        await w.until(is_missing)
        await w.pass_time(1200.0)
        vms = await w.vms()
        assert {other: vms[other]["id"] for other in before} == before
        assert vms[name]["status"] == "RUNNING"
        [group] = (await w.groups()).values()
        assert len(group["instances"]) == 3
        assert name not in group["instances"]
        assert await w.fired()
        assert (await w.calls())["compute.instanceGroupManagers.deleteInstances"] == 0


async def test_abandoned_vm_that_is_leased_keeps_its_lease(tmp_path: Path) -> None:
    """Whoever works on it is not disturbed: VM and catalog entry stay until the lease is over."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        await w.until_states(cataloged=3)
        name = await w.lease(duration=1800)
        await abandon(w, name)
        await w.pass_time(900.0)
        assert (await w.catalog())[name] == "LEASED"
        assert (await w.vms())[name]["status"] == "RUNNING"


async def test_fetch_instances(tmp_path: Path) -> None:
    """What the spec says of fetch-instances.

    "Fetches the list of instances created by each instance group manager,
    creating a models.Instance for each one."
    """
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=both) as w:
        await w.until_states(cataloged=5)
        entities = {(machine["name"], machine["id"]) for machine in await w.machines()}
        assert entities == {(name, str(vm["id"])) for name, vm in (await w.vms()).items()}


async def test_lists_of_very_many_groups_take_several_runs_and_no_deadline_ends_one(
    tmp_path: Path,
) -> None:
    """A run that takes long leaves groups to the next one."""
    settings = Settings(
        compute=ComputeSettings(max_concurrency=1),
        jobs={"fetch-instances": JobSettings(timeout=60.0)},
    )
    zones = (ZONE, OTHER_ZONE, "us-central1-c", "us-central1-f")
    managers = "".join(manager(zone=zone, minimum=1) for zone in zones)
    async with world(tmp_path, managers=managers, settings=settings, start=False) as w:
        await w.inject(LIST_MEMBERS, kind="latency", seconds=18.0, times=4)
        await w.start_daemon()
        await w.until_states(cataloged=4)
        assert await w.fired() == 4
        runs = 'gce_backend_job_runs_total{job_name="fetch-instances",outcome="timeout"}'
        assert await metric(w, runs) == 0


async def test_a_lost_page_of_members_lets_no_machine_seem_missing(tmp_path: Path) -> None:
    """A group is listed to the end, page by page. What a lost page has is unknown, not gone."""
    count, pages = 505, 2
    async with world(tmp_path, managers=manager(minimum=count), settings=WATCHFUL) as w:
        await w.until_states(cataloged=count)
        assert (await w.calls())[LIST_MEMBERS] in {pages, 2 * pages}
        await w.reset_calls()
        await w.inject(LIST_MEMBERS, skip=1, times=CLIENT_TRIES)
        w.write_config(template(), manager(minimum=count + 1))

        async def struck() -> bool:
            assert not (await w.states())["missing"]
            return await w.fired() == CLIENT_TRIES

        await w.until(struck, every=0.1)
        await w.until_states(cataloged=count + 1)
        assert len(await w.vms()) == count + 1
        assert not (await w.calls())["compute.instanceGroupManagers.deleteInstances"]
        assert not (await w.calls())["machine_provider.catalog.delete_machine"]


async def test_a_lost_page_of_groups_lets_no_group_seem_gone(tmp_path: Path) -> None:
    """Our group is on the page that is lost: nothing of it is made again, missing or deleted."""
    async with world(tmp_path, settings=WATCHFUL, crons={"fetch-instances": "*/2 * * * * *"}) as w:
        await w.until_states(cataloged=3)
        await make_template(w, "theirs")
        for number in range(500):
            await make_group(w, f"theirs-{number:03}", "asia-east1-a", "theirs")
        before = await w.vms()
        await w.reset_calls()
        await w.inject(LIST_GROUPS, skip=1, times=None)

        async def incomplete() -> bool:
            fleet = await w.get("/api/fleet")
            return any(c["reason"] == "IncompleteList" for c in fleet["conditions"])

        await w.until(incomplete, within=20.0, every=0.1)
        fleet = await w.get("/api/fleet")
        assert not any(c["reason"] == "GroupMissing" for c in fleet["conditions"])
        await watch(w, 20.0, {"cataloged": 3})  # after the second page, first pages are lost too
        assert await w.fired() > CLIENT_TRIES
        fleet = await w.get("/api/fleet")
        assert not any(c["reason"] == "GroupMissing" for c in fleet["conditions"])
        await w.clear_faults()
        await watch(w, 20.0, {"cataloged": 3})
        assert await w.vms() == before
        calls = await w.calls()
        assert not calls["compute.instanceGroupManagers.insert"]
        assert not calls["compute.instanceGroupManagers.deleteInstances"]
        assert not await incomplete()


async def test_vm_deleted_outside_before_it_was_cataloged_is_replaced(tmp_path: Path) -> None:
    """It never entered the catalog: nothing is asked of the Machine Provider for it."""
    async with world(tmp_path, settings=SOON, start=False) as w:
        await w.inject("machine_provider.catalog.add_machines", times=None)
        await w.start_daemon()

        async def up() -> bool:
            return len(await w.vms()) == 3

        await w.until(up)
        await w.until(w_seen(w, 3))
        name = min(await w.vms())
        await delete_vm(w, name)

        async def noticed() -> bool:
            return len(await w.vms()) == 3 and name not in await w.vms()

        await w.until(noticed)
        assert await w.fired()
        await w.clear_faults()
        await w.until(whole(w, 3, without={name}), within=900)


async def test_hole_19_a_missing_revision_spoils_only_its_own_group(tmp_path: Path) -> None:
    """Its entity is removed by hand: the other template's VMs are seen and cataloged as before."""
    two, managers = template() + template("other"), manager() + manager("other")
    async with world(tmp_path, templates=two, managers=managers) as w:
        await w.until_states(cataloged=6)
        for number in range(6):
            await w.lease(f"r{number}", duration=100_000)
        w.write_config(template("other"), manager("other"))
        await w.until(lambda: _drains(w, "linux"))
        assert w.daemon.context is not None
        fleet = w.daemon.context.fleet
        [lost] = [key for key in fleet.revisions if key.base_name == "linux"]
        await fleet.change([Change(lost, lambda _: None)])
        w.write_config(template("other"), manager("other", minimum=5))

        async def grown() -> bool:
            return (await w.states("other"))["cataloged"] == 2

        await w.until(grown)
        assert len(await w.vms()) == 8
        assert "MissingEntity" in {it.reason for it in w.daemon.context.conditions}


async def _drains(w: World, base_name: str) -> bool:
    shown = (await w.get("/api/fleet"))["templates"]
    return any(it["base_name"] == base_name and it["state"] == "draining" for it in shown)


@pytest.mark.parametrize("kind", ["instanceGroupManagers", "instanceTemplates"])
async def test_what_cannot_be_looked_at_twice_spoils_only_itself(tmp_path: Path, kind: str) -> None:
    """Somebody deleted a group or a template, and Compute does not say so of it alone."""
    async with world(tmp_path, settings=SOON) as w:
        await w.until_states(cataloged=3)
        (group,) = await w.groups()
        await w.inject(f"compute.{kind}.get", status=503, times=None)
        if kind == "instanceTemplates":
            await w.inject("compute.instanceTemplates.list", kind="empty", times=None)
        else:
            path = f"zones/{ZONE}/instanceGroupManagers/{group.rpartition('/')[2]}"
            await w.compute("DELETE", path)
        await w.until(w.has_fired)
        for _ in range(20):
            await w.pass_time(10)
            jobs = (await w.get("/api/jobs"))["jobs"]
            assert not [job["name"] for job in jobs if job["consecutive_failures"]]
        await w.clear_faults()
        await w.until_states(cataloged=3, within=1200)
