"""What a group is asked to do with its members, and what it tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute.store import ERROR_LIFE, ERRORS_KEPT
from gce_backend.localcloud.faults import Fault
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    TEMPLATES,
    ZONE,
    World,
    group_body,
    world,
)

INSTANT = CloudOptions().instant()
GROUP = f"{GROUPS}/workers"


async def act(at: World, action: str, *members: Any) -> Any:
    """Asks the group for `abandonInstances` and the like; the answer."""
    body = {"instances": [member["instance"] for member in members]}
    return await at.call("POST", f"{GROUP}/{action}", body)


async def errors(at: World) -> list[Any]:
    """The group's history of errors."""
    found: list[Any] = (await at.get(f"{GROUP}/listErrors")).get("items", [])
    return found


# abandonInstances


async def test_abandoned_vm_leaves_its_group_and_goes_on_running() -> None:
    """The target size falls at once, the member is ABANDONING, then a VM on its own."""
    async with world() as at:
        await at.template()
        await at.group(size=2)
        await at.stable()
        member, kept = await at.members()
        before = await at.get(f"{INSTANCES}/{member['name']}")
        reply = await act(at, "abandonInstances", member)
        group = await at.get(GROUP)
        assert (group["targetSize"], group["currentActions"]["abandoning"]) == (1, 1)
        assert not group["status"]["isStable"]
        shown = {m["name"]: m for m in await at.members()}[member["name"]]
        assert (shown["currentAction"], shown["targetStatus"]) == ("ABANDONING", "ABANDONED")
        assert (await act(at, "deleteInstances", member)).reason == "invalid"
        await at.done(reply.body)
        await at.stable()
        assert [m["name"] for m in await at.members()] == [kept["name"]]
        assert await at.get(f"{INSTANCES}/{member['name']}") == before
        assert (await act(at, "abandonInstances", member)).reason == "invalid"


async def test_abandoned_vm_outlives_group_and_template_and_can_be_deleted_by_itself(
    tmp_path: Path,
) -> None:
    """It needs neither any more, also after a restart, and its metadata can be changed."""
    state = tmp_path / "state.db"
    async with world(INSTANT, state=state) as at:
        await at.template()
        await at.group(size=2, allInstancesConfig={"properties": {"labels": {"tier": "a"}}})
        await at.stable()
        member, _ = await at.members()
        await act(at, "abandonInstances", member)
        await at.stable()
        await at.done((await at.call("DELETE", GROUP)).body)
        await at.done((await at.call("DELETE", f"{TEMPLATES}/small")).body)
    async with world(INSTANT, state=state) as at:
        [vm] = (await at.get(INSTANCES))["items"]
        assert (vm["id"], vm["status"]) == (member["id"], "RUNNING")
        assert vm["labels"] == {"owner": "tests", "tier": "a"}
        assert "created-by" in {item["key"] for item in vm["metadata"]["items"]}
        path = f"{INSTANCES}/{vm['name']}"
        new = {"fingerprint": vm["metadata"]["fingerprint"], "items": [{"key": "a", "value": "b"}]}
        await at.done(await at.post(f"{path}/setMetadata", new))
        assert (await at.get(path))["metadata"]["items"] == new["items"]
        await at.done((await at.call("DELETE", path)).body)
        assert (await at.call("GET", path)).reason == "notFound"


async def test_group_deleted_while_it_abandons_a_vm_leaves_that_vm() -> None:
    """What was asked for first is done; a member that has no VM yet just goes."""
    async with world(CloudOptions(operation_seconds=30, boot_seconds=4, delete_seconds=1)) as at:
        await at.template()
        await at.group(size=2)
        await at.stable()
        member, _ = await at.members()
        await at.post(f"{GROUP}/resize", size="3")
        [newcomer] = [m for m in await at.members() if "id" not in m]
        await act(at, "abandonInstances", member, newcomer)
        await at.done((await at.call("DELETE", GROUP)).body)
        assert [vm["name"] for vm in (await at.get(INSTANCES))["items"]] == [member["name"]]


# recreateInstances


@pytest.mark.parametrize("policy", ["REPAIR", "DO_NOTHING"])
async def test_recreated_vm_has_its_name_and_another_id(policy: str) -> None:
    """It is deleted and made again, whatever the group does about failures; the size stays."""
    async with world() as at:
        await at.template()
        await at.group(size=2, instanceLifecyclePolicy={"defaultActionOnFailure": policy})
        await at.stable()
        member, other = await at.members()
        path = f"{INSTANCES}/{member['name']}"
        metadata = (await at.get(path))["metadata"]
        changed = {"fingerprint": metadata["fingerprint"], "items": [{"key": "a", "value": "b"}]}
        await at.done(await at.post(f"{path}/setMetadata", changed))
        reply = await act(at, "recreateInstances", member)
        group = await at.get(GROUP)
        assert (group["targetSize"], group["currentActions"]["recreating"]) == (2, 1)
        assert (await at.get(path))["status"] == "STOPPING"
        await at.done(reply.body)
        await at.later(1.5)
        during = {m["name"]: m for m in await at.members()}[member["name"]]
        assert during["currentAction"] == "RECREATING"
        assert "instanceStatus" not in during
        assert (await at.call("GET", path)).reason == "notFound"
        await at.stable()
        members = {m["name"]: m for m in await at.members()}
        assert members.keys() == {member["name"], other["name"]}
        assert members[member["name"]]["id"] != member["id"]
        assert members[other["name"]]["id"] == other["id"]
        assert (await at.get(path))["metadata"] == metadata


async def test_vm_that_somebody_deletes_during_its_recreation_is_made_again() -> None:
    """The group still owes it."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        [member] = await at.members()
        await act(at, "recreateInstances", member)
        await at.call("DELETE", f"{INSTANCES}/{member['name']}")
        await at.stable()
        [again] = await at.members()
        assert (again["name"], again["instanceStatus"]) == (member["name"], "RUNNING")
        assert again["id"] != member["id"]


async def test_recreation_that_meets_a_stockout_leaves_the_group_without_the_vm() -> None:
    """The old VM is gone first; the member is RECREATING, with the reason, until it works."""
    async with world(INSTANT) as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE, times=None))
        await act(at, "recreateInstances", *await at.members())
        await at.later(20)
        [member] = await at.members()
        assert member["currentAction"] == "RECREATING"
        assert member["lastAttempt"]["errors"]["errors"][0]["code"].startswith("ZONE_RESOURCE")
        assert (await errors(at))[0]["instanceActionDetails"]["action"] == "RECREATING"
        at.cloud.faults.clear()
        await at.stable()


# Failed creations


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (None, "ZONE_RESOURCE_POOL_EXHAUSTED"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"),
        ("IP_SPACE_EXHAUSTED", "IP_SPACE_EXHAUSTED"),
        ("PERMISSIONS_ERROR", "PERMISSIONS_ERROR"),
    ],
)
async def test_creation_fails_with_the_code_that_was_asked_for(
    reason: str | None, code: str
) -> None:
    """A stockout names its zone; other obstacles have their own words."""
    async with world(INSTANT) as at:
        await at.template()
        fault = Fault(kind="stockout", zone=ZONE, message="(details)")
        at.cloud.faults.add(fault if reason is None else replace(fault, reason=reason))
        await at.group(size=1)
        await at.later(1)
        [member] = await at.members()
        [error] = member["lastAttempt"]["errors"]["errors"]
        assert error["code"] == code
        assert "(details)" in error["message"]
        assert (f"zones/{ZONE}" in error["message"]) == code.startswith("ZONE_RESOURCE")
        await at.stable()


async def test_history_tells_every_failed_attempt_even_of_members_that_are_gone() -> None:
    """Oldest first, in pages, with action, VM and template; an hour later nothing is told."""
    async with world(INSTANT) as at:
        await at.template()
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE, times=None))
        await at.group(size=2)
        await at.later(60)
        names = {member["instance"] for member in await at.members()}
        found = await errors(at)
        assert len(found) > 4
        assert {e["instanceActionDetails"]["instance"] for e in found} == names
        assert [e["timestamp"] for e in found] == sorted(e["timestamp"] for e in found)
        details = found[0]["instanceActionDetails"]
        assert details["action"] == "CREATING"
        assert details["version"]["instanceTemplate"].endswith("/small")
        await at.post(f"{GROUP}/resize", size="0")
        await at.stable()
        assert (await errors(at))[: len(found)] == found
        page = await at.get(f"{GROUP}/listErrors", maxResults="3")
        rest = await at.get(f"{GROUP}/listErrors", pageToken=page["nextPageToken"])
        assert page["items"] + rest["items"] == await errors(at)
        await at.later(ERROR_LIFE + 1)
        assert await errors(at) == []


async def test_history_is_bounded_and_goes_with_its_group(tmp_path: Path) -> None:
    """A long stockout of a large group fills no disk, and a new group of the name starts clean."""
    state = tmp_path / "state.db"
    async with world(INSTANT, state=state) as at:
        await at.template()
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE, times=None))
        await at.group(size=300)
        await at.later(30)
        first = await at.get(f"{GROUP}/listErrors")
        assert len(first["items"]) == ERRORS_KEPT
        assert "nextPageToken" not in first
    async with world(INSTANT, state=state, epoch=at.clock.now()) as at:
        assert len(await errors(at)) == ERRORS_KEPT
        await at.done((await at.call("DELETE", GROUP)).body)
        await at.done(await at.post(GROUPS, group_body(size=0)))
        assert await errors(at) == []
