"""The embedded Compute Engine's two kinds of quotas: calls per minute, and a region's resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute.quota import metric_of
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    OPTIONS,
    PROJECT,
    TEMPLATES,
    ZONE,
    Reply,
    World,
    group_body,
    template_body,
    world,
)

INSTANT = CloudOptions().instant()
REGION = "us-central1"
FAR = "zones/europe-west1-b/instanceGroupManagers"


async def limit(at: World, **limits: float) -> Reply:
    """Sets the limits of all regions."""
    url = f"{at.cloud.base_url}/_localcloud/quotas"
    named = {name.replace("__", "/").replace("REGION", REGION): n for name, n in limits.items()}
    async with aiohttp.ClientSession() as session, session.put(url, json=named) as response:
        return Reply(response.status, await response.json())


async def usage(at: World, region: str = REGION) -> dict[str, float]:
    """What is used of a region's quotas, by metric; only what is used at all."""
    quotas = (await at.get(f"regions/{region}"))["quotas"]
    return {quota["metric"]: quota["usage"] for quota in quotas if quota["usage"]}


def errors_of(members: list[Any]) -> list[Any]:
    """The errors of the members' last attempts."""
    return [m["lastAttempt"]["errors"]["errors"][0] for m in members if "lastAttempt" in m]


# Calls per minute


@pytest.mark.parametrize(
    ("method", "region", "metric"),
    [
        ("instances.get", REGION, "read_requests_per_region"),
        ("machineTypes.get", REGION, "read_requests_per_region"),
        ("instanceTemplates.get", None, "read_requests"),
        ("images.getFromFamily", None, "read_requests"),
        ("instances.list", REGION, "list_requests_per_region"),
        ("instanceTemplates.list", None, "list_requests"),
        ("zoneOperations.list", REGION, "list_requests_per_region"),
        ("instances.aggregatedList", None, "heavy_weight_read_requests"),
        ("zoneOperations.get", REGION, "operation_read_requests_per_region"),
        ("globalOperations.get", None, "operation_read_requests"),
        ("zoneOperations.wait", REGION, "heavy_weight_read_requests_per_region"),
        ("instanceGroupManagers.listManagedInstances", REGION, "default_per_region"),
        ("instanceGroupManagers.listErrors", REGION, "default_per_region"),
        ("instanceGroupManagers.resize", REGION, "default_per_region"),
        ("instanceTemplates.insert", None, "default"),
    ],
)
def test_calls_are_counted_as_google_documents(
    method: str, region: str | None, metric: str
) -> None:
    """https://cloud.google.com/compute/api-quota says which method counts towards which metric."""
    assert metric_of(f"compute.{method}", region).name == metric


async def test_used_up_metric_refuses_until_the_next_minute_and_the_others_go_on() -> None:
    """403 rateLimitExceeded names metric, limit, region and service; other projects are not hit."""
    async with world(msgspec.structs.replace(OPTIONS, calls_per_minute=3)) as at:
        await at.template()
        for _ in range(3):
            await at.get(TEMPLATES)
        refused = await at.call("GET", TEMPLATES)
        assert (refused.status, refused.reason) == (403, "rateLimitExceeded")
        assert refused.body["error"]["errors"][0]["domain"] == "usageLimits"
        [info] = refused.body["error"]["details"]
        assert info["reason"] == "RATE_LIMIT_EXCEEDED"
        assert info["metadata"] == {
            "consumer": f"projects/{PROJECT}",
            "quota_limit": "ListRequestsPerMinutePerProject",
            "quota_limit_value": "3",
            "quota_metric": "compute.googleapis.com/list_requests",
            "service": "compute.googleapis.com",
        }
        assert (await at.call("GET", TEMPLATES, project="other-1")).status == 200
        assert (await at.call("GET", f"{TEMPLATES}/small")).status == 200
        assert (await at.call("GET", GROUPS)).status == 200
        await at.later(60 - at.clock.now() % 60)
        assert (await at.call("GET", TEMPLATES)).status == 200


async def test_listing_managed_instances_uses_the_mutations_quota_of_its_region() -> None:
    """A group in another region can still be changed."""
    async with world(msgspec.structs.replace(INSTANT, calls_per_minute=3)) as at:
        await at.template()
        await at.done(await at.post(GROUPS, group_body(size=0)))
        await at.members()
        await at.members()
        refused = await at.call("POST", f"{GROUPS}/workers/resize", size="1")
        assert refused.reason == "rateLimitExceeded"
        assert refused.body["error"]["details"][0]["metadata"]["quota_location"] == REGION
        assert (await at.call("POST", FAR, group_body(size=0))).status == 200
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 0


# A region's resources


async def test_region_shows_what_its_vms_and_disks_use() -> None:
    """CPUs by machine family, instances, addresses and disk sizes; less again after deletion."""
    async with world(INSTANT) as at:
        await at.template()
        await at.template("other", machineType="n2d-standard-8")
        await at.group(size=3)
        await at.group("big", size=1, instanceTemplate="global/instanceTemplates/other")
        await at.done(await at.post(FAR, group_body(size=5)))
        await at.stable()
        await at.stable("big")
        used = {"CPUS": 6.0, "N2D_CPUS": 8.0, "INSTANCES": 4.0, "IN_USE_ADDRESSES": 4.0}
        assert await usage(at) == used | {"SSD_TOTAL_GB": 80.0}
        assert (await usage(at, "europe-west1"))["INSTANCES"] == 5
        assert await usage(at, "us-east1") == {}
        assert len((await at.get("regions"))["items"]) == 43
        assert (await at.call("GET", "regions/mars-north1")).reason == "notFound"
        for name in ("workers", "big"):
            await at.done((await at.call("DELETE", f"{GROUPS}/{name}")).body)
        assert await usage(at) == {}


async def test_quota_holds_creation_back_with_its_reason_until_there_is_room() -> None:
    """The group stays at its target size; members that do not fit say why, and come later."""
    async with world(INSTANT) as at:
        await limit(at, CPUS=4)
        await at.template()
        await at.group(size=3)
        await at.later(30)
        assert await usage(at) == {
            "CPUS": 4.0,
            "INSTANCES": 2.0,
            "IN_USE_ADDRESSES": 2.0,
            "SSD_TOTAL_GB": 40.0,
        }
        group = await at.get(f"{GROUPS}/workers")
        assert group["targetSize"] == 3
        assert (group["currentActions"]["none"], group["currentActions"]["creating"]) == (2, 1)
        [error] = errors_of(await at.members())
        assert error["code"] == "QUOTA_EXCEEDED"
        assert "'CPUS'" in error["message"]
        assert REGION in error["message"]
        assert error["errorDetails"][0]["quotaInfo"]["limit"] == 4
        errors = (await at.get(f"{GROUPS}/workers/listErrors"))["items"]
        assert {found["error"]["code"] for found in errors} == {"QUOTA_EXCEEDED"}
        assert len(errors) > 1
        await limit(at, CPUS=6)
        await at.stable()
        assert errors_of(await at.members()) == []
        assert (await usage(at))["CPUS"] == 6


async def test_quota_of_one_region_does_not_hold_back_another() -> None:
    """A limit can be one region's alone, and deletion makes room in it."""
    async with world(INSTANT) as at:
        await limit(at, REGION__INSTANCES=1)
        await at.template()
        await at.group(size=2)
        await at.done(await at.post(FAR, group_body(size=2)))
        await at.later(20)
        assert len((await at.get(INSTANCES))["items"]) == 1
        assert (await usage(at, "europe-west1"))["INSTANCES"] == 2
        [running] = [m for m in await at.members() if "id" in m]
        doomed = {"instances": [running["instance"]]}
        await at.post(f"{GROUPS}/workers/deleteInstances", doomed)
        await at.stable()
        [left] = await at.members()
        assert left["name"] != running["name"]
        assert left["instanceStatus"] == "RUNNING"


async def test_limits_that_mean_nothing_are_refused_and_named() -> None:
    """A misspelt metric must not pass for a limit."""
    async with world() as at:
        for wrong in ({"CPU": 1.0}, {"mars__CPUS": 1.0}, {"CPUS": -1.0}):
            reply = await limit(at, **wrong)
            assert reply.status == 400
            assert next(iter(wrong)).replace("__", "/") in reply.body["error"]
        assert (await limit(at, CPUS=7)).status == 200
        quotas = (await at.get(f"regions/{REGION}"))["quotas"]
        assert {"metric": "CPUS", "limit": 7.0, "usage": 0.0} in quotas


async def test_usage_is_counted_anew_after_a_restart(tmp_path: Path) -> None:
    """What was there before still uses its region's quotas."""
    state = tmp_path / "state.db"
    async with world(INSTANT, state=state) as at:
        disk = template_body()["properties"]["disks"][0] | {"autoDelete": False}
        await at.template(disks=[disk])
        await at.group(size=2)
        await at.stable()
        await at.post(f"{GROUPS}/workers/resize", size="1")
        await at.stable()
        before = await usage(at)
        assert (before["INSTANCES"], before["SSD_TOTAL_GB"]) == (1.0, 40.0)
    async with world(INSTANT, state=state) as at:
        assert await usage(at) == before


# Disks


async def test_disk_in_use_cannot_be_deleted_and_a_left_one_can() -> None:
    """Disks of VMs, with their users; what outlived its VM is found, uses quota, and can go."""
    async with world(INSTANT) as at:
        disk = template_body()["properties"]["disks"][0] | {"autoDelete": False}
        await at.template(disks=[disk])
        await at.group(size=1)
        await at.stable()
        [member] = await at.members()
        path = f"zones/{ZONE}/disks/{member['name']}"
        used = await at.get(path)
        assert used["users"] == [member["instance"]]
        assert used["type"].endswith("/diskTypes/pd-ssd")
        refused = await at.call("DELETE", path)
        assert (refused.status, refused.reason) == (400, "resourceInUseByAnotherResource")
        await at.post(f"{GROUPS}/workers/resize", size="0")
        await at.stable()
        left = await at.get(path)
        assert "users" not in left
        assert (left["id"], left["creationTimestamp"]) == (used["id"], used["creationTimestamp"])
        assert await usage(at) == {"SSD_TOTAL_GB": 20.0}
        unused = "NOT users:*"
        scopes = (await at.get("aggregated/disks", filter=unused))["items"]
        assert [found["name"] for found in scopes[f"zones/{ZONE}"]["disks"]] == [member["name"]]
        await at.done((await at.call("DELETE", path)).body)
        assert (await at.call("GET", path)).reason == "notFound"
        assert await usage(at) == {}
