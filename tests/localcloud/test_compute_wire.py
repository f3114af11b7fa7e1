"""Compute's conventions on the wire: operations, requestIds, the catalogue, Google's schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute import description
from gce_backend.localcloud.compute.inventory import machine_size
from gce_backend.localcloud.faults import Fault
from localcloud import compute_digest
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    PROJECT,
    TEMPLATES,
    ZONE,
    Reply,
    World,
    group_body,
    template_body,
    world,
)
from support.discovery.documents import method

BATCH = "compute.batch"
"""No method of the discovery document, which names its path apart."""

# Operations


async def test_operation_is_pending_then_running_then_done_and_pruned_after_two_weeks() -> None:
    """An operation takes its time, and can be looked at for 14 days."""
    async with world() as at:
        operation = await at.post(TEMPLATES, template_body())
        path = f"global/operations/{operation['name']}"
        assert operation["status"] == "PENDING"
        await at.later(0.5)
        assert (await at.get(path))["status"] == "RUNNING"
        await at.later(0.6)
        ended = await at.get(path)
        assert (ended["status"], ended["progress"]) == ("DONE", 100)
        listed = (await at.get("global/operations", filter="status=DONE"))["items"]
        assert [o["name"] for o in listed] == [operation["name"]]
        await at.later(13.9 * 24 * 3600)
        assert (await at.call("GET", path)).status == 200
        await at.later(0.2 * 24 * 3600)
        assert (await at.call("GET", path)).status == 404


async def test_wait_holds_until_done_but_two_minutes_at_most() -> None:
    """A short operation is awaited to its end; a long one comes back RUNNING."""
    async with world(CloudOptions(operation_seconds=150)) as at:
        operation = await at.post(TEMPLATES, template_body())
        began = at.clock.now()
        path = f"global/operations/{operation['name']}/wait"
        assert (await at.post(path))["status"] == "RUNNING"
        assert 119 <= at.clock.now() - began <= 122
        assert (await at.post(path))["status"] == "DONE"
        assert 149 <= at.clock.now() - began <= 153


async def test_operation_can_end_in_an_error_and_then_nothing_happens() -> None:
    """The injected error shows in the operation, and the template never appears."""
    async with world() as at:
        fault = Fault(
            kind="operation",
            method="compute.instanceTemplates.insert",
            reason="QUOTA_EXCEEDED",
            status=403,
        )
        at.cloud.faults.add(fault)
        operation = await at.post(TEMPLATES, template_body())
        assert "error" not in operation
        ended = await at.done(operation)
        assert ended["error"]["errors"][0]["code"] == "QUOTA_EXCEEDED"
        assert ended["httpErrorStatusCode"] == 403
        assert fault.fired == 1
        assert "items" not in await at.get(TEMPLATES)
        assert (await at.call("POST", TEMPLATES, template_body())).status == 200


@pytest.mark.parametrize("action", ["resize", "deleteInstances", "delete", "instances.delete"])
async def test_failed_operation_on_a_group_leaves_it_as_it_was(action: str) -> None:
    """No effect of a mutation can be seen when its operation ends in an error."""
    async with world() as at:
        await at.template()
        await at.group()
        await at.stable()
        before = await at.members()
        at.cloud.faults.add(Fault(kind="operation", method="compute.*", reason="INTERNAL_ERROR"))
        calls: dict[str, tuple[str, str, Any, dict[str, str]]] = {
            "resize": ("POST", f"{GROUPS}/workers/resize", None, {"size": "5"}),
            "deleteInstances": (
                "POST",
                f"{GROUPS}/workers/deleteInstances",
                {"instances": [before[0]["instance"]]},
                {},
            ),
            "delete": ("DELETE", f"{GROUPS}/workers", None, {}),
            "instances.delete": ("DELETE", f"{INSTANCES}/{before[0]['name']}", None, {}),
        }
        verb, path, body, query = calls[action]
        ended = await at.done((await at.call(verb, path, body, **query)).body)
        assert ended["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 2
        assert await at.members() == before


async def test_instant_cloud_still_answers_a_mutation_with_work_to_do() -> None:
    """With no latencies the operation is DONE at the next look, not in the answer."""
    async with world(CloudOptions().instant()) as at:
        operation = await at.post(TEMPLATES, template_body())
        assert operation["status"] != "DONE"
        assert (await at.get(f"global/operations/{operation['name']}"))["status"] == "DONE"
        assert (await at.call("GET", f"{TEMPLATES}/small")).status == 200


async def test_operation_tells_its_times_its_target_and_its_request() -> None:
    """StartTime when it runs, endTime when it is done, the requestId throughout."""
    async with world() as at:
        request_id = str(uuid4())
        operation = await at.post(TEMPLATES, template_body(), requestId=request_id)
        assert operation["clientOperationId"] == request_id
        assert operation["targetLink"].endswith("/global/instanceTemplates/small")
        assert not {"startTime", "endTime", "error"} & operation.keys()
        assert operation["progress"] == 0
        await at.later(0.5)
        running = await at.get(f"global/operations/{operation['name']}")
        assert (running["status"], "endTime" in running) == ("RUNNING", False)
        done = await at.done(operation)
        times = [done[name] for name in ("insertTime", "startTime", "endTime")]
        assert times == sorted(times)
        assert len(set(times)) == 3
        assert "clientOperationId" not in await at.post(TEMPLATES, template_body("b"))


# requestId


async def test_same_request_id_answers_the_same_operation_and_doubles_nothing() -> None:
    """A replayed resize and a replayed insert are the first ones again."""
    async with world() as at:
        request_id = str(uuid4())
        first = await at.post(TEMPLATES, template_body(), requestId=request_id)
        again = await at.post(TEMPLATES, template_body(), requestId=request_id.upper())
        assert again["name"] == first["name"]
        await at.done(first)
        again = await at.post(TEMPLATES, template_body(), requestId=request_id)
        assert (again["name"], again["status"]) == (first["name"], "DONE")
        await at.group(size=1)
        await at.stable()
        victim = {"instances": [(await at.members())[0]["instance"]]}
        path = f"{GROUPS}/workers/deleteInstances"
        request_id = str(uuid4())
        first = await at.post(path, victim, requestId=request_id)
        again = await at.post(path, victim, requestId=request_id)
        assert again["name"] == first["name"]
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 0


async def test_request_id_of_another_request_is_refused() -> None:
    """One id means one request: another body, path or parameter with it is 400."""
    async with world() as at:
        await at.template()
        await at.group()
        path = f"{GROUPS}/workers/resize"
        request_id = str(uuid4())
        await at.post(path, size="3", requestId=request_id)
        assert (await at.call("POST", path, size="4", requestId=request_id)).reason == "invalid"
        other = await at.call("POST", TEMPLATES, template_body("b"), requestId=request_id)
        assert other.status == 400
        assert (await at.get(f"{GROUPS}/workers"))["targetSize"] == 3


@pytest.mark.parametrize("request_id", ["00000000-0000-0000-0000-000000000000", "abc", ""])
async def test_request_id_must_be_a_uuid(request_id: str) -> None:
    """The zero UUID and other texts are refused."""
    async with world() as at:
        reply = await at.call("POST", TEMPLATES, template_body(), requestId=request_id)
        assert (reply.status, reply.reason) == (400, "invalid")


async def test_request_id_survives_a_restart(tmp_path: Any) -> None:
    """The replay is durable."""
    request_id = str(uuid4())
    async with world(state=tmp_path / "state.db") as at:
        first = await at.post(TEMPLATES, template_body(), requestId=request_id)
    async with world(state=tmp_path / "state.db") as at:
        again = await at.post(TEMPLATES, template_body(), requestId=request_id)
        assert again["name"] == first["name"]


# The catalogue


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("n1-standard-1", (1, 3840)),
        ("n1-highcpu-2", (2, 1843)),
        ("n1-highmem-8", (8, 53248)),
        ("n2d-standard-224", (224, 917504)),
        ("e2-micro", (2, 1024)),
        ("c2-standard-60", (60, 245760)),
        ("c3-highcpu-22", (22, 45056)),
        ("custom-8-16384", (8, 16384)),
        ("n2-custom-4-262144-ext", (4, 262144)),
        ("n1-standard-3", None),
        ("c2-highmem-4", None),
        ("custom-3-4096", None),
        ("custom-2-1000", None),
        ("z9-standard-4", None),
    ],
)
def test_machine_types_are_computed_by_rule(name: str, size: tuple[int, int] | None) -> None:
    """Sizes agree with Google's tables; what is in no table does not exist."""
    found = machine_size(name)
    assert (None if found is None else (found.cpus, found.memory_mb)) == size


async def test_images_exist_unless_they_are_called_missing() -> None:
    """Images, families and snapshots can be looked up in any project."""
    async with world() as at:
        assert (await at.get("global/images/debian-12"))["status"] == "READY"
        assert (await at.get("global/images/family/debian"))["family"] == "debian"
        assert (await at.get("global/snapshots/base"))["status"] == "READY"
        for path in ("images/missing-1", "images/family/missing-1", "snapshots/missing-1"):
            assert (await at.call("GET", f"global/{path}")).reason == "notFound"


# Google's own description


def test_description_is_googles() -> None:
    """What is refused as unknown is unknown to Google; compute_digest.py says how to mend this."""
    kept = Path(description.__file__).with_suffix(".json").read_text(encoding="utf-8")
    assert kept == compute_digest.text()


async def test_every_answer_fits_googles_description() -> None:
    """A small scenario through every method; the referee looks for what Google does not know."""
    seen: dict[str, Reply] = {}

    async def call(at: World, name: str, path: str, body: Any = None, **query: str) -> Any:
        reply = await at.call(method(f"compute.{name}").verb, path, body, **query)
        assert reply.status == 200, (name, reply)
        seen[name] = reply
        return reply.body

    async with world() as at:
        resources = {"zoneOperations": f"zones/{ZONE}", "globalOperations": "global"}
        disks = f"zones/{ZONE}/disks"
        kept = template_body()["properties"]["disks"][0] | {"autoDelete": False}
        template = template_body(disks=[kept])
        await at.done(await call(at, "instanceTemplates.insert", TEMPLATES, template))
        await call(at, "instanceTemplates.get", f"{TEMPLATES}/small")
        await call(at, "instanceTemplates.list", TEMPLATES)
        at.cloud.faults.add(Fault(kind="stockout", zone=ZONE, times=1))
        await at.done(await call(at, "instanceGroupManagers.insert", GROUPS, group_body()))
        group = f"{GROUPS}/workers"
        await at.later(5)
        await call(at, "instanceGroupManagers.listErrors", f"{group}/listErrors")
        managed = f"{group}/listManagedInstances"
        await call(at, "instanceGroupManagers.listManagedInstances", managed, maxResults="1")
        await at.stable()
        members = (await call(at, "instanceGroupManagers.listManagedInstances", managed))[
            "managedInstances"
        ]
        await call(at, "instanceGroupManagers.get", group)
        await call(at, "instanceGroupManagers.list", GROUPS)
        await call(at, "instanceGroupManagers.aggregatedList", "aggregated/instanceGroupManagers")
        shown = f"zones/{ZONE}/instanceGroups"
        await call(at, "instanceGroups.get", f"{shown}/workers")
        await call(at, "instanceGroups.list", shown)
        await call(at, "instanceGroups.aggregatedList", "aggregated/instanceGroups")
        everyone = {"instanceState": "ALL"}
        await call(at, "instanceGroups.listInstances", f"{shown}/workers/listInstances", everyone)
        await call(at, "instances.list", INSTANCES, maxResults="1")
        await call(at, "instances.aggregatedList", "aggregated/instances")
        vm = f"{INSTANCES}/{members[0]['name']}"
        metadata = (await call(at, "instances.get", vm))["metadata"]
        del metadata["kind"]
        await at.done(await call(at, "instances.setMetadata", f"{vm}/setMetadata", metadata))
        for way in ("stop", "start", "suspend", "resume"):
            await at.done(await call(at, f"instances.{way}", f"{vm}/{way}"))
            await at.later(5)
        fault = Fault(kind="operation", method="compute.instances.delete", reason="INTERNAL_ERROR")
        at.cloud.faults.add(fault)
        await at.done(await call(at, "instances.delete", vm))
        await call(at, "instanceGroupManagers.resize", f"{group}/resize", size="3")
        doomed = {"instances": [members[0]["instance"]]}
        await call(at, "instanceGroupManagers.deleteInstances", f"{group}/deleteInstances", doomed)
        freed = {"instances": [members[1]["instance"]]}
        again = f"{group}/recreateInstances"
        await call(at, "instanceGroupManagers.recreateInstances", again, freed)
        await at.stable()
        named = {"instances": [{"name": "chosen", "preservedState": {"metadata": {"a": "b"}}}]}
        await call(at, "instanceGroupManagers.createInstances", f"{group}/createInstances", named)
        other = {"instanceTemplate": f"{TEMPLATES}/small"}
        setting = f"{group}/setInstanceTemplate"
        await call(at, "instanceGroupManagers.setInstanceTemplate", setting, other)
        await call(at, "instanceGroupManagers.patch", group, {"description": "patched"})
        await at.stable()
        await call(at, "instanceGroupManagers.listManagedInstances", managed)
        free = f"{group}/abandonInstances"
        await at.done(await call(at, "instanceGroupManagers.abandonInstances", free, freed))
        await at.done(await call(at, "instanceGroupManagers.delete", group))
        abandoned = members[1]["name"]
        await at.done((await at.call("DELETE", f"{INSTANCES}/{abandoned}")).body)
        await call(at, "regionDisks.list", "regions/us-central1/disks")
        single = {"name": "single", **template_body(disks=[kept])["properties"]}
        await at.done(await call(at, "instances.insert", INSTANCES, single))
        vm = f"{INSTANCES}/single"
        labels = {"labelFingerprint": (await at.get(vm))["labelFingerprint"], "labels": {"a": "b"}}
        await at.done(await call(at, "instances.setLabels", f"{vm}/setLabels", labels))
        await at.done(await call(at, "instances.suspend", f"{vm}/suspend"))
        await at.done(await call(at, "instances.resume", f"{vm}/resume"))
        await at.done(await call(at, "instances.stop", f"{vm}/stop"))
        larger = {"machineType": f"zones/{ZONE}/machineTypes/n1-standard-4"}
        await at.done(await call(at, "instances.setMachineType", f"{vm}/setMachineType", larger))
        await at.done(await call(at, "instances.start", f"{vm}/start"))
        await call(at, "instances.get", vm)
        await at.done((await at.call("DELETE", vm)).body)
        await call(at, "disks.list", disks)
        await call(at, "disks.aggregatedList", "aggregated/disks")
        await call(at, "disks.get", f"{disks}/{abandoned}")
        await at.done(await call(at, "disks.delete", f"{disks}/{abandoned}"))
        await at.done(await call(at, "instanceTemplates.delete", f"{TEMPLATES}/small"))
        for resource, scope in resources.items():
            operations = (await call(at, f"{resource}.list", f"{scope}/operations"))["items"]
            path = f"{scope}/operations/{operations[0]['name']}"
            await call(at, f"{resource}.get", path)
            await call(at, f"{resource}.wait", f"{path}/wait")
        await call(at, "globalOperations.aggregatedList", "aggregated/operations")
        await call(at, "regions.list", "regions")
        await call(at, "regions.get", "regions/us-central1")
        await call(at, "zones.list", "zones")
        await call(at, "zones.get", f"zones/{ZONE}")
        await call(at, "machineTypes.get", f"zones/{ZONE}/machineTypes/n2-standard-4")
        await call(at, "machineTypes.list", f"zones/{ZONE}/machineTypes", maxResults="3")
        machine_types = "aggregated/machineTypes"
        await call(at, "machineTypes.aggregatedList", machine_types, maxResults="3")
        await call(at, "networks.get", "global/networks/default")
        await call(at, "subnetworks.get", "regions/us-central1/subnetworks/lab")
        await call(at, "diskTypes.get", f"zones/{ZONE}/diskTypes/pd-ssd")
        await call(at, "acceleratorTypes.get", f"zones/{ZONE}/acceleratorTypes/nvidia-l4")
        await call(at, "reservations.get", f"zones/{ZONE}/reservations/nightly")
        policies = "regions/us-central1/resourcePolicies"
        await call(at, "resourcePolicies.get", f"{policies}/near-each-other")
        await call(at, "images.list", "global/images", project="images-1")
        await call(at, "images.get", "global/images/debian-12")
        await call(at, "images.getFromFamily", "global/images/family/debian")
        snapshot = {"name": "base", "labels": {"contents": "checkout"}, "sourceDisk": f"{disks}/x"}
        await at.done(await call(at, "snapshots.insert", "global/snapshots", snapshot))
        await call(at, "snapshots.list", "global/snapshots", filter='labels.contents = "checkout"')
        await call(at, "snapshots.get", "global/snapshots/base")
        routes = {route.method for service in at.cloud._services for route in service.routes()}
        assert {f"compute.{name}" for name in seen} == routes - {BATCH}


async def test_every_route_has_the_path_of_googles_description() -> None:
    """Verbs and paths are Google's, below /compute/v1/."""
    async with world() as at:
        for service in at.cloud._services:
            for route in service.routes():
                if route.method == BATCH:
                    continue
                described = method(route.method)
                assert (route.verb, route.path) == (described.verb, described.path)


async def test_errors_look_like_googles() -> None:
    """Code, message and one entry with domain and reason."""
    async with world() as at:
        reply = await at.call("GET", f"{TEMPLATES}/none")
        message = f"The resource 'projects/{PROJECT}/global/instanceTemplates/none' was not found"
        entry = {"message": message, "domain": "global", "reason": "notFound"}
        error = {"code": 404, "message": message, "errors": [entry]}
        assert reply.body == {"error": error}
