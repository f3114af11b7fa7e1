"""What the Compute client sends: every call, down to its verb, path, query, body and quota group.

Whether Compute knows these is the referee's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web

from gce_backend.base import errors
from gce_backend.clients.compute.call_budget import Quota, QuotaGroup
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.clients.compute.types import (
    ComputeGroup,
    ComputeInstance,
    ComputeTemplate,
    GroupPage,
    Image,
    InstancePage,
    MachineType,
    ManagedInstancePage,
    Operation,
    OperationPage,
    Snapshot,
    SnapshotPage,
    Surrounding,
    TemplatePage,
    WholeInstancePage,
)
from gce_backend.gce_client import ComputeClient
from support.gce_client_world import FINGERPRINT, GROUP, LINK, OPERATION, REQUEST_ID, script, world
from support.responses import error_answer, never

P = "/compute/v1/projects/p"
MEMBERS = f"{P}/zones/z/instanceGroupManagers"
CONDITION = 'name = "a+b & c/d" AND labels.x = "50%"'
ONCE = {"request_id": REQUEST_ID}
MARK = {"requestId": REQUEST_ID}
DONE = OPERATION | {"status": "DONE"}
REGIONAL = ResourceLink("p", "regions/r", "operations", "operation-1")


class Call(NamedTuple):
    """What a method sends.

    Attributes:
        ask: calls it.
        line: verb and path.
        query: its parameters.
        group: the quota group that Compute counts it in.
        body: its JSON; None for no body at all.
        answer: what Compute says to it.
    """

    ask: Callable[[ComputeClient], Awaitable[Any]]
    line: str
    query: Mapping[str, str] = {}
    group: QuotaGroup = QuotaGroup.READ
    body: Any = None
    answer: Mapping[str, Any] = OPERATION


def mask(kind: Any) -> dict[str, str]:
    """The query that asks for no more than `kind` holds."""
    return {"fields": kind.FIELDS}


def listing(kind: Any, **more: str) -> dict[str, str]:
    """The query of a list."""
    return {"maxResults": "500", **mask(kind), **more}


NAMED = {"name": "n"}
CALLS = {
    "instanceTemplates.insert": Call(
        lambda c: c.insert_instance_template("p", {"name": "t"}, **ONCE),
        f"POST {P}/global/instanceTemplates",
        MARK,
        QuotaGroup.MUTATE,
        {"name": "t"},
    ),
    "instanceTemplates.get": Call(
        lambda c: c.get_instance_template("p", "t"),
        f"GET {P}/global/instanceTemplates/t",
        mask(ComputeTemplate),
        answer=NAMED,
    ),
    "instanceTemplates.list": Call(
        lambda c: c.list_instance_templates("p", CONDITION),
        f"GET {P}/global/instanceTemplates",
        listing(TemplatePage, filter=CONDITION),
        QuotaGroup.LIST,
        answer={},
    ),
    "instanceTemplates.delete": Call(
        lambda c: c.delete_instance_template("p", "t", **ONCE),
        f"DELETE {P}/global/instanceTemplates/t",
        MARK,
        QuotaGroup.MUTATE,
    ),
    "instanceGroupManagers.insert": Call(
        lambda c: c.insert_group("p", "z", GROUP, **ONCE),
        f"POST {MEMBERS}",
        MARK,
        QuotaGroup.MUTATE,
        GROUP,
    ),
    "instanceGroupManagers.get": Call(
        lambda c: c.get_group("p", "z", "g"), f"GET {MEMBERS}/g", mask(ComputeGroup), answer=GROUP
    ),
    "instanceGroupManagers.aggregatedList": Call(
        lambda c: c.list_groups("p"),
        f"GET {P}/aggregated/instanceGroupManagers",
        listing(GroupPage),
        QuotaGroup.HEAVY_READ,
        answer={},
    ),
    "instanceGroupManagers.listManagedInstances": Call(
        lambda c: c.list_managed_instances("p", "z", "g"),
        f"POST {MEMBERS}/g/listManagedInstances",
        listing(ManagedInstancePage),
        QuotaGroup.MUTATE,
        answer={},
    ),
    "instanceGroupManagers.createInstances": Call(
        lambda c: c.create_instances("p", "z", "g", ["a", "b"], **ONCE),
        f"POST {MEMBERS}/g/createInstances",
        MARK,
        QuotaGroup.MUTATE,
        {"instances": [{"name": "a"}, {"name": "b"}]},
    ),
    "instanceGroupManagers.deleteInstances": Call(
        lambda c: c.delete_instances("p", "z", "g", ["a", "b"], skip_invalid=True, **ONCE),
        f"POST {MEMBERS}/g/deleteInstances",
        MARK,
        QuotaGroup.MUTATE,
        {
            "instances": ["projects/p/zones/z/instances/a", "projects/p/zones/z/instances/b"],
            "skipInstancesOnValidationError": True,
        },
    ),
    "instanceGroupManagers.delete": Call(
        lambda c: c.delete_group("p", "z", "g", **ONCE),
        f"DELETE {MEMBERS}/g",
        MARK,
        QuotaGroup.MUTATE,
    ),
    "instances.get": Call(
        lambda c: c.get_instance("p", "z", "vm"),
        f"GET {P}/zones/z/instances/vm",
        mask(ComputeInstance),
        answer=NAMED | {"id": "7"},
    ),
    "instances.aggregatedList": Call(
        lambda c: c.list_instances("p", CONDITION),
        f"GET {P}/aggregated/instances",
        listing(InstancePage, filter=CONDITION),
        QuotaGroup.HEAVY_READ,
        answer={},
    ),
    "instances.aggregatedList, whole": Call(
        lambda c: c.list_instances("p", CONDITION, whole=True),
        f"GET {P}/aggregated/instances",
        listing(WholeInstancePage, filter=CONDITION),
        QuotaGroup.HEAVY_READ,
        answer={},
    ),
    "instances.setMetadata": Call(
        lambda c: c.set_instance_metadata("p", "z", "vm", FINGERPRINT, {"k": "v"}, **ONCE),
        f"POST {P}/zones/z/instances/vm/setMetadata",
        MARK,
        QuotaGroup.MUTATE,
        {"fingerprint": FINGERPRINT, "items": [{"key": "k", "value": "v"}]},
    ),
    "zoneOperations.get": Call(
        lambda c: c.get_operation(LINK),
        f"GET {P}/zones/z/operations/operation-1",
        group=QuotaGroup.OPERATION_GET,
    ),
    "zoneOperations.list": Call(
        lambda c: c.list_operations("p", "z", pages=1),
        f"GET {P}/zones/z/operations",
        listing(OperationPage, orderBy="creationTimestamp desc"),
        QuotaGroup.LIST,
        answer={},
    ),
    "zoneOperations.wait": Call(
        lambda c: c.wait_operation(LINK),
        f"POST {P}/zones/z/operations/operation-1/wait",
        group=QuotaGroup.HEAVY_READ,
    ),
    "globalOperations.get": Call(
        lambda c: c.get_operation(ResourceLink("p", "global", "operations", "operation-1")),
        f"GET {P}/global/operations/operation-1",
        group=QuotaGroup.OPERATION_GET,
    ),
    "regionOperations.wait": Call(
        lambda c: c.wait_operation(REGIONAL),
        f"POST {P}/regions/r/operations/operation-1/wait",
        group=QuotaGroup.HEAVY_READ,
    ),
    "machineTypes.get": Call(
        lambda c: c.get_machine_type("p", "z", "m"),
        f"GET {P}/zones/z/machineTypes/m",
        mask(MachineType),
        answer=NAMED | {"guestCpus": 1, "memoryMb": 1},
    ),
    "images.get": Call(
        lambda c: c.get_image("p", "i"), f"GET {P}/global/images/i", mask(Image), answer=NAMED
    ),
    "images.getFromFamily": Call(
        lambda c: c.get_image_from_family("p", "f"),
        f"GET {P}/global/images/family/f",
        mask(Image),
        answer=NAMED,
    ),
    "networks.get": Call(
        lambda c: c.get_network("p", "n"),
        f"GET {P}/global/networks/n",
        mask(Surrounding),
        answer=NAMED,
    ),
    "subnetworks.get": Call(
        lambda c: c.get_subnetwork("p", "r", "n"),
        f"GET {P}/regions/r/subnetworks/n",
        mask(Surrounding),
        answer=NAMED,
    ),
    "diskTypes.get": Call(
        lambda c: c.get_disk_type("p", "z", "d"),
        f"GET {P}/zones/z/diskTypes/d",
        mask(Surrounding),
        answer=NAMED,
    ),
    "acceleratorTypes.get": Call(
        lambda c: c.get_accelerator_type("p", "z", "a"),
        f"GET {P}/zones/z/acceleratorTypes/a",
        mask(Surrounding),
        answer=NAMED,
    ),
    "reservations.get": Call(
        lambda c: c.get_reservation("p", "z", "r"),
        f"GET {P}/zones/z/reservations/r",
        mask(Surrounding),
        answer=NAMED,
    ),
    "resourcePolicies.get": Call(
        lambda c: c.get_resource_policy("p", "r", "n"),
        f"GET {P}/regions/r/resourcePolicies/n",
        mask(Surrounding),
        answer=NAMED,
    ),
    "snapshots.get": Call(
        lambda c: c.get_snapshot("p", "s"),
        f"GET {P}/global/snapshots/s",
        mask(Snapshot),
        answer=NAMED,
    ),
    "snapshots.list": Call(
        lambda c: c.list_snapshots("p", "labels.a:*"),
        f"GET {P}/global/snapshots",
        listing(SnapshotPage, filter="labels.a:*"),
        QuotaGroup.LIST,
        answer={},
    ),
}
"""Every method, by the name that Compute's description gives it."""


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_is_sent_as_compute_describes_it(method: str) -> None:
    """Nothing more and nothing less; and it is charged to the project and group that it costs."""
    call, name = CALLS[method], method.partition(",")[0]
    async with world(script(web.json_response(call.answer))) as it:
        await call.ask(it.client)
        (request,) = it.requests
        assert f"{request.method} {request.rel_url.raw_path}" == call.line
        assert dict(request.query) == dict(call.query)
        assert it.server.bodies[-1] == (msgspec.json.encode(call.body) if call.body else b"")
        assert [(sent, group) for sent, group, *_ in it.seen] == [(f"compute.{name}", call.group)]
        (usage,) = it.budget.usage()
        region = "r" if "/regions/r/" in call.line else ""
        assert (usage.project, usage.region, usage.group) == ("p", region, call.group)
        assert usage.left == 999


async def test_a_list_without_a_condition_asks_for_all() -> None:
    """No filter at all, rather than an empty one."""
    async with world(script(web.json_response({}))) as it:
        await it.client.list_instance_templates("p")
        await it.client.list_groups("p")
        await it.client.list_instances("p")
        assert [dict(r.query).keys() for r in it.requests] == [{"maxResults", "fields"}] * 3


async def test_a_domain_scoped_project_is_its_own_in_path_and_budget() -> None:
    """`example.com:p`, unescaped, as Compute writes it."""
    async with world(script(web.json_response(GROUP))) as it:
        await it.client.get_group("example.com:p", "z", "g")
        (request,) = it.requests
        assert request.rel_url.raw_path.startswith("/compute/v1/projects/example.com:p/zones/z/")
        assert it.budget.remaining(Quota("example.com:p", QuotaGroup.READ)) == 999


@pytest.mark.parametrize("verb", ["insert", "createInstances", "deleteInstances", "delete"])
async def test_what_would_have_to_be_decided_again_is_sent_once(verb: str) -> None:
    """A size, a permit or an empty group is not taken for granted at a repetition."""
    async with world(script(error_answer(503, "backendError"))) as it:
        with pytest.raises(errors.TransientError):
            await CALLS[f"instanceGroupManagers.{verb}"].ask(it.client)
        assert len(it.requests) == 1


async def test_fault_50_metadata_leaves_room_for_deletions_and_growth() -> None:
    """Updates stop at eight of ten calls a minute; a deletion goes at once."""
    async with world(script(web.json_response(OPERATION)), limit=10) as it:
        update = CALLS["instances.setMetadata"].ask
        for _ in range(8):
            await update(it.client)
        waiting = asyncio.ensure_future(update(it.client))
        await CALLS["instanceGroupManagers.deleteInstances"].ask(it.client)
        assert [request.path.rpartition("/")[2] for request in it.requests] == [
            *["setMetadata"] * 8,
            "deleteInstances",
        ]
        assert it.client.metadata_room("p", "").calls == 0
        with pytest.raises(errors.RateLimitedError):
            await waiting
        with pytest.raises(errors.RateLimitedError):
            await CALLS["instanceGroupManagers.createInstances"].ask(it.client)


async def test_calls_are_counted_in_the_region_that_they_are_made_to() -> None:
    """What is used up in one region is not in another; only aggregated lists have none."""
    async with world(script(web.json_response(OPERATION)), limit=1) as it:
        for zone in ("us-east1-b", "us-west1-a"):
            await it.client.delete_group("p", zone, "g", **ONCE)
        assert it.client.metadata_room("p", "us-east1").calls == 0
        assert it.client.metadata_room("p", "us-central1").calls == 1
        with pytest.raises(errors.RateLimitedError):
            await it.client.delete_group("p", "us-east1-c", "g", **ONCE)


async def test_a_thousand_members_are_deleted_in_one_call() -> None:
    """Compute's limit is among what is allowed."""
    many = [f"vm-{n}" for n in range(1000)]
    async with world(script(web.json_response(OPERATION))) as it:
        await it.client.delete_instances("p", "z", "g", many, skip_invalid=False, **ONCE)
        body = msgspec.json.decode(it.server.bodies[-1])
        assert len(body["instances"]) == 1000
        assert body["skipInstancesOnValidationError"] is False


REFUSED: Mapping[str, Callable[[ComputeClient], Awaitable[Any]]] = {
    "compute: not a resource name: 'A'": lambda c: c.get_group("p", "z", "A"),
    "compute.instanceGroupManagers.delete: not a requestId: 'x'": (
        lambda c: c.delete_group("p", "z", "g", request_id="x")
    ),
    "compute.instanceGroupManagers.deleteInstances: 0 instances, not 1 to 1000": (
        lambda c: c.delete_instances("p", "z", "g", [], skip_invalid=True, **ONCE)
    ),
    "compute.zoneOperations.get: not an operation: projects/p/zones/z/instances/vm": (
        lambda c: c.get_operation(ResourceLink("p", "zones/z", "instances", "vm"))
    ),
    "compute.zoneOperations.wait: not an operation: projects/p/zones/z/instances/vm": (
        lambda c: c.wait_operation(ResourceLink("p", "zones/z", "instances", "vm"))
    ),
}


@pytest.mark.parametrize("words", REFUSED)
async def test_what_cannot_be_asked_is_refused_unsent_and_the_error_says_why(words: str) -> None:
    """The method, when it is known, and what was wrong."""
    async with world(script(web.json_response(OPERATION))) as it:
        with pytest.raises(errors.InvalidRequestError) as caught:
            await REFUSED[words](it.client)
        assert f"{caught.value.method}: {caught.value.message}" == words
        assert it.requests == []


async def test_an_operation_that_has_ended_is_not_asked_for() -> None:
    """Neither when it ended well nor when it did not."""
    failed = DONE | {"error": {"errors": [{"code": "STOCKOUT", "message": "none left"}]}}
    async with world(script(web.json_response(OPERATION))) as it:
        done = msgspec.convert(DONE, Operation)
        assert await it.client.await_operation(done, timeout=60) is done
        with pytest.raises(errors.OperationFailedError, match="none left"):
            await it.client.await_operation(msgspec.convert(failed, Operation), timeout=60)
        assert it.requests == []


async def test_an_operation_under_way_is_asked_for_half_a_second_apart() -> None:
    """Where its own link leads, unless told another floor; a failure does not stretch it."""
    times: list[float] = []

    def answer(request: web.Request) -> web.StreamResponse:
        times.append(asyncio.get_running_loop().time())
        answers = [
            error_answer(503, "backendError"),
            web.json_response(OPERATION),
            web.json_response(DONE),
        ]
        return answers[len(times) - 1]

    async with world(answer, tries=1) as it:
        running = msgspec.convert(OPERATION, Operation)
        assert (await it.client.await_operation(running, timeout=60)).done
        assert {r.path for r in it.requests} == {f"/compute/v1/{LINK.path}/wait"}
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert pauses == pytest.approx([0.5, 0.5], abs=0.1)


async def test_awaiting_waits_as_long_as_a_failure_says() -> None:
    """Retry-After above the floor."""
    busy = error_answer(503, "backendError", {"Retry-After": "20"})
    async with world(script(busy, web.json_response(DONE))) as it:
        begun = asyncio.get_running_loop().time()
        assert (await it.client.await_operation(LINK, timeout=60, floor=2)).done
        assert 20 <= asyncio.get_running_loop().time() - begun <= 21


async def test_an_operation_never_seen_within_the_time_ends_in_the_last_failure() -> None:
    """Without any answer, it says how long was waited; with failures, what the last one was."""
    async with world(script(never), tries=1) as it:
        with pytest.raises(errors.TransientError) as silent:
            await it.client.await_operation(LINK, timeout=25)
        assert silent.value.method == "compute.operations.wait"
        assert silent.value.message == "no answer within 25 s"
    async with world(script(error_answer(503, "backendError")), tries=1) as it:
        with pytest.raises(errors.TransientError) as failing:
            await it.client.await_operation(LINK, timeout=25)
        assert (failing.value.status, failing.value.reason) == (503, "backendError")


async def test_what_a_call_may_take_is_what_the_deadlines_say() -> None:
    """Only a `wait` may take longer: by the two minutes that Compute may hold it."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(3)
        return response

    async with world(drip) as it:
        with pytest.raises(errors.TransientError, match="no success within 40 s"):
            await it.client.get_group("p", "z", "g")
        with pytest.raises(errors.TransientError, match="no success within 160 s"):
            await it.client.wait_operation(LINK)
