"""Whatever a peer answers, a client raises an error of the project or returns a value.

`GCE_BACKEND_EXAMPLES=500000` runs so many mutated answers in place of the usual number.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gce_backend.base.errors import BackendError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.clients.compute.types import Operation
from gce_backend.clients.config_source import LuciConfigV1, LuciConfigV2
from gce_backend.clients.daemon import DaemonApi
from gce_backend.clients.datastore.client import Datastore, Transaction, Upsert
from gce_backend.clients.exchange import MAX_RETRY_AFTER_SECONDS
from gce_backend.clients.json_api import JsonApi, Limits
from gce_backend.clients.machine_provider import (
    Addition,
    CatalogMachine,
    LeaseRequest,
    MachineProviderClient,
)
from gce_backend.clients.pubsub import Outgoing, PubSub
from gce_backend.clients.resource_manager import ResourceManager
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget
from gce_backend.gce_client import ComputeClient
from support.mutation import mutated
from support.simulation import VirtualClock, VirtualTimeLoop

EXAMPLES = int(os.environ.get("GCE_BACKEND_EXAMPLES", "150"))
ROOT = "http://peer.test"
LONGEST_CALL = 3600.0
"""Simulated seconds: whatever a peer answers, a call comes to its end."""
UUID = "00000000-0000-4000-8000-000000000001"
ZONE = "projects/p/zones/z"
OPERATION = {"name": "o", "status": "DONE", "selfLink": f"{ZONE}/operations/o", "targetId": "5"}
RESOURCE = {
    "name": "n",
    "id": "7",
    "targetSize": 3,
    "selfLink": f"{ZONE}/instances/n",
    "guestCpus": 2,
    "memoryMb": 4096,
    "diskSizeGb": "10",
    "metadata": {"fingerprint": "f", "items": [{"key": "k", "value": "v"}]},
    "currentActions": {"none": 1},
}
MEMBER = {"instance": f"{ZONE}/instances/n", "id": "7", "lastAttempt": {"errors": {"errors": [{}]}}}
ROW = {
    "entity": {
        "key": {"path": [{"kind": "K", "name": "a"}]},
        "properties": {
            "t": {"timestampValue": "2026-01-01T00:00:00Z"},
            "i": {"integerValue": "5"},
            "d": {"doubleValue": 1.5},
            "a": {"arrayValue": {"values": [{"stringValue": "s"}]}},
        },
    },
    "version": "4",
}
BATCH = {"entityResults": [ROW], "moreResults": "NO_MORE_RESULTS", "endCursor": "c"}
MESSAGE = {"data": "YQ==", "attributes": {"k": "v"}, "messageId": "1", "publishTime": "2026-01-01Z"}
ENTRY = {
    "dimensions": {"hostname": "h", "backend": "GCE"},
    "policies": {"backend_attributes": [{"key": "k", "value": "v"}]},
    "lease_expiration_ts": "5",
}


class _Content:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """The body in one piece."""
        yield self._body


class _Response:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = _Content(body)


class Peer:
    """Stands in for an aiohttp session: it answers everything alike, and gives tokens."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._response = _Response(status, headers, body)

    @contextlib.asynccontextmanager
    async def request(self, _verb: str, url: object, **_: object) -> AsyncIterator[_Response]:
        """One exchange."""
        if "computeMetadata" in str(url) and self.good_tokens:
            body = b'{"access_token": "t", "expires_in": 3600}'
            yield _Response(200, {"Metadata-Flavor": "Google"}, body)
            return
        yield self._response

    good_tokens = True


Call = Callable[[Any, TokenSource], Awaitable[object]]


def _compute(use: Callable[[ComputeClient], Awaitable[object]]) -> Call:
    def call(session: Any, tokens: TokenSource) -> Awaitable[object]:
        clock = VirtualClock(0.0)
        client = ComputeClient(
            session=session,
            tokens=tokens,
            root=ROOT + "/",
            budget=CallBudget(clock, dict.fromkeys(QuotaGroup, 1000)),
            clock=clock,
            random=Random(1),
            backoff=Backoff(tries=1),
        )
        return use(client)

    return call


def _datastore(use: Callable[[Datastore], Awaitable[object]]) -> Call:
    def call(session: Any, tokens: TokenSource) -> Awaitable[object]:
        clock = VirtualClock(0.0)
        return use(
            Datastore(session=session, tokens=tokens, project="p", api_root=ROOT, clock=clock)
        )

    return call


def _pubsub(use: Callable[[PubSub], Awaitable[object]]) -> Call:
    return lambda session, tokens: use(
        PubSub(session=session, tokens=tokens, project="p", api_root=ROOT)
    )


def _broker(use: Callable[[MachineProviderClient], Awaitable[object]]) -> Call:
    return lambda session, tokens: use(
        MachineProviderClient(session=session, tokens=tokens, instance_url=ROOT, retrier=_once())
    )


def _once() -> Retrier:
    return Retrier(Backoff(tries=1), RetryBudget(), Random(1))


def _config(kind: type[LuciConfigV1 | LuciConfigV2]) -> Call:
    return lambda session, tokens: kind(
        session=session,
        tokens=tokens,
        hostname_url=ROOT,
        config_set="services/x",
        references=lambda _: [],
        retrier=_once(),
    ).fetch(None)


def _granted(session: Any, tokens: TokenSource) -> Awaitable[object]:
    api = JsonApi(session=session, tokens=tokens, root=ROOT, limits=Limits(), retrier=_once())
    return ResourceManager(api).granted("p", ["x"])


async def _deleted(client: ComputeClient) -> Operation:
    return await client.delete_instances("p", "z", "g", ["n"], request_id=UUID, skip_invalid=True)


async def _followed(client: ComputeClient) -> Operation:
    return await client.await_operation(await client.get_operation(LINK), timeout=600)


async def _touch(transaction: Transaction) -> None:
    await transaction.lookup([(("K", "a"),)])
    transaction.upsert((("K", "a"),), {})


LINK = ResourceLink.parse(str(OPERATION["selfLink"]))
MACHINE = CatalogMachine({"hostname": "h"}, {})
CALLS: list[tuple[object, Call]] = [
    (OPERATION, _compute(lambda c: c.get_operation(LINK))),
    (OPERATION, _compute(lambda c: c.wait_operation(LINK))),
    (OPERATION, _compute(lambda c: c.create_instances("p", "z", "g", ["n"], request_id=UUID))),
    (OPERATION, _compute(lambda c: c.insert_group("p", "z", {}, request_id=UUID))),
    (OPERATION, _compute(lambda c: c.delete_group("p", "z", "g", request_id=UUID))),
    (OPERATION, _compute(_deleted)),
    (OPERATION, _compute(lambda c: c.insert_instance_template("p", {}, request_id=UUID))),
    (OPERATION, _compute(lambda c: c.delete_instance_template("p", "t", request_id=UUID))),
    (
        OPERATION,
        _compute(
            lambda c: c.set_instance_metadata(
                "p", "z", "n", fingerprint="f", items={"a": "b"}, request_id=UUID
            )
        ),
    ),
    (OPERATION, _compute(_followed)),
    ({"items": [RESOURCE]}, _compute(lambda c: c.list_snapshots("p", "labels.a=b"))),
    (RESOURCE, _compute(lambda c: c.get_group("p", "z", "g"))),
    (RESOURCE, _compute(lambda c: c.get_instance("p", "z", "g"))),
    (RESOURCE, _compute(lambda c: c.get_instance_template("p", "t"))),
    (RESOURCE, _compute(lambda c: c.get_machine_type("p", "z", "m"))),
    (RESOURCE, _compute(lambda c: c.get_image("p", "i"))),
    (RESOURCE, _compute(lambda c: c.get_image_from_family("p", "i"))),
    (RESOURCE, _compute(lambda c: c.get_snapshot("p", "i"))),
    ({"items": [RESOURCE]}, _compute(lambda c: c.list_instance_templates("p"))),
    (
        {"items": {"zones/z": {"instanceGroupManagers": [RESOURCE]}}},
        _compute(lambda c: c.list_groups("p")),
    ),
    (
        {"items": {"zones/z": {"instances": [RESOURCE]}}, "unreachables": ["x"]},
        _compute(lambda c: c.list_instances("p")),
    ),
    ({"managedInstances": [MEMBER]}, _compute(lambda c: c.list_managed_instances("p", "z", "g"))),
    ({"found": [ROW]}, _datastore(lambda d: d.lookup([(("K", "a"),)]))),
    ({"batch": BATCH}, _datastore(lambda d: d.query("K"))),
    ({"transaction": "t", "found": [ROW]}, _datastore(lambda d: d.transaction(_touch))),
    (
        {"mutationResults": [{"version": "5"}]},
        _datastore(lambda d: d.commit([Upsert((("K", "a"),), {})])),
    ),
    ({"receivedMessages": [{"ackId": "a", "message": MESSAGE}]}, _pubsub(lambda p: p.pull("s", 1))),
    ({"messageIds": ["1"]}, _pubsub(lambda p: p.publish("t", [Outgoing("a", {})]))),
    ({}, _pubsub(lambda p: p.acknowledge("s", ["a"]))),
    ({}, _pubsub(lambda p: p.modify_ack_deadline("s", ["a"], 5))),
    ({"name": "t"}, _pubsub(lambda p: p.get("projects/p/topics/t"))),
    ({"name": "t"}, _pubsub(lambda p: p.create_topic("projects/p/topics/t"))),
    ({"bindings": []}, _pubsub(lambda p: p.get_iam_policy("projects/p/topics/t"))),
    (
        {"name": "s"},
        _pubsub(lambda p: p.create_subscription("s", "t", {})),
    ),
    (
        {"name": "s"},
        _pubsub(lambda p: p.patch_subscription("s", {"a": 1})),
    ),
    ({}, _pubsub(lambda p: p.delete_subscription("projects/p/subscriptions/s"))),
    ({}, _pubsub(lambda p: p.delete_topic("projects/p/topics/t"))),
    ({"bindings": []}, _pubsub(lambda p: p.set_iam_policy("projects/p/topics/t", {}))),
    ({"permissions": ["x"]}, _pubsub(lambda p: p.test_iam_permissions("projects/p/topics/t", []))),
    ({"responses": [{}]}, _broker(lambda m: m.add_machines([MACHINE]))),
    ({"machine_deletion_request": ENTRY}, _broker(lambda m: m.delete_machine("h"))),
    (ENTRY, _broker(lambda m: m.get("h"))),
    (
        {"state": "FULFILLED", "lease_expiration_ts": "5"},
        _broker(lambda m: m.lease(LeaseRequest(request_id="r", dimensions={}))),
    ),
    ({"client_request_id": "r"}, _broker(lambda m: m.release("r"))),
    ({"revision": "r", "content_hash": "v1:0", "content": "YQ=="}, _config(LuciConfigV1)),
    (
        {"revision": "r", "contentSha256": "0", "rawContent": "YQ==", "signedUrl": ""},
        _config(LuciConfigV2),
    ),
    ({"permissions": ["x"]}, _granted),
    ({"error": "no", "similar": ["a"]}, lambda s, _: DaemonApi(s, ROOT, None).get("/api/explain")),
    ({"access_token": "t", "expires_in": 3600}, lambda _, tokens: tokens.get()),
    ("project", lambda _, tokens: tokens.project()),
]

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            10**400,
            -1,
            2**64,
            "9" * 400,
            "99999999-01-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "https://[x/",
            "//projects",
            "NOT_FINISHED",
            "\ud800",
            [],
            {},
            [[]],
            [None],
            {"a": 1},
        ]
    ),
)
HEADERS = st.fixed_dictionaries(
    {"Content-Type": st.sampled_from(["application/json"] * 4 + ["text/html", ""])},
    optional={
        "Retry-After": st.one_of(
            st.text(max_size=30),
            st.sampled_from(
                ["9" * 400, "nan", "inf", "-1", "Fri, 31 Dec 99999999 23:59:59 GMT", "1e9"]
            ),
        ),
        "X-Prpc-Grpc-Code": st.sampled_from(["0", "5", "x"]),
        "Metadata-Flavor": st.just("Google"),
    },
)
STATUSES = st.sampled_from([200] * 8 + [201, 204, 302, 400, 401, 403, 404, 408, 409, 412, 429, 500])


@given(
    st.sampled_from(range(len(CALLS))),
    st.randoms(use_true_random=False),
    ODD,
    st.sampled_from(["one"] * 6 + ["error", "cut", "deep", "bytes"]),
    STATUSES,
    HEADERS,
    st.binary(max_size=20),
)
@settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
def test_line_03_no_answer_makes_a_client_raise_a_foreign_exception(
    index: int,
    chance: Random,
    odd: Any,
    how: str,
    status: int,
    headers: dict[str, str],
    noise: bytes,
) -> None:
    """Line 3: wrong types, deep nesting, huge numbers, halves, odd statuses and headers."""
    good, _ = CALLS[index]
    answer = mutated(good, chance, odd)
    if how == "error":
        details = [{"reason": odd}]
        answer = {"error": {"code": status, "status": odd, "message": odd, "errors": details}}
    body = json.dumps(answer).encode()
    if how == "cut":
        body = body[: chance.randrange(len(body) + 1)]
    elif how == "deep":
        body = body.replace(b'"', b"[" * 5000 + b'"', 1)
    elif how == "bytes":
        body += noise
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(errors_of(index, Peer(status, headers, body)))


async def errors_of(index: int, peer: Any) -> list[BackendError]:
    """Makes a call to a peer, and returns the errors of this project that it ends with."""
    _, call = CALLS[index]
    peer.good_tokens = index < len(CALLS) - 2
    tokens = TokenSource(peer, metadata_root=ROOT, scopes=["s"], metadata_only=True)
    try:
        async with asyncio.timeout(LONGEST_CALL):
            found = await call(peer, tokens)
    except BackendError as error:
        return [error]
    finally:
        await tokens.close()
    each = found if isinstance(found, list) else []  # machines that are added fail one by one
    return [one.failure for one in each if isinstance(one, Addition) and one.failure is not None]


def with_text_everywhere(value: Any, text: str) -> Any:
    """A JSON value with another text in the place of each of its texts."""
    if isinstance(value, dict):
        return {key: with_text_everywhere(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_text_everywhere(inner, text) for inner in value]
    return text if isinstance(value, str) else value


def answer_of(good: object, how: str) -> bytes:
    """A good answer, spoiled in a way that can be named."""
    whole = json.dumps(good)
    texts = {"NUL": "\0", "surrogate": "\ud800", "long": "x" * 20_000, "digits": "9" * 5000}
    plain = {
        "nothing": b"",
        "null": b"null",
        "a text": b'"text"',
        "half": whole[: len(whole) // 2].encode(),
        "twice": (whole * 2).encode(),
        "UTF-16": whole.encode("utf-16"),
        "a mark of byte order": b"\xef\xbb\xbf" + whole.encode(),
        "HTML": b"<!doctype html><title>502</title>",
        "deep lists": b"[" * 10_000,
        "deep objects": b'{"a":' * 10_000,
        "deep within": whole.replace('"', "[" * 5000 + '"', 1).encode(),
        "NaN": re.sub(r'"[^"]*"(?=[,}\]])', "NaN", whole).encode(),
        "1e999": re.sub(r'"[^"]*"(?=[,}\]])', "1e999", whole).encode(),
        "many keys": json.dumps({f"k{n}": n for n in range(2000)}).encode(),
        "many values": b"[" + b"{}," * 5000 + b"{}]",
    }
    if how in texts:
        return json.dumps(with_text_everywhere(good, texts[how])).encode()
    return plain[how]


ATTACKS = (
    *("NUL", "surrogate", "long", "digits", "nothing", "null", "a text", "half", "twice"),
    *("UTF-16", "a mark of byte order", "HTML", "deep lists", "deep objects", "deep within"),
    *("NaN", "1e999", "many keys", "many values"),
)
TOLD = ("NUL", "long", "deep within")
"""Those that are also tried in the answer of a refusal."""
LONGEST_ERROR = 3000
"""Characters of an error's text: what the peer says, and where."""


@pytest.mark.parametrize("how", ATTACKS)
async def test_line_03_and_06_no_answer_of_any_method_is_more_than_an_error(how: str) -> None:
    """Whether it is called a success or a failure; the error quotes little of it."""
    for index, (good, _) in enumerate(CALLS):
        body = answer_of(good, how)
        for status in (200, 400) if how in TOLD else (200,):
            for error in await errors_of(index, Peer(status, {"Content-Type": "text/html"}, body)):
                assert len(str(error)) < LONGEST_ERROR, (index, status)


@pytest.mark.parametrize(
    "asked",
    ["999999999", "9" * 400, "1e400", "inf", "nan", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "\0²"],
)
async def test_line_01_no_method_waits_longer_than_five_minutes_for_a_peer(asked: str) -> None:
    """Whichever client, and whichever status asks for the wait."""
    for index in range(len(CALLS)):
        for status in (429, 503):
            errors = await errors_of(index, Peer(status, {"Retry-After": asked}, b"{}"))
            assert errors, index
            for error in errors:
                assert (error.retry_after or 0.0) <= MAX_RETRY_AFTER_SECONDS, (index, status)
