"""The OpenAPI document says what `/api/v1` serves, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gce_backend.machine_provider import lease_api
from gce_backend.machine_provider.openapi import PATH, document
from machine_provider.test_leases_api import running


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Verb, path and description of each operation."""
    for path, verbs in document()["paths"].items():
        for verb, operation in verbs.items():
            yield verb, path, operation


def references(value: Any) -> Iterator[str]:
    """The names of all schemas that something refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield str(inner).rpartition("/")[2]
            else:
                yield from references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references(inner)


def test_every_route_is_described_and_no_other() -> None:
    """By verb and path, under the name of its method."""
    routes = {
        (route.verb.lower(), re.sub(r":\[[^\]]*\]\+", "", route.path), route.name)
        for route in lease_api.ROUTES
    }
    assert {(verb, path, one["operationId"]) for verb, path, one in operations()} == routes
    assert {route.name for route in lease_api.ROUTES} == set(lease_api.METHODS)


def test_every_variable_of_a_path_is_a_parameter_and_no_member_of_the_body() -> None:
    """As OpenAPI wants it; what is read has no body."""
    for verb, path, one in operations():
        there = [it["name"] for it in one.get("parameters", ()) if it["in"] == "path"]
        assert there == re.findall(r"\{(\w+)\}", path)
        body = one.get("requestBody")
        assert verb != "get" or body is None
        if body is not None:
            schema = body["content"]["application/json"]["schema"]
            assert not set(there) & set(schema["properties"])
            assert set(schema["required"]) <= set(schema["properties"])


def test_every_schema_that_is_named_is_there() -> None:
    """And requests that are never told of as such, too."""
    found = document()
    assert set(references(found)) <= found["components"]["schemas"].keys()


async def test_answers_have_the_members_that_are_described(tmp_path: Path) -> None:
    """The document is served to everybody, and describes what a process answers."""
    async with running(tmp_path) as mp:
        status, served = await mp.place.send(mp.service, "GET", PATH)
        assert (status, served["openapi"]) == (200, "3.1.0")
        assert served["paths"].keys() == document()["paths"].keys()
        schemas = served["components"]["schemas"]

        def check(answer: dict[str, Any], name: str) -> None:
            members = schemas[name]["properties"]
            assert answer.keys() <= members.keys()
            assert set(schemas[name].get("required", ())) <= answer.keys()

        await mp.add("vm-1")
        check(await mp.lease("r1"), "LeaseDocument")
        waits = await mp.lease("r2")
        check(waits, "LeaseDocument")
        check(waits["waiting"], "WaitDocument")
        check(await mp.ok("GET", "leases"), "LeaseList")
        machines = await mp.ok("GET", "machines")
        check(machines, "MachineList")
        check(machines["machines"][0], "MachineDocument")
        check(await mp.ok("GET", "whoami"), "WhoAmI")
        status, refused = await mp("GET", "leases/nothing")
        assert status == 404
        check(refused, "Error")
