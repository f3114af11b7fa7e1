"""VMs that stop, start, are suspended, preempted, deleted by others, or made by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    PROJECT,
    TEMPLATES,
    ZONE,
    World,
    template_body,
    world,
)

INSTANT = CloudOptions().instant()
GROUP = f"{GROUPS}/workers"
SPOT = {"provisioningModel": "SPOT", "preemptible": True, "automaticRestart": False}


async def one_member(at: World, **properties: Any) -> str:
    """The path of the only VM of a group that does not repair."""
    await at.template(**properties)
    await at.group(size=1)
    await at.stable()
    [member] = await at.members()
    return f"{INSTANCES}/{member['name']}"


async def status(at: World, vm: str) -> str:
    """The status of a VM, which instances.get, the two lists and its group must agree on."""
    shown = str((await at.get(vm))["status"])
    listed = {item["name"]: item["status"] for item in (await at.get(INSTANCES))["items"]}
    assert listed[vm.rpartition("/")[2]] == shown
    scopes = (await at.get("aggregated/instances"))["items"]
    assert [item["status"] for item in scopes[f"zones/{ZONE}"]["instances"]] == [shown]
    for member in await at.members():
        assert member["instanceStatus"] == shown
    return shown


async def act(at: World, vm: str, action: str) -> Any:
    """Asks for a method of a VM and waits for its operation."""
    return await at.done(await at.post(f"{vm}/{action}"))


async def test_stopped_vm_is_shown_as_terminated_everywhere_and_starts_again() -> None:
    """STOPPING, TERMINATED; PROVISIONING, STAGING, RUNNING; its member has nothing to do."""
    async with world() as at:
        vm = await one_member(at)
        before = await at.get(vm)
        operation = await at.post(f"{vm}/stop")
        assert (operation["operationType"], await status(at, vm)) == ("stop", "STOPPING")
        await at.done(operation)
        assert await status(at, vm) == "TERMINATED"
        stopped = await at.get(vm)
        assert "natIP" not in stopped["networkInterfaces"][0]["accessConfigs"][0]
        assert stopped["lastStopTimestamp"] > before["lastStartTimestamp"]
        group = await at.get(GROUP)
        assert group["status"]["isStable"]
        assert (group["targetSize"], group["currentActions"]["none"]) == (1, 1)
        [member] = await at.members()
        assert (member["currentAction"], member["targetStatus"]) == ("NONE", "RUNNING")
        operation = await at.post(f"{vm}/start")
        assert await status(at, vm) == "PROVISIONING"
        await at.done(operation)
        assert await status(at, vm) == "RUNNING"
        again = await at.get(vm)
        assert (again["id"], again["networkInterfaces"]) == (
            before["id"],
            before["networkInterfaces"],
        )
        assert again["lastStartTimestamp"] >= stopped["lastStopTimestamp"]


async def test_suspended_vm_is_resumed_and_only_resumed() -> None:
    """SUSPENDING, SUSPENDED, then as a start; what does not fit its status is refused."""
    async with world() as at:
        vm = await one_member(at)
        operation = await at.post(f"{vm}/suspend")
        assert await status(at, vm) == "SUSPENDING"
        assert (await at.call("POST", f"{vm}/stop")).reason == "resourceNotReady"
        await at.done(operation)
        assert await status(at, vm) == "SUSPENDED"
        assert (await at.call("POST", f"{vm}/start")).reason == "resourceNotReady"
        await act(at, vm, "suspend")
        await act(at, vm, "resume")
        assert await status(at, vm) == "RUNNING"
        assert "lastSuspendedTimestamp" in await at.get(vm)
        await act(at, vm, "resume")
        await act(at, vm, "start")
        assert await status(at, vm) == "RUNNING"
        await act(at, vm, "stop")
        assert (await at.call("POST", f"{vm}/resume")).reason == "resourceNotReady"
        await act(at, vm, "stop")
        assert await status(at, vm) == "TERMINATED"


@pytest.mark.parametrize(
    ("event", "scheduling", "fields", "end"),
    [
        ("power-off", {}, {}, "TERMINATED"),
        ("host-error", {}, {}, "RUNNING"),
        ("host-error", SPOT, {}, "TERMINATED"),
        ("preempt", SPOT, {}, "TERMINATED"),
        ("preempt", SPOT | {"instanceTerminationAction": "STOP"}, {}, "TERMINATED"),
        ("preempt", SPOT | {"instanceTerminationAction": "DELETE"}, {}, None),
        ("preempt", {}, {"action": "DELETE"}, None),
        ("delete", {}, {}, None),
    ],
)
async def test_event_befalls_vm(
    event: str, scheduling: dict[str, Any], fields: dict[str, str], end: str | None
) -> None:
    """Nobody called Compute; a group that does not repair leaves it at that."""
    async with world() as at:
        vm = await one_member(at, scheduling=scheduling)
        name = vm.rpartition("/")[2]
        calls = dict(at.cloud.calls)
        assert await at.event(event, name, **fields) == 200
        assert at.cloud.calls == calls
        during = await status(at, vm)
        assert during == ("REPAIRING" if event == "host-error" else "STOPPING")
        assert await at.event("power-off", name) == 404
        await at.later(60)
        if end is not None:
            assert await status(at, vm) == end
            return
        assert (await at.call("GET", vm)).reason == "notFound"
        [member] = await at.members()
        assert (member["name"], member["currentAction"]) == (name, "NONE")
        assert "instanceStatus" not in member
        assert await at.event("power-off", name) == 404


async def test_events_are_refused_for_what_is_not_there_and_what_is_no_event() -> None:
    """With the reason; a zone tells VMs of one name apart."""
    async with world() as at:
        name = (await one_member(at)).rpartition("/")[2]
        assert await at.event("power-off", "nobody") == 404
        assert await at.event("earthquake", name) == 404
        assert await at.event("preempt", name, action="PAINT") == 400
        assert await at.event("power-off", name, zone="us-central1-b") == 404
        assert await at.event("power-off", name, project="other") == 404
        assert await at.event("power-off", name, zone=ZONE) == 200


async def test_vm_abandoned_by_event_leaves_its_group() -> None:
    """As if somebody had called abandonInstances."""
    async with world() as at:
        vm = await one_member(at)
        assert await at.event("abandon", vm.rpartition("/")[2]) == 200
        assert (await at.get(GROUP))["targetSize"] == 0
        await at.stable()
        assert await at.members() == []
        assert await status(at, vm) == "RUNNING"
        assert await at.event("abandon", vm.rpartition("/")[2]) == 404


@pytest.mark.parametrize("event", ["power-off", "preempt", "delete"])
async def test_group_that_repairs_makes_a_stopped_vm_again(event: str) -> None:
    """Under its name, with another id."""
    async with world() as at:
        await at.template()
        await at.group(size=1, instanceLifecyclePolicy={"defaultActionOnFailure": "REPAIR"})
        await at.stable()
        [before] = await at.members()
        assert await at.event(event, before["name"]) == 200
        while (await at.get(GROUP))["status"]["isStable"]:
            await at.later(1)
        assert (await at.get(GROUP))["currentActions"]["recreating"] == 1
        await at.stable()
        [after] = await at.members()
        assert (after["name"], after["instanceStatus"]) == (before["name"], "RUNNING")
        assert after["id"] != before["id"]


async def test_stopped_vm_can_be_deleted_recreated_and_abandoned_by_its_group() -> None:
    """What a group does with a member does not depend on its running."""
    async with world() as at:
        await at.template()
        await at.group(size=3)
        await at.stable()
        members = await at.members()
        for member in members:
            await act(at, f"{INSTANCES}/{member['name']}", "stop")
        actions = ("deleteInstances", "recreateInstances", "abandonInstances")
        for action, member in zip(actions, members, strict=True):
            await at.post(f"{GROUP}/{action}", {"instances": [member["instance"]]})
        await at.stable()
        deleted, recreated, abandoned = (member["name"] for member in members)
        assert [m["name"] for m in await at.members()] == [recreated]
        assert (await at.get(f"{INSTANCES}/{recreated}"))["status"] == "RUNNING"
        assert (await at.get(f"{INSTANCES}/{abandoned}"))["status"] == "TERMINATED"
        assert (await at.call("GET", f"{INSTANCES}/{deleted}")).reason == "notFound"


async def test_vm_abandoned_while_it_stops_goes_on_stopping() -> None:
    """It does not hang in STOPPING, nor run again."""
    async with world(CloudOptions(operation_seconds=1, boot_seconds=4, delete_seconds=30)) as at:
        vm = await one_member(at)
        assert await at.event("power-off", vm.rpartition("/")[2]) == 200
        assert await at.event("abandon", vm.rpartition("/")[2]) == 200
        await at.later(5)
        assert await status(at, vm) == "STOPPING"
        await at.later(60)
        assert await status(at, vm) == "TERMINATED"


async def test_start_meets_stockouts_and_quotas_and_a_resting_vm_uses_neither() -> None:
    """Its operation ends with the reason; CPUs and addresses are free while it rests."""
    async with world() as at:
        vm = await one_member(at)

        async def usage() -> dict[str, float]:
            quotas = (await at.get("regions/us-central1"))["quotas"]
            return {quota["metric"]: quota["usage"] for quota in quotas}

        before = await usage()
        assert (before["CPUS"], before["INSTANCES"], before["IN_USE_ADDRESSES"]) == (2, 1, 1)
        await act(at, vm, "stop")
        resting = await usage()
        assert resting == before | {"CPUS": 0, "IN_USE_ADDRESSES": 0}
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE))
        failed = await act(at, vm, "start")
        assert failed["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
        assert await status(at, vm) == "TERMINATED"
        await act(at, vm, "start")
        assert await usage() == before


async def test_machine_type_changes_while_the_vm_rests() -> None:
    """It is running with the new one afterwards; its group still counts it as of its template."""
    async with world() as at:
        vm = await one_member(at)
        wanted = {"machineType": f"zones/{ZONE}/machineTypes/n1-standard-8"}
        refused = await at.call("POST", f"{vm}/setMachineType", wanted)
        assert refused.reason == "resourceNotReady"
        await act(at, vm, "stop")
        unknown = {"machineType": f"zones/{ZONE}/machineTypes/n1-standard-7"}
        assert (await at.call("POST", f"{vm}/setMachineType", unknown)).reason == "invalid"
        await at.done(await at.post(f"{vm}/setMachineType", wanted))
        await act(at, vm, "start")
        assert (await at.get(vm))["machineType"].endswith("/n1-standard-8")
        quotas = (await at.get("regions/us-central1"))["quotas"]
        assert {q["metric"]: q["usage"] for q in quotas}["CPUS"] == 8


async def test_labels_are_replaced_under_their_fingerprint() -> None:
    """A stale one is 412; the template's own are gone."""
    async with world() as at:
        vm = await one_member(at)
        fresh = (await at.get(vm))["labelFingerprint"]
        body = {"labels": {"tier": "a"}, "labelFingerprint": fresh}
        await at.done(await at.post(f"{vm}/setLabels", body))
        assert (await at.get(vm))["labels"] == {"tier": "a"}
        assert (await at.call("POST", f"{vm}/setLabels", body)).reason == "conditionNotMet"
        assert (await at.call("POST", f"{vm}/setLabels", {"labels": {}})).reason == "required"


async def test_vm_of_no_group_lives_by_itself(tmp_path: Path) -> None:
    """Made from its own properties or a template's, stopped, kept over a restart, deleted."""
    state = tmp_path / "state.db"
    async with world(state=state) as at:
        own = {"name": "own", **template_body()["properties"]}
        await at.done(await at.post(INSTANCES, own))
        shown = await at.get(f"{INSTANCES}/own")
        assert (shown["status"], shown["labels"]) == ("RUNNING", {"owner": "tests"})
        assert {item["key"] for item in shown["metadata"]["items"]} == {"role"}
        assert (await at.call("POST", INSTANCES, own)).reason == "alreadyExists"
        await at.template()
        source = f"projects/{PROJECT}/{TEMPLATES}/small"
        copied = {"name": "copied", "labels": {"tier": "a"}}
        await at.done(await at.post(INSTANCES, copied, sourceInstanceTemplate=source))
        assert (await at.get(f"{INSTANCES}/copied"))["labels"] == {"tier": "a"}
        await act(at, f"{INSTANCES}/copied", "stop")
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE))
        failed = await at.done(await at.post(INSTANCES, own | {"name": "never"}))
        assert failed["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    async with world(state=state, epoch=at.clock.now()) as at:
        found = {vm["name"]: vm["status"] for vm in (await at.get(INSTANCES))["items"]}
        assert found == {"own": "RUNNING", "copied": "TERMINATED"}
        await at.done((await at.call("DELETE", f"{INSTANCES}/copied")).body)
        assert [vm["name"] for vm in (await at.get(INSTANCES))["items"]] == ["own"]


async def test_vm_goes_on_stopping_after_a_restart_of_the_cloud(tmp_path: Path) -> None:
    """What is going on is durable."""
    state = tmp_path / "state.db"
    async with world(state=state) as at:
        vm = await one_member(at)
        await at.post(f"{vm}/stop")
    async with world(state=state, epoch=at.clock.now() + 60) as at:
        assert await status(at, vm) == "TERMINATED"


async def test_an_endless_operation_runs_on_and_takes_no_effect() -> None:
    """For hours."""
    async with world() as at:
        vm = await one_member(at)
        labels = {"labels": {}, "labelFingerprint": (await at.get(vm))["labelFingerprint"]}
        at.cloud.faults.add(Fault(method="compute.instances.setLabels", kind="endless"))
        operation = await at.post(f"{vm}/setLabels", labels)
        await at.later(7200)
        found = await at.get(f"zones/{ZONE}/operations/{operation['name']}")
        assert found["status"] == "RUNNING"
        assert (await at.get(vm))["labels"] == {"owner": "tests"}
