"""resize-instance-groups: a group is raised to its minimum, and never lowered."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from support.deletions import (
    mutations,
)
from support.fleet_harness import OTHER_ZONE, ZONE, manager, template, world
from support.fleet_views import manager_in
from support.outside import cataloged, ids, whole

CREATE = "compute.instanceGroupManagers.createInstances"
SELDOM = {"import-config": "* * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
"""For long tests: neither configuration nor leases are looked at every moment."""
GROUPS = "compute.instanceGroupManagers"


async def test_resize_instance_groups(tmp_path: Path) -> None:
    """What the spec says of resize-instance-groups.

    "Embiggens a GCE managed instance group whose size has fallen below
    the minimum configured size."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        (group,) = [name.partition("/")[2] for name in await w.groups()]
        request = "11111111-1111-4111-8111-111111111111"
        path = f"zones/{ZONE}/instanceGroupManagers/{group}/resize?size=1&requestId={request}"
        await w.compute("POST", path)

        async def is_full() -> bool:
            sizes = [found["targetSize"] for found in (await w.groups()).values()]
            return sizes == [3] and (await w.states())["cataloged"] == 3

        await w.until(is_full, within=900)


async def test_a_growth_that_fails_again_and_again_is_told_once(tmp_path: Path) -> None:
    """The condition says that it fails; history is not filled with its tries (each anew)."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        await w.inject(CREATE, kind="operation", reason="QUOTA_EXCEEDED", times=None)
        w.write_config(template(), manager(minimum=3))
        await w.pass_time(900.0)
        assert await w.fired() > 4  # an operation that was replayed would not be struck again
        await w.clear_faults()
        await w.until_states(cataloged=3, within=1200.0)
        await w.pass_time(10.0)
        events = (await w.get("/api/events?kind=group"))["events"]
    told = [(event["before"], event["after"]) for event in reversed(events)]
    assert told[-2:] == [("active", "growing"), ("growing", "active")]
    assert [after for _, after in told].count("growing") == 1


async def test_group_resized_up_outside_is_never_lowered(tmp_path: Path) -> None:
    """Whoever wanted more machines gets them: they are cataloged, and no resize is sent."""
    async with world(tmp_path, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        group = next(iter(await w.groups())).split("/")[1]
        await w.compute("POST", f"zones/{ZONE}/instanceGroupManagers/{group}/resize?size=5")
        await w.reset_calls()
        now = await cataloged(w, 5)
        await w.pass_time(600)
        assert before.items() <= now.items()
        assert await ids(w) == now
        assert (await w.calls())[CREATE] == 0


async def test_group_resized_down_outside_is_raised_to_its_minimum_again(tmp_path: Path) -> None:
    """The victims that Compute picked leave the catalog."""
    async with world(tmp_path, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        group = next(iter(await w.groups())).split("/")[1]
        await w.compute("POST", f"zones/{ZONE}/instanceGroupManagers/{group}/resize?size=1")

        async def shrunk() -> bool:
            return len(before.keys() & (await w.vms()).keys()) == 1

        await w.until(shrunk)
        (left,) = before.keys() & (await w.vms()).keys()
        await w.until(whole(w, 3, without=set(before) - {left}))


async def test_hazard_09_machines_that_are_being_made_are_not_asked_for_again(
    tmp_path: Path,
) -> None:
    """A group refills after three deletions at once with one resize, however slowly VMs boot."""
    options = msgspec.structs.replace(CloudOptions(), boot_seconds=90.0)
    async with world(tmp_path, options=options) as w:
        before = await cataloged(w, 3)
        await w.reset_calls()
        for number in range(3):
            await w.lease(f"r{number}")
        for number in range(3):
            await w.release(f"r{number}")
        await w.pass_time(5)
        await w.until(whole(w, 3, without=set(before)))
        calls = await w.calls()
        assert 1 <= calls[CREATE] <= 3
        assert all(group["targetSize"] == 3 for group in (await w.groups()).values())


async def test_quota_exceeded_is_one_zones_trouble_with_its_reason(tmp_path: Path) -> None:
    """Fault 35: resizes that end in QUOTA_EXCEEDED are tried ever more seldom; the rest goes on."""
    managers = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=managers, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 5)
        await w.inject(CREATE, kind="operation", reason="QUOTA_EXCEEDED", zone=ZONE, times=None)
        await w.reset_calls()
        w.write_config(template(), manager(minimum=4) + manager(zone=OTHER_ZONE, minimum=3))
        await w.pass_time(900)
        assert await w.fired() == (await w.calls())[CREATE] - 1
        assert 3 <= await w.fired() <= 12
        assert before.items() <= (await ids(w)).items()
        zones = [vm["zone"] for vm in (await w.vms()).values()]
        assert (zones.count(ZONE), zones.count(OTHER_ZONE)) == (3, 3)
        fleet = await w.get("/api/fleet")
        assert "QuotaExceeded" in {condition["reason"] for condition in fleet["conditions"]}
        await w.clear_faults()
        await w.until(whole(w, 7, without=set()), within=900)


async def test_hazard_02_resize_that_is_repeated_does_not_lower_what_others_raised(
    tmp_path: Path,
) -> None:
    """Between two tries somebody raises the group further, and machines are leased."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject(CREATE, status=503, retry_after=9, times=1)
        w.write_config(template(), manager(minimum=5))
        await w.until(w.has_fired, every=0.1)
        (group,) = [name.partition("/")[2] for name in await w.groups()]
        request = "11111111-1111-4111-8111-111111111111"
        path = f"zones/{ZONE}/instanceGroupManagers/{group}/resize?size=12&requestId={request}"
        await w.compute("POST", path)
        await w.pass_time(1)
        held = [await w.lease(f"r{index}", duration=100_000) for index in range(3)]
        await w.pass_time(120)
        vms = await w.vms()
        assert len(vms) == 12
        assert set(held) <= set(vms)


async def test_hazard_02_a_group_is_never_made_smaller_by_resize(tmp_path: Path) -> None:
    """Compute would pick the victims: idle machines are deleted by their names instead."""
    async with world(tmp_path, managers=manager(minimum=4)) as w:
        await w.until_states(cataloged=4)
        before = set(await w.vms())
        held = await w.lease()
        await w.reset_calls()
        w.write_config(template(), manager(minimum=2, maximum=3))
        await w.until_states(leased=1, cataloged=1)
        left = set(await w.vms())
        assert held in left < before
        calls = {name for name in await mutations(w) if name.startswith("compute.")}
        assert calls == {"compute.instanceGroupManagers.deleteInstances"}


async def test_a_manager_may_keep_its_machines_when_its_minimum_falls(tmp_path: Path) -> None:
    """With `surplus_seconds: -1`, what is there stays, and no resize is sent."""
    two_zones = manager(minimum=5) + manager(zone=OTHER_ZONE, minimum=5)
    async with world(tmp_path, managers=two_zones) as w:
        await w.until_states(cataloged=10)
        before = await w.vms()
        await w.reset_calls()
        kept = manager(minimum=2, surplus_seconds=-1)
        w.write_config(template(), kept + manager(zone=OTHER_ZONE, minimum=5))

        async def is_known() -> bool:
            [shown] = (await w.get("/api/fleet"))["templates"]
            groups = shown["revisions"][0]["managers"]
            return {2, 5} == {group["minimum_size"] for group in groups}

        await w.until(is_known)
        await w.pass_time(300.0)
        assert await w.vms() == before
        calls = await w.calls()
        assert calls[CREATE] == 0
        assert calls["compute.instanceGroupManagers.deleteInstances"] == 0
        assert {group["targetSize"] for group in (await w.groups()).values()} == {5}


async def test_a_maximum_bounds_old_and_new_revision_together(tmp_path: Path) -> None:
    """Never more than the maximum's VMs in the zone while a template changes; yet it changes."""
    bounded = manager(minimum=4, maximum=5)
    async with world(tmp_path, managers=bounded, options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), bounded)
        most = 0

        async def rolled() -> bool:
            nonlocal most
            vms = set(await w.vms())
            most = max(most, len(vms))
            targets = sum(group["targetSize"] for group in (await w.groups()).values())
            most = max(most, targets)
            return not vms & old and len(vms) == 4

        await w.until(rolled, within=1800.0, every=0.25)
        await w.until_states(cataloged=4)
        assert most == 5


async def test_a_stockout_stops_one_zone_says_so_and_ends(tmp_path: Path) -> None:
    """The other zone is cataloged meanwhile; no resize storm; once it is over, the rest follows."""
    two_zones = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=two_zones, start=False) as w:
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        await w.start_daemon()
        await w.until_states(cataloged=2, creating=3)
        await w.pass_time(300.0)
        fleet = await w.get("/api/fleet")
        short, well = manager_in(fleet, ZONE), manager_in(fleet, OTHER_ZONE)
        assert [c["reason"] for c in short["conditions"]] == ["StockOut"]
        assert "enough resources" in short["reason"]
        assert not well["conditions"]
        assert await w.fired() >= 3
        calls = await w.calls()
        assert not calls[CREATE]
        assert calls["compute.instanceGroupManagers.insert"] == 2
        await w.clear_faults()
        await w.until_states(cataloged=5)
        assert not manager_in(await w.get("/api/fleet"), ZONE)["conditions"]


async def test_a_machine_of_a_zone_without_capacity_is_replaced_by_one_member(
    tmp_path: Path,
) -> None:
    """A look at the group while Compute adds the member already counts it."""
    async with world(tmp_path, options=CloudOptions()) as w:
        await w.until_states(cataloged=3)
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        await w.inject("compute.zoneOperations.wait", kind="latency", seconds=15.0, times=None)
        name = (await w.machines())[0]["name"]
        assert await w.act("/api/drain", {"name": name}) == 200
        await w.until_states(cataloged=2, creating=1)
        await w.pass_time(60)
        await w.reset_calls()
        await w.pass_time(120)
        calls = await w.calls()
        assert not calls[CREATE]
        assert not calls["compute.instanceGroupManagers.deleteInstances"]


async def test_a_stockout_of_one_machine_type_does_not_stop_another_template(
    tmp_path: Path,
) -> None:
    """Two templates in one zone: what one lacks is nothing to the other."""
    two = template("small") + template("large", machine_type="n2-standard-8")
    both = manager("small") + manager("large")
    async with world(tmp_path, templates=two, managers=both, start=False) as w:
        await w.inject("*", kind="stockout", machine_type="n2-standard-8", times=None)
        await w.start_daemon()
        await w.until_states(cataloged=3, creating=3)
        assert {m["template"] for m in await w.machines() if m["state"] == "cataloged"} == {"small"}
        assert await w.fired() >= 3
        await w.clear_faults()
        await w.until_states(cataloged=6)
