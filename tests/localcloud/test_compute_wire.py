"""Compute's conventions on the wire: operations, requestIds, quotas, lists, masks, schemas."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute import payloads
from gce_backend.localcloud.compute.catalogue import machine_size
from gce_backend.localcloud.faults import Fault
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
from localcloud.discovery import check_request, check_response, document, method

API = "compute.v1"


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


# Quotas


async def test_quota_is_per_method_group_and_minute() -> None:
    """A used-up group answers 403 until the next minute; the other groups go on."""
    async with world(msgspec.structs.replace(OPTIONS, calls_per_minute=3)) as at:
        await at.template()  # one mutation, one wait
        await at.get(TEMPLATES)
        await at.get("zones")
        await at.get(GROUPS)
        refused = await at.call("GET", TEMPLATES)
        assert (refused.status, refused.reason) == (403, "rateLimitExceeded")
        assert refused.body["error"]["errors"][0]["domain"] == "usageLimits"
        info = refused.body["error"]["details"][0]
        assert info["reason"] == "RATE_LIMIT_EXCEEDED"
        assert "quota_metric" in info["metadata"]
        assert (await at.call("GET", TEMPLATES, project="other-1")).status == 200
        assert (await at.call("GET", "global/operations")).status == 200
        await at.group(size=0)
        await at.members()  # listing managed instances counts among the mutations
        assert (await at.call("POST", GROUPS, group_body("b"))).reason == "rateLimitExceeded"
        await at.later(60 - at.clock.now() % 60)
        assert (await at.call("GET", TEMPLATES)).status == 200


# Lists, filters, masks


async def test_aggregated_list_has_a_scope_per_zone_and_pages_across_zones() -> None:
    """Empty scopes carry a warning, and pages add up to everything."""
    async with world(CloudOptions().instant()) as at:
        await at.template()
        for zone in ("us-east1-b", ZONE):
            for name in ("a", "b", "c"):
                await at.done(
                    await at.post(f"zones/{zone}/instanceGroupManagers", group_body(name, 1))
                )
        path = "aggregated/instanceGroupManagers"
        whole = await at.get(path)
        scope = whole["items"][f"zones/{ZONE}"]
        assert [g["name"] for g in scope["instanceGroupManagers"]] == ["a", "b", "c"]
        empty = whole["items"]["zones/europe-west1-b"]
        assert empty["warning"]["code"] == "NO_RESULTS_ON_PAGE"
        seen = []
        query = {"maxResults": "2"}
        for _ in range(3):
            page = await at.get(path, **query)
            for where, found in page["items"].items():
                seen += [(where, g["name"]) for g in found.get("instanceGroupManagers", [])]
            query["pageToken"] = page.get("nextPageToken", "")
        assert query["pageToken"] == ""
        zones = (f"zones/{ZONE}", "zones/us-east1-b")
        assert seen == [(zone, name) for zone in zones for name in "abc"]
        vms = await at.get("aggregated/instances", maxResults="500")
        assert len(vms["items"][f"zones/{ZONE}"]["instances"]) == 3


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("name = b-1", ["b-1"]),
        ('name="b-1"', ["b-1"]),
        ("name eq b-.*", ["b-1", "b-2"]),
        ("name ne b-(1|2)", ["a-1"]),
        ("name != b-1", ["a-1", "b-2"]),
        ("name eq '(a|b)-1'", ["a-1", "b-1"]),
        ("(name eq .*-1)(name eq b.*)", ["b-1"]),
        ("(name = a-1) OR (name = b-2)", ["a-1", "b-2"]),
        ("name eq .*-1 AND NOT name = a-1", ["b-1"]),
        ("properties.labels.owner = tests", ["a-1", "b-1", "b-2"]),
        ("properties.labels.owner:*", ["a-1", "b-1", "b-2"]),
        ("properties.labels.absent:*", []),
        ("properties.labels.absent != x", ["a-1", "b-1", "b-2"]),
        ("description eq 'made b-1'", ["b-1"]),
        ("description : B-2", ["b-2"]),
        ("properties.tags.items = internal", ["a-1", "b-1", "b-2"]),
    ],
)
async def test_filter_selects(condition: str, names: list[str]) -> None:
    """Compute's filter syntax chooses what is listed."""
    async with world(CloudOptions().instant()) as at:
        for name in ("a-1", "b-1", "b-2"):
            await at.template(name)
        found = (await at.get(TEMPLATES, filter=condition)).get("items", [])
        assert [template["name"] for template in found] == names


@pytest.mark.parametrize("condition", ["name", "name ~ x", "(name = a", "name eq [", "= a", "a=b)"])
async def test_filter_that_cannot_be_understood_is_refused(condition: str) -> None:
    """Unknown syntax is never taken for `no filter`."""
    async with world() as at:
        assert (await at.call("GET", TEMPLATES, filter=condition)).reason == "invalid"


async def test_fields_mask_sends_only_what_is_asked_for() -> None:
    """Commas, slashes, parentheses and wildcards choose parts of answers."""
    async with world(CloudOptions().instant()) as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        found = await at.get(TEMPLATES, fields="items(name,properties/labels),nextPageToken")
        assert found == {"items": [{"name": "small", "properties": {"labels": {"owner": "tests"}}}]}
        mask = "items/*/instanceGroupManagers(name,status/isStable)"
        scopes = (await at.get("aggregated/instanceGroupManagers", fields=mask))["items"]
        group = {"name": "workers", "status": {"isStable": True}}
        assert scopes[f"zones/{ZONE}"] == {"instanceGroupManagers": [group]}
        for wrong in ("items(", "a,,b", "items)", "", "a b"):
            assert (await at.call("GET", TEMPLATES, fields=wrong)).status == 400, wrong


async def test_order_other_than_by_name_is_refused() -> None:
    """Better refused than silently wrong."""
    async with world() as at:
        assert (await at.call("GET", TEMPLATES, orderBy="name")).status == 200
        assert (await at.call("GET", TEMPLATES, orderBy="creationTimestamp desc")).status == 400


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


def _members(schemas: dict[str, Any], shape: Any, schema: dict[str, Any], place: str) -> list[str]:
    """Where a shape of ours has other members than Google's schema."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    if isinstance(shape, list):
        return _members(schemas, shape[0], schema["items"], f"{place}[]")
    if not isinstance(shape, dict) or "additionalProperties" in schema:
        return []
    known = schema["properties"]
    problems = [f"{place}.{name}" for name in known.keys() ^ shape.keys()]
    for name in known.keys() & shape.keys():
        problems += _members(schemas, shape[name], known[name], f"{place}.{name}")
    return problems


@pytest.mark.parametrize("name", sorted(payloads.BODIES))
def test_request_shapes_have_the_members_of_googles_description(name: str) -> None:
    """What is refused as unknown is unknown to Google, and nothing else."""
    schemas = document(API)["schemas"]
    assert _members(schemas, payloads.BODIES[name], method(API, name)["request"], "body") == []


async def test_every_answer_fits_googles_description() -> None:
    """A small scenario through every method: no unknown field, wrong type or enum anywhere."""
    seen: dict[str, Reply] = {}

    async def call(at: World, name: str, path: str, body: Any = None, **query: str) -> Any:
        described = method(API, f"compute.{name}")
        assert check_request(API, f"compute.{name}", body, query) == []
        reply = await at.call(described["httpMethod"], path, body, **query)
        assert reply.status == 200, (name, reply)
        assert check_response(API, f"compute.{name}", reply.body) == []
        seen[name] = reply
        return reply.body

    async with world() as at:
        resources = {"zoneOperations": f"zones/{ZONE}", "globalOperations": "global"}
        await at.done(await call(at, "instanceTemplates.insert", TEMPLATES, template_body()))
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
        await call(at, "instances.list", INSTANCES, maxResults="1")
        await call(at, "instances.aggregatedList", "aggregated/instances")
        vm = f"{INSTANCES}/{members[0]['name']}"
        metadata = (await call(at, "instances.get", vm))["metadata"]
        await at.done(await call(at, "instances.setMetadata", f"{vm}/setMetadata", metadata))
        fault = Fault(kind="operation", method="compute.instances.delete", reason="INTERNAL_ERROR")
        at.cloud.faults.add(fault)
        await at.done(await call(at, "instances.delete", vm))
        await call(at, "instanceGroupManagers.resize", f"{group}/resize", size="3")
        doomed = {"instances": [members[0]["instance"]]}
        await call(at, "instanceGroupManagers.deleteInstances", f"{group}/deleteInstances", doomed)
        await at.done(await call(at, "instanceGroupManagers.delete", group))
        await at.done(await call(at, "instanceTemplates.delete", f"{TEMPLATES}/small"))
        for resource, scope in resources.items():
            operations = (await call(at, f"{resource}.list", f"{scope}/operations"))["items"]
            path = f"{scope}/operations/{operations[0]['name']}"
            await call(at, f"{resource}.get", path)
            await call(at, f"{resource}.wait", f"{path}/wait")
        await call(at, "zones.list", "zones")
        await call(at, "zones.get", f"zones/{ZONE}")
        await call(at, "machineTypes.get", f"zones/{ZONE}/machineTypes/n2-standard-4")
        await call(at, "images.get", "global/images/debian-12")
        await call(at, "images.getFromFamily", "global/images/family/debian")
        await call(at, "snapshots.get", "global/snapshots/base")
        routes = {route.method for service in at.cloud._services for route in service.routes()}
        assert {f"compute.{name}" for name in seen} == routes


async def test_every_route_has_the_path_of_googles_description() -> None:
    """Verbs and paths are Google's, below /compute/v1/."""
    async with world() as at:
        for service in at.cloud._services:
            for route in service.routes():
                described = method(API, route.method)
                assert (route.verb, route.path) == (
                    described["httpMethod"],
                    f"/compute/v1/{described['path']}",
                )


async def test_errors_look_like_googles() -> None:
    """Code, message and one entry with domain and reason."""
    async with world() as at:
        reply = await at.call("GET", f"{TEMPLATES}/none")
        message = f"The resource 'projects/{PROJECT}/global/instanceTemplates/none' was not found"
        entry = {"message": message, "domain": "global", "reason": "notFound"}
        error = {"code": 404, "message": message, "errors": [entry]}
        assert reply.body == {"error": error}
