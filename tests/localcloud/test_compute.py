"""The embedded Compute Engine over HTTP: templates, groups and their VMs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    OPTIONS,
    PROJECT,
    ROOT,
    TEMPLATES,
    ZONE,
    World,
    group_body,
    template_body,
    world,
)


async def delete_instances(at: World, links: list[str], **extra: Any) -> Any:
    """Starts deleteInstances on `workers`."""
    body = {"instances": links, **extra}
    return await at.call("POST", f"{GROUPS}/workers/deleteInstances", body)


async def test_template_appears_when_its_operation_is_done_and_goes_when_deleted() -> None:
    """A template cannot be seen before DONE, cannot be doubled, and vanishes by delete."""
    async with world() as at:
        operation = await at.post(TEMPLATES, template_body())
        assert operation["status"] == "PENDING"
        assert (await at.call("GET", f"{TEMPLATES}/small")).reason == "notFound"
        assert (await at.call("POST", TEMPLATES, template_body())).reason == "alreadyExists"
        ended = await at.done(operation)
        assert at.clock.now() - float(operation["name"].split("-")[1]) / 1000 >= 1.0
        template = await at.get(f"{TEMPLATES}/small")
        assert template["id"] == ended["targetId"] == operation["targetId"]
        assert template["properties"]["machineType"] == "n1-standard-2"
        assert [t["name"] for t in (await at.get(TEMPLATES))["items"]] == ["small"]
        deletion = (await at.call("DELETE", f"{TEMPLATES}/small")).body
        assert (await at.call("GET", f"{TEMPLATES}/small")).status == 200
        await at.done(deletion)
        assert (await at.call("GET", f"{TEMPLATES}/small")).status == 404
        assert "items" not in await at.get(TEMPLATES)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"machineType": "n1-standard-3"}, 400),
        ({"machineTyp": "n1-standard-2"}, 400),
        ({"disks": []}, 400),
        ({"networkInterfaces": []}, 400),
        ({"labels": {"Owner": "x"}}, 400),
        ({"metadata": {"items": [{"key": "a b", "value": ""}]}}, 400),
        ({"metadata": {"items": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}}, 400),
        ({"canIpForward": "yes"}, 400),
        ({"disks": [{"boot": True, "initializeParams": {"sourceImage": "missing-1"}}]}, 404),
    ],
)
async def test_template_that_google_would_refuse_is_refused(
    change: dict[str, Any], status: int
) -> None:
    """Unknown fields, wrong types and impossible values never become a template."""
    async with world() as at:
        reply = await at.call("POST", TEMPLATES, template_body(**change))
        assert reply.status == status, reply
        assert "items" not in await at.get(TEMPLATES)


async def test_group_makes_its_vms_step_by_step() -> None:
    """Members are CREATING without an id, then their VMs boot, then they are idle."""
    async with world() as at:
        await at.template()
        inserted = await at.post(GROUPS, group_body())
        assert (await at.call("GET", f"{GROUPS}/workers")).status == 404
        assert (await at.call("POST", GROUPS, group_body())).reason == "alreadyExists"
        await at.done(inserted)
        members = await at.members()
        assert [m["currentAction"] for m in members] == ["CREATING", "CREATING"]
        assert not any("id" in m or "instanceStatus" in m for m in members)
        assert (await at.call("GET", f"{INSTANCES}/{members[0]['name']}")).status == 404
        group = await at.get(f"{GROUPS}/workers")
        assert group["currentActions"]["creating"] == 2
        assert not group["status"]["isStable"]
        await at.later(2.5)
        assert {m["instanceStatus"] for m in await at.members()} == {"PROVISIONING"}
        await at.later(1)
        assert {m["instanceStatus"] for m in await at.members()} == {"STAGING"}
        await at.later(1)
        members = await at.members()
        assert {(m["instanceStatus"], m["currentAction"]) for m in members} == {("RUNNING", "NONE")}
        group = await at.stable()
        assert (group["targetSize"], group["currentActions"]["none"]) == (2, 2)
        instance = await at.get(f"{INSTANCES}/{members[0]['name']}")
        assert instance["id"] == members[0]["id"]
        assert instance["disks"][0]["diskSizeGb"] == "20"
        assert instance["labels"] == {"owner": "tests"}
        items = {item["key"]: item["value"] for item in instance["metadata"]["items"]}
        assert items["role"] == "worker"
        assert items["created-by"].endswith(f"zones/{ZONE}/instanceGroupManagers/workers")
        assert items["instance-template"].endswith("instanceTemplates/small")
        names = {m["name"] for m in members}
        assert len(names) == 2
        assert all(len(name.removeprefix("workers-")) == 4 for name in names)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"instanceTemplate": "global/instanceTemplates/other"}, 404),
        ({"instanceTemplate": "global/images/small"}, 400),
        ({"targetSize": -1}, 400),
        ({"targetSize": 2001}, 400),
        ({"targetSize": 1001, "listManagedInstancesResults": "PAGELESS"}, 400),
        ({"baseInstanceName": "a" * 59}, 400),
        ({"instanceLifecyclePolicy": {"defaultActionOnFailure": "GIVE_UP"}}, 400),
        ({"surprise": 1}, 400),
    ],
)
async def test_group_that_google_would_refuse_is_refused(
    change: dict[str, Any], status: int
) -> None:
    """A wrong group is refused at once and never appears."""
    async with world() as at:
        await at.template()
        assert (await at.call("POST", GROUPS, group_body(**change))).status == status
        assert "items" not in await at.get(GROUPS)


async def test_unknown_zone_is_refused() -> None:
    """No method works in a zone that does not exist."""
    async with world() as at:
        assert (await at.call("GET", "zones/mars-north1-a/instanceGroupManagers")).status == 400
        assert (await at.call("GET", "zones/mars-north1-a")).status == 404


@pytest.mark.parametrize("form", ["small", "global/instanceTemplates/small", "full"])
async def test_links_are_accepted_in_every_form(form: str) -> None:
    """A bare name, a partial link, and a full one on any host mean the same template."""
    full = f"http://127.0.0.1:9/compute/v1/projects/{PROJECT}/global/instanceTemplates/small"
    async with world() as at:
        await at.template()
        await at.group(instanceTemplate=full if form == "full" else form)
        group = await at.get(f"{GROUPS}/workers")
        canonical = f"{ROOT}projects/{PROJECT}/global/instanceTemplates/small"
        assert group["instanceTemplate"] == canonical


async def test_managed_instances_are_paged_to_the_end_only_in_a_paginated_group() -> None:
    """Pages of a PAGINATED group add up to all members; a PAGELESS one ignores maxResults."""
    async with world(CloudOptions().instant()) as at:
        await at.template()
        await at.group(size=1203)
        await at.group("flat", size=7, listManagedInstancesResults="PAGELESS")
        await at.stable()
        path = f"{GROUPS}/workers/listManagedInstances"
        first = await at.post(path)
        assert len(first["managedInstances"]) == 500
        small = await at.post(path, maxResults="3")
        assert [m["name"] for m in small["managedInstances"]] == [
            m["name"] for m in first["managedInstances"][:3]
        ]
        names = [m["name"] for m in await at.members()]
        assert len(names) == len(set(names)) == 1203
        flat = await at.post(f"{GROUPS}/flat/listManagedInstances", maxResults="3")
        assert len(flat["managedInstances"]) == 7
        assert "nextPageToken" not in flat
        assert (await at.call("POST", path, maxResults="501")).status == 400
        assert (await at.call("POST", path, pageToken="?")).status == 400


async def test_resize_up_adds_vms_and_down_deletes_arbitrary_ones() -> None:
    """TargetSize changes at once; the members follow."""
    async with world() as at:
        await at.template()
        await at.group(size=3)
        before = {m["name"] for m in (await at.members())}
        await at.done(await at.post(f"{GROUPS}/workers/resize", size="5"))
        assert (await at.stable())["targetSize"] == 5
        grown = {m["name"] for m in await at.members()}
        assert before < grown
        await at.post(f"{GROUPS}/workers/resize", size="1")
        group = await at.get(f"{GROUPS}/workers")
        assert (group["targetSize"], group["currentActions"]["deleting"]) == (1, 4)
        await at.stable()
        left = {m["name"] for m in await at.members()}
        assert len(left) == 1
        assert left < grown
        assert (await at.call("POST", f"{GROUPS}/workers/resize", size="-1")).status == 400
        assert (await at.call("POST", f"{GROUPS}/workers/resize")).status == 400


async def test_delete_instances_lowers_the_target_at_once_and_the_vms_go_later() -> None:
    """DONE means scheduled: the VM is DELETING first and gone after delete_seconds."""
    async with world(CloudOptions(operation_seconds=0.2, delete_seconds=5)) as at:
        await at.template()
        await at.group(size=3)
        await at.stable()
        victim, *kept = await at.members()
        reply = await delete_instances(at, [victim["instance"]])
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 2
        await at.done(reply.body)
        found = {m["name"]: m for m in await at.members()}[victim["name"]]
        assert (found["currentAction"], found["instanceStatus"]) == ("DELETING", "STOPPING")
        assert (await delete_instances(at, [victim["instance"]])).status == 400
        await at.later(6)
        assert {m["name"] for m in await at.members()} == {m["name"] for m in kept}
        assert (await at.call("GET", f"{INSTANCES}/{victim['name']}")).status == 404
        assert (await at.stable())["currentActions"]["none"] == 2


async def test_delete_instances_is_all_or_nothing_unless_told_to_skip() -> None:
    """One stranger refuses the whole call; with the flag it is passed over."""
    async with world() as at:
        await at.template()
        await at.group()
        await at.group("others", size=1)
        await at.stable()
        mine = (await at.members())[0]["instance"]
        stranger = (await at.members("others"))[0]["instance"]
        assert (await delete_instances(at, [mine, stranger])).reason == "invalid"
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 2
        elsewhere = mine.replace(ZONE, "us-central1-b")
        skip = {"skipInstancesOnValidationError": True}
        assert (await delete_instances(at, [elsewhere], **skip)).status == 400
        assert (await delete_instances(at, [mine] * 1001, **skip)).status == 400
        assert (await delete_instances(at, [mine, stranger], **skip)).status == 200
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 1
        assert (await at.get(f"{GROUPS}/others"))["targetSize"] == 1


async def test_vm_deleted_outside_is_made_again_under_its_name_by_a_repairing_group() -> None:
    """REPAIR: same name, new numeric id."""
    async with world() as at:
        await at.template()
        await at.group(size=1, instanceLifecyclePolicy={"defaultActionOnFailure": "REPAIR"})
        await at.stable()
        before = (await at.members())[0]
        await at.done((await at.call("DELETE", f"{INSTANCES}/{before['name']}")).body)
        during = (await at.members())[0]
        assert during["currentAction"] == "RECREATING"
        assert "instanceStatus" not in during
        await at.stable()
        after = (await at.members())[0]
        assert after["name"] == before["name"]
        assert after["id"] != before["id"]
        assert after["instanceStatus"] == "RUNNING"


async def test_vm_deleted_outside_stays_a_member_of_a_group_that_does_nothing() -> None:
    """DO_NOTHING: an idle member without id and status, counted in targetSize."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        before = (await at.members())[0]
        await at.done((await at.call("DELETE", f"{INSTANCES}/{before['name']}")).body)
        await at.later(60)
        after = (await at.members())[0]
        assert (after["name"], after["currentAction"]) == (before["name"], "NONE")
        assert not {"id", "instanceStatus"} & after.keys()
        group = await at.get(f"{GROUPS}/workers")
        assert group["targetSize"] == 1
        assert group["status"]["isStable"]
        assert (await at.call("GET", f"{INSTANCES}/{before['name']}")).status == 404
        await delete_instances(at, [before["instance"]])
        await at.later(5)
        assert await at.members() == []


async def test_group_delete_takes_its_vms_with_it() -> None:
    """The group and its VMs are DELETING, then gone; nothing else can be done to it meanwhile."""
    async with world() as at:
        await at.template()
        await at.group()
        await at.stable()
        deletion = (await at.call("DELETE", f"{GROUPS}/workers")).body
        assert {m["currentAction"] for m in await at.members()} == {"DELETING"}
        resize = await at.call("POST", f"{GROUPS}/workers/resize", size="5")
        assert resize.reason == "resourceNotReady"
        await at.done(deletion)
        assert (await at.call("GET", f"{GROUPS}/workers")).status == 404
        assert "items" not in await at.get(INSTANCES)


async def test_template_in_use_cannot_be_deleted() -> None:
    """Also a group whose insert is still in flight protects its template."""
    async with world() as at:
        await at.template()
        inserted = await at.post(GROUPS, group_body(size=0))
        refused = await at.call("DELETE", f"{TEMPLATES}/small")
        assert (refused.status, refused.reason) == (400, "resourceInUseByAnotherResource")
        await at.done(inserted)
        assert (await at.call("DELETE", f"{TEMPLATES}/small")).status == 400
        await at.done((await at.call("DELETE", f"{GROUPS}/workers")).body)
        assert (await at.call("DELETE", f"{TEMPLATES}/small")).status == 200
        refused = await at.call("POST", GROUPS, group_body())
        assert refused.reason == "resourceNotReady"


async def test_set_metadata_needs_the_current_fingerprint() -> None:
    """A stale fingerprint is 412; of two racing updates the later one's operation fails."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        path = f"{INSTANCES}/{(await at.members())[0]['name']}"
        metadata = (await at.get(path))["metadata"]
        update = {"fingerprint": metadata["fingerprint"], "items": [{"key": "a", "value": "1"}]}
        rival = {**update, "items": [{"key": "b", "value": "2"}]}
        operation = await at.post(f"{path}/setMetadata", update)
        late = await at.post(f"{path}/setMetadata", rival)
        assert (await at.get(path))["metadata"] == metadata
        assert "error" not in await at.done(operation)
        ended = await at.done(late)
        assert ended["error"]["errors"][0]["code"] == "CONDITION_NOT_MET"
        changed = (await at.get(path))["metadata"]
        assert changed["items"] == update["items"]
        assert changed["fingerprint"] != metadata["fingerprint"]
        stale = await at.call("POST", f"{path}/setMetadata", rival)
        assert (stale.status, stale.reason) == (412, "conditionNotMet")


async def test_stockout_keeps_members_creating_until_it_ends() -> None:
    """Failed attempts are told in lastAttempt and listErrors, and are repeated until they work."""
    async with world() as at:
        await at.template()
        stockout = Fault(kind="stockout", zone=ZONE, machine_type="n1-standard-2", times=None)
        at.cloud.faults.add(stockout)
        await at.group(size=2)
        await at.later(60)
        for member in await at.members():
            assert member["currentAction"] == "CREATING"
            assert "id" not in member
            error = member["lastAttempt"]["errors"]["errors"][0]
            assert error["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
        errors = (await at.get(f"{GROUPS}/workers/listErrors"))["items"]
        assert {e["error"]["code"] for e in errors} == {"ZONE_RESOURCE_POOL_EXHAUSTED"}
        assert 6 <= stockout.fired <= 14
        at.cloud.faults.clear()
        await at.stable()
        members = await at.members()
        assert {m["instanceStatus"] for m in members} == {"RUNNING"}
        assert not any("lastAttempt" in m for m in members)


async def test_stockout_of_another_machine_type_does_not_matter() -> None:
    """Only the machine type that is exhausted fails."""
    async with world() as at:
        await at.template()
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE, machine_type="c2-standard-4"))
        await at.group(size=2)
        await at.stable()
        assert {m["instanceStatus"] for m in await at.members()} == {"RUNNING"}


async def test_boot_disk_that_is_not_auto_deleted_is_left_behind() -> None:
    """The disk outlives its VM and shows in the state."""
    async with world() as at:
        disk = template_body()["properties"]["disks"][0] | {"autoDelete": False}
        await at.template(disks=[disk])
        await at.group(size=1)
        await at.stable()
        name = (await at.members())[0]["name"]
        await at.post(f"{GROUPS}/workers/resize", size="0")
        await at.later(5)
        state = at.cloud._services[0].state()["projects"][PROJECT]
        assert state["instances"] == {}
        assert state["disks"] == [name]


async def test_group_adds_labels_and_metadata_to_its_vms() -> None:
    """AllInstancesConfig is laid over the template's."""
    async with world() as at:
        await at.template()
        config = {"properties": {"labels": {"tier": "a"}, "metadata": {"role": "boss"}}}
        await at.group(size=1, allInstancesConfig=config)
        await at.stable()
        instance = (await at.get(INSTANCES))["items"][0]
        assert instance["labels"] == {"owner": "tests", "tier": "a"}
        assert {"key": "role", "value": "boss"} in instance["metadata"]["items"]


async def test_everything_goes_on_after_a_restart_in_the_middle_of_a_boot(tmp_path: Path) -> None:
    """Pending operations end and VMs boot in a new process on the same state file."""
    state = tmp_path / "state.db"
    async with world(state=state) as at:
        await at.template()
        await at.group(size=2)
        await at.later(2.5)
        before = {m["name"]: m["id"] for m in await at.members()}
        pending = await at.post(f"{GROUPS}/workers/resize", size="3")
        now = at.clock.now()
    async with world(state=state, epoch=now - asyncio.get_running_loop().time()) as at:
        assert {m["name"]: m.get("id") for m in await at.members()}.items() >= before.items()
        assert "error" not in await at.done(pending)
        group = await at.stable()
        assert group["currentActions"]["none"] == 3
        members = {m["name"]: m["id"] for m in await at.members()}
        assert members.items() >= before.items()
        assert len(set(members.values())) == 3


async def test_state_lists_what_exists() -> None:
    """`/_localcloud/state` shows templates, groups, VMs and disks."""
    async with world(OPTIONS) as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        member = (await at.members())[0]
        state = at.cloud._services[0].state()["projects"][PROJECT]
        assert state["instanceTemplates"] == ["small"]
        group = state["groups"][f"{ZONE}/workers"]
        assert (group["targetSize"], group["instances"]) == (1, [member["name"]])
        entry = {"zone": ZONE, "status": "RUNNING", "id": member["id"]}
        assert state["instances"] == {member["name"]: entry}
        assert state["disks"] == [member["name"]]
