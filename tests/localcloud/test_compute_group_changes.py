"""Groups that are patched, get another template, and make members of chosen names."""

from __future__ import annotations

from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    TEMPLATES,
    ZONE,
    World,
    group_body,
    world,
)

GROUP = f"{GROUPS}/workers"


async def create(at: World, *names: str, metadata: dict[str, str] | None = None) -> Any:
    """Asks for members of these names."""
    state = {} if metadata is None else {"preservedState": {"metadata": metadata}}
    body = {"instances": [{"name": name, **state} for name in names]}
    return await at.call("POST", f"{GROUP}/createInstances", body)


async def test_members_get_the_names_that_were_asked_for() -> None:
    """The target size grows by their number; nobody else leaves."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        reply = await create(at, "chosen-a", "chosen-b")
        group = await at.get(GROUP)
        assert (group["targetSize"], group["currentActions"]["creating"]) == (3, 2)
        await at.done(reply.body)
        await at.stable()
        names = {member["name"]: member["instanceStatus"] for member in await at.members()}
        assert names.keys() >= {"chosen-a", "chosen-b"}
        assert set(names.values()) == {"RUNNING"}
        assert not (await at.get(GROUP))["status"]["stateful"]["hasStatefulConfig"]


async def test_name_that_is_taken_fails_the_whole_request() -> None:
    """Whether a member or another VM has it; nothing is made, and the size stays."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        await at.done((await create(at, "chosen")).body)
        await at.stable()
        before = await at.get(GROUP)
        assert (await create(at, "new", "chosen")).reason == "alreadyExists"
        assert (await create(at, "new", "new")).reason == "invalid"
        assert (await create(at, "New")).reason == "invalid"
        assert (await create(at)).reason == "invalid"
        assert (await at.get(GROUP))["targetSize"] == before["targetSize"] == 2
        chosen = {"instances": [f"zones/{ZONE}/instances/chosen"]}
        await at.post(f"{GROUP}/abandonInstances", chosen)
        await at.stable()
        assert (await create(at, "chosen")).reason == "alreadyExists"


async def test_request_id_makes_members_once() -> None:
    """A repeated request answers the operation of the first; without the id it collides."""
    async with world() as at:
        await at.template()
        await at.group(size=0)
        body = {"instances": [{"name": "chosen"}]}
        path, one = f"{GROUP}/createInstances", "7a1fdd4c-7b5c-4a0e-9b9e-0d3f9f3b2a11"
        first = await at.post(path, body, requestId=one)
        assert (await at.post(path, body, requestId=one))["name"] == first["name"]
        assert (await at.call("POST", path, body)).reason == "alreadyExists"
        assert (await at.get(GROUP))["targetSize"] == 1


async def test_group_takes_no_more_than_it_may_have() -> None:
    """Also by names."""
    async with world() as at:
        await at.template()
        await at.group(size=1, listManagedInstancesResults="PAGELESS")
        names = [f"n{number}" for number in range(1000)]
        assert (await create(at, *names)).reason == "invalid"
        assert (await create(at, *names, "one-more")).reason == "invalid"


async def test_preserved_metadata_come_back_with_a_recreated_vm() -> None:
    """They are shown as such, and make the group a stateful one."""
    async with world() as at:
        await at.template()
        await at.group(size=0)
        await at.done((await create(at, "chosen", metadata={"role": "chief"})).body)
        await at.stable()

        async def role() -> str:
            items = (await at.get(f"{INSTANCES}/chosen"))["metadata"]["items"]
            return str({item["key"]: item["value"] for item in items}["role"])

        assert await role() == "chief"
        [member] = await at.members()
        assert member["preservedStateFromConfig"] == {"metadata": {"role": "chief"}}
        assert (await at.get(GROUP))["status"]["stateful"]["hasStatefulConfig"]
        await at.post(f"{GROUP}/recreateInstances", {"instances": [member["instance"]]})
        await at.stable()
        assert await role() == "chief"


@pytest.mark.parametrize("by_patch", [False, True])
async def test_new_template_is_that_of_new_vms(by_patch: bool) -> None:
    """Others stay what they are until they are recreated, also when their template is gone."""
    async with world() as at:
        await at.template()
        await at.template("large", machineType="n1-standard-8", labels={"tier": "large"})
        await at.group(size=1)
        await at.stable()
        [old] = await at.members()
        before = await at.get(f"{INSTANCES}/{old['name']}")
        new = {"instanceTemplate": f"{TEMPLATES}/large"}
        if by_patch:
            await at.done((await at.call("PATCH", GROUP, new)).body)
        else:
            await at.done(await at.post(f"{GROUP}/setInstanceTemplate", new))
        group = await at.get(GROUP)
        assert group["instanceTemplate"].endswith("/large")
        assert group["status"]["versionTarget"] == {"isReached": False}
        await at.done((await at.call("DELETE", f"{TEMPLATES}/small")).body)
        assert (await at.call("DELETE", f"{TEMPLATES}/large")).reason.startswith("resourceInUse")
        await at.post(f"{GROUP}/resize", size="2")
        await at.stable()
        versions = {
            member["name"]: member["version"]["instanceTemplate"].rpartition("/")[2]
            for member in await at.members()
        }
        assert versions.pop(old["name"]) == "small"
        [added] = versions.items()
        assert added[1] == "large"
        assert await at.get(f"{INSTANCES}/{old['name']}") == before
        assert (await at.get(f"{INSTANCES}/{added[0]}"))["labels"] == {"tier": "large"}
        await at.post(f"{GROUP}/recreateInstances", {"instances": [old["instance"]]})
        await at.stable()
        recreated = await at.get(f"{INSTANCES}/{old['name']}")
        assert recreated["machineType"].endswith("/n1-standard-8")
        assert (await at.get(GROUP))["status"]["versionTarget"] == {"isReached": True}


async def test_patch_changes_what_it_names_and_nothing_else() -> None:
    """Sizes act as a resize does; a stale fingerprint is 412; a group cannot be renamed."""
    async with world(CloudOptions().instant()) as at:
        await at.template()
        await at.group(size=2, description="before")
        before = await at.stable()
        await at.done((await at.call("PATCH", GROUP, {"targetSize": 4})).body)
        after = await at.stable()
        assert len(await at.members()) == after["targetSize"] == 4
        moving = {"targetSize", "fingerprint", "versions", "currentActions"}
        assert {k: v for k, v in after.items() if k not in moving} == {
            k: v for k, v in before.items() if k not in moving
        }
        stale = {"fingerprint": before["fingerprint"], "description": "after"}
        assert (await at.call("PATCH", GROUP, stale)).reason == "conditionNotMet"
        fresh = stale | {"fingerprint": after["fingerprint"]}
        await at.done((await at.call("PATCH", GROUP, fresh)).body)
        assert (await at.get(GROUP))["description"] == "after"
        assert (await at.call("PATCH", GROUP, {"name": "other"})).reason == "invalid"
        repairs = {"instanceLifecyclePolicy": {"defaultActionOnFailure": "REPAIR"}}
        await at.done((await at.call("PATCH", GROUP, repairs)).body)
        policy = (await at.get(GROUP))["instanceLifecyclePolicy"]
        assert policy == {"defaultActionOnFailure": "REPAIR", "forceUpdateOnRepair": "NO"}
        assert (await at.call("PATCH", f"{GROUPS}/none", group_body())).reason == "notFound"
