"""VMs that stop, are suspended, preempted or broken, and come back."""

from __future__ import annotations

from typing import Any

import pytest

from gce_backend.localcloud.faults import Fault
from localcloud.compute_world import INSTANCES, PROJECT, ZONE, World, world


async def ready(at: World, **fields: Any) -> str:
    """The name of the one VM of a stable group."""
    await at.template(**fields)
    await at.group(size=1)
    await at.stable()
    [member] = await at.members()
    return str(member["name"])


async def status(at: World, name: str) -> str:
    """A VM's status."""
    return str((await at.get(f"{INSTANCES}/{name}"))["status"])


async def strike(at: World, name: str, event: str) -> int:
    """Lets something happen to a VM; the HTTP status."""
    url = f"{at.cloud.base_url}/_localcloud/vms/{name}/{event}?project={PROJECT}"
    async with at._session.post(url) as response:
        return response.status


async def test_a_stopped_vm_stays_an_idle_member_and_starts_again() -> None:
    """With its id and metadata: it is the same VM."""
    async with world() as at:
        name = await ready(at)
        before = await at.get(f"{INSTANCES}/{name}")
        operation = await at.post(f"{INSTANCES}/{name}/stop")
        assert (operation["operationType"], await status(at, name)) == ("stop", "STOPPING")
        await at.done(operation)
        assert await status(at, name) == "TERMINATED"
        [member] = await at.members()
        assert (member["instanceStatus"], member["currentAction"]) == ("TERMINATED", "NONE")
        assert (await at.stable())["targetSize"] == 1
        await at.done(await at.post(f"{INSTANCES}/{name}/stop"))
        assert (await at.call("POST", f"{INSTANCES}/{name}/resume")).reason == "resourceNotReady"
        await at.done(await at.post(f"{INSTANCES}/{name}/start"))
        await at.later(5)
        after = await at.get(f"{INSTANCES}/{name}")
        assert after == before


async def test_a_suspended_vm_resumes() -> None:
    """SUSPENDING, SUSPENDED, and RUNNING again; start is not the way."""
    async with world() as at:
        name = await ready(at)
        operation = await at.post(f"{INSTANCES}/{name}/suspend")
        assert await status(at, name) == "SUSPENDING"
        await at.done(operation)
        await at.later(1)
        assert await status(at, name) == "SUSPENDED"
        assert (await at.call("POST", f"{INSTANCES}/{name}/start")).reason == "resourceNotReady"
        await at.post(f"{INSTANCES}/{name}/resume")
        await at.later(5)
        assert await status(at, name) == "RUNNING"


async def test_a_group_that_repairs_makes_a_stopped_vm_again() -> None:
    """Under its name, with another id."""
    async with world() as at:
        await at.template()
        await at.group(size=1, instanceLifecyclePolicy={"defaultActionOnFailure": "REPAIR"})
        await at.stable()
        [before] = await at.members()
        await at.done(await at.post(f"{INSTANCES}/{before['name']}/stop"))
        await at.later(1)
        await at.stable()
        [after] = await at.members()
        assert after["name"] == before["name"]
        assert (after["id"] != before["id"], after["instanceStatus"]) == (True, "RUNNING")


@pytest.mark.parametrize(
    ("event", "scheduling", "after"),
    [
        ("power-off", {}, "TERMINATED"),
        ("preempt", {}, "TERMINATED"),
        ("preempt", {"preemptible": True, "instanceTerminationAction": "DELETE"}, None),
        ("host-error", {}, "RUNNING"),
        ("host-error", {"automaticRestart": False}, "TERMINATED"),
    ],
)
async def test_what_happens_to_a_vm_by_itself(
    event: str, scheduling: dict[str, Any], after: str | None
) -> None:
    """As its scheduling says."""
    async with world() as at:
        name = await ready(at, scheduling=scheduling)
        assert await strike(at, name, event) == 200
        assert await strike(at, name, event) == 404  # it does not run now
        await at.later(60)
        [member] = await at.members()
        assert member.get("instanceStatus") == after


async def test_an_endless_operation_runs_on_and_takes_no_effect() -> None:
    """For hours."""
    async with world() as at:
        name = await ready(at)
        at.cloud.faults.add(Fault(method="compute.instances.suspend", kind="endless"))
        operation = await at.post(f"{INSTANCES}/{name}/suspend")
        await at.later(7200)
        found = await at.get(f"zones/{ZONE}/operations/{operation['name']}")
        assert found["status"] == "RUNNING"
