"""Requests that Compute refuses, how it says so, and bodies that are compressed."""

from __future__ import annotations

import gzip
import io
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gce_backend.localcloud.cloud import MAX_REQUEST_BYTES, CloudOptions
from gce_backend.localcloud.compute import description
from gce_backend.localcloud.faults import Fault
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
from support.referee import Referee
from support.watch import BY_HAND

INSTANT = CloudOptions().instant()
JSON = {"Content-Type": "application/json"}


async def send(at: World, verb: str, path: str, data: bytes | io.BytesIO, **headers: str) -> Reply:
    """A request with a body of any bytes."""
    url = f"{at.cloud.base_url}/compute/v1/projects/{PROJECT}/{path}"
    sent = {"Authorization": "Bearer a-token", **JSON, **BY_HAND, **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.request(verb, url, data=data, headers=sent) as response,
    ):
        return Reply(response.status, await response.json())


# Bodies of errors


async def test_error_has_code_message_and_one_entry_with_its_reason() -> None:
    """The form in which Google's clients look for the reason."""
    async with world() as at:
        reply = await at.call("GET", f"{TEMPLATES}/none")
        message = f"The resource 'projects/{PROJECT}/global/instanceTemplates/none' was not found"
        entry = {"message": message, "domain": "global", "reason": "notFound"}
        assert reply.body == {"error": {"code": 404, "message": message, "errors": [entry]}}


@pytest.mark.parametrize(
    ("verb", "path", "body", "query", "status", "reason"),
    [
        ("GET", "zones/nowhere/instances", None, {}, 400, "invalid"),
        ("POST", TEMPLATES, None, {}, 400, "required"),
        ("POST", f"{GROUPS}/workers/resize", None, {}, 400, "required"),
        ("POST", f"{GROUPS}/workers/resize", None, {"size": "2001"}, 400, "invalid"),
        ("POST", f"{GROUPS}/workers/resize", None, {"size": "two"}, 400, "invalid"),
        ("POST", TEMPLATES, template_body(), {"requestId": "1"}, 400, "invalid"),
        ("GET", f"{INSTANCES}/none", None, {}, 404, "notFound"),
        ("GET", f"zones/{ZONE}/operations/none", None, {}, 404, "notFound"),
        ("POST", f"zones/{ZONE}/operations/none/wait", None, {}, 404, "notFound"),
        ("POST", TEMPLATES, template_body(), {}, 409, "alreadyExists"),
        ("DELETE", f"{TEMPLATES}/small", None, {}, 400, "resourceInUseByAnotherResource"),
        ("GET", TEMPLATES, None, {"maxResult": "1"}, 400, "invalid"),
        ("GET", TEMPLATES, None, {"requestId": "1"}, 400, "invalid"),
        ("GET", TEMPLATES, None, {"fields": "nam"}, 400, "invalidParameter"),
        ("GET", "aggregated/instances", None, {"includeAllScopes": "1"}, 400, "invalid"),
    ],
)
async def test_each_mistake_has_its_status_and_reason(
    verb: str, path: str, body: Any, query: dict[str, str], status: int, reason: str
) -> None:
    """What a fleet manager must tell apart, it can."""
    async with world(INSTANT) as at:
        await at.template()
        await at.group(size=0)
        reply = await at.call(verb, path, body, **query)
        assert (reply.status, reply.reason) == (status, reason), reply


async def test_parameters_of_every_method_are_known_everywhere() -> None:
    """Also with the dollar that some of Google's clients put in front."""
    async with world() as at:
        query = {"prettyPrint": "false", "$alt": "json", "quotaUser": "me", "key": "k"}
        assert (await at.call("GET", TEMPLATES, **query)).status == 200


async def test_stale_metadata_fingerprint_is_412_and_stopping_vm_is_not_ready() -> None:
    """ConditionNotMet wants a new look, resourceNotReady patience."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        path = f"{INSTANCES}/{(await at.members())[0]['name']}"
        metadata = (await at.get(path))["metadata"]
        stale = await at.call("POST", f"{path}/setMetadata", metadata | {"fingerprint": "AAAA"})
        assert (stale.status, stale.reason) == (412, "conditionNotMet")
        await at.call("DELETE", path)
        late = await at.call("POST", f"{path}/setMetadata", metadata)
        assert (late.status, late.reason) == (400, "resourceNotReady")


async def test_token_that_is_not_valid_is_401_that_names_the_header() -> None:
    """And nothing is done."""
    async with world() as at:
        at.cloud.authenticate_with(lambda token: token == "good")
        reply = await at.call("POST", TEMPLATES, template_body())
        assert (reply.status, reply.reason) == (401, "authError")
        assert reply.body["error"]["errors"][0]["location"] == "Authorization"
        at.cloud.authenticate_with(lambda _: True)
        assert "items" not in await at.get(TEMPLATES)


@pytest.mark.parametrize(
    ("status", "reason", "domain"),
    [
        (403, "forbidden", "global"),
        (403, "rateLimitExceeded", "usageLimits"),
        (429, "rateLimitExceeded", "usageLimits"),
        (403, "quotaExceeded", "usageLimits"),
        (500, "backendError", "global"),
        (503, "backendError", "global"),
    ],
)
async def test_injected_error_looks_like_a_real_one(status: int, reason: str, domain: str) -> None:
    """What cannot be provoked otherwise."""
    async with world() as at:
        at.cloud.faults.add(Fault(status=status, reason=reason, message="because"))
        reply = await at.call("GET", TEMPLATES)
        assert (reply.status, reply.reason) == (status, reason)
        assert reply.body["error"]["errors"][0]["domain"] == domain
        assert reply.body["error"]["message"] == "because"


# Malformed requests


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"1", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a":' * 50_000]
)
async def test_body_that_is_not_a_json_object_is_400(data: bytes) -> None:
    """Half a body, another type, no text, too deep."""
    async with world() as at:
        reply = await send(at, "POST", TEMPLATES, data)
        assert (reply.status, reply.reason) == (400, "parseError")


async def test_member_that_is_null_is_one_that_is_absent(referee: Referee) -> None:
    """As in every JSON body that Google reads."""
    referee.expect(": None is no ")
    async with world(INSTANT) as at:
        body = template_body(labels=None, tags={"items": None}, scheduling=None)
        await at.done(await at.post(TEMPLATES, body | {"description": None}))
        template = await at.get(f"{TEMPLATES}/small")
        assert "description" not in template
        assert not {"labels", "scheduling"} & template["properties"].keys()


async def test_body_that_is_too_large_is_413_in_json() -> None:
    """A client that looks for the reason finds one."""
    async with world() as at:
        reply = await send(at, "POST", TEMPLATES, io.BytesIO(b" " * (MAX_REQUEST_BYTES + 1)))
        assert (reply.status, reply.reason) == (413, "uploadTooLarge")


def bodies(shape: Any) -> st.SearchStrategy[Any]:
    """Bodies with known members, most of them with impossible values."""
    shape = description.resolved(shape)
    if isinstance(shape, list):
        return st.lists(_value(shape[0]), max_size=2)
    if isinstance(shape, dict):
        named = {"extra" if name == "*" else name: inner for name, inner in shape.items()}
        keys = st.lists(st.sampled_from(sorted(named)), max_size=6, unique=True)
        return keys.flatmap(
            lambda chosen: st.fixed_dictionaries({k: _value(named[k]) for k in chosen})
        )
    usual = {
        "string": st.sampled_from(["", "a", "small", "projects/p/zones/z/x/y", "é\x00", "9" * 99]),
        "boolean": st.booleans(),
        "integer": st.sampled_from([0, 1, -1, 2**31, "7"]),
        "int64": st.sampled_from([0, -1, 2**63, "20", "-5"]),
        "number": st.floats(allow_nan=False, allow_infinity=False),
    }
    return usual.get(shape, st.none())


def _value(shape: Any) -> st.SearchStrategy[Any]:
    odd = st.sampled_from([None, [], {}, "", 0, 10**30, True, [None], {"a": None}])
    return st.one_of(st.deferred(lambda: bodies(shape)), odd)


MUTATIONS = {
    "compute.instanceTemplates.insert": (TEMPLATES, template_body("new")),
    "compute.instanceGroupManagers.insert": (GROUPS, group_body("new", 1)),
    "compute.instanceGroupManagers.deleteInstances": (f"{GROUPS}/workers/deleteInstances", {}),
    "compute.instanceGroupManagers.abandonInstances": (f"{GROUPS}/workers/abandonInstances", {}),
    "compute.instanceGroupManagers.recreateInstances": (f"{GROUPS}/workers/recreateInstances", {}),
    "compute.instances.setMetadata": (f"{INSTANCES}/VM/setMetadata", {}),
}


@pytest.mark.parametrize("method", sorted(MUTATIONS))
async def test_no_body_makes_the_service_fail(method: str) -> None:
    """Whatever the members hold, the answer is an operation or an error of the caller's."""
    path, valid = MUTATIONS[method]
    found: list[Any] = []

    @settings(
        max_examples=60,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(description.method(method).request))
    def collect(body: Any) -> None:
        found.append(body)

    collect()
    async with world(INSTANT) as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        path = path.replace("VM", (await at.members())[0]["name"])
        for body in found:
            for sent in (body, valid | body, _nested(valid, body)):
                reply = await send(at, "POST", path, msgspec.json.encode(sent))
                assert reply.status < 500, (sent, reply)
        await at.later(60)
        assert (await at.call("GET", "aggregated/instances")).status == 200


def _nested(valid: dict[str, Any], odd: dict[str, Any]) -> dict[str, Any]:
    """A valid body with odd values in its objects."""
    return {
        name: value | odd.get(name, {})
        if isinstance(value, dict) and isinstance(odd.get(name), dict)
        else value
        for name, value in valid.items()
    }


# Compression


async def test_answer_is_compressed_for_who_asks_for_it_in_both_headers() -> None:
    """Google wants `gzip` in Accept-Encoding and in User-Agent."""
    async with world(INSTANT) as at:
        for name in "abcdefgh":
            await at.template(name)
        url = f"{at.cloud.base_url}/compute/v1/projects/{PROJECT}/{TEMPLATES}"
        plain = await at.get(TEMPLATES)
        for agent, accepted, encoding in (
            ("fleet (gzip)", "gzip", "gzip"),
            ("fleet (gzip)", "identity", None),
            ("fleet", "gzip, deflate", None),
        ):
            headers = {"User-Agent": agent, "Accept-Encoding": accepted}
            headers["Authorization"] = "Bearer a-token"
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.get(url, headers=headers) as response,
            ):
                assert response.headers.get("Content-Encoding") == encoding
                body = await response.read()
            assert msgspec.json.decode(gzip.decompress(body) if encoding else body) == plain


async def test_compressed_request_is_understood_and_a_broken_one_is_400() -> None:
    """Content-Encoding: gzip."""
    async with world(INSTANT) as at:
        body = gzip.compress(msgspec.json.encode(template_body()))
        encoding = {"Content-Encoding": "gzip"}
        assert (await send(at, "POST", TEMPLATES, body, **encoding)).status == 200
        broken = await send(at, "POST", TEMPLATES, b"not compressed", **encoding)
        assert (broken.status, broken.reason) == (400, "parseError")
        assert [item["name"] for item in (await at.get(TEMPLATES))["items"]] == ["small"]
