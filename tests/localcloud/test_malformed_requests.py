"""Whatever is wrong with a request to Datastore or Pub/Sub is the caller's fault, not a 500."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from localcloud.datastore_world import ROOT, array, entity, key, named, number, text, where
from support.cloud_harness import Running, running
from support.referee import Referee

TOPIC = ROOT + "/topics/machines"
SUBSCRIPTION = ROOT + "/subscriptions/daemon"
JUNK: list[Any] = [True, -1, 2**63, 0.5, "x", "", [], [1], [[]], {}, {"x": {}}]

POINT = {"geoPointValue": {"latitude": 1.5, "longitude": 2}}
RICH = entity(
    "P",
    "a",
    "K",
    "b",
    n=number(1),
    when={"timestampValue": "2026-01-01T00:00:00Z"},
    blob={"blobValue": "YQ=="},
    none={"nullValue": None},
    point=POINT,
    half={"doubleValue": 0.5},
    yes={"booleanValue": True},
    key={"keyValue": key("K", "x")},
    inner={"entityValue": {"properties": {"x": text("x", excludeFromIndexes=True)}}},
    many=array(number(1), text("x")),
)
FILTER = {
    "compositeFilter": {
        "op": "OR",
        "filters": [
            where("n", "EQUAL", number(1)),
            where("n", "IN", array(number(1))),
            where("n", "LESS_THAN", POINT),
            where("__key__", "HAS_ANCESTOR", {"keyValue": key("P", "a")}),
        ],
    }
}
QUERY = {
    "kind": [{"name": "K"}],
    "filter": FILTER,
    "order": [{**named("n"), "direction": "DESCENDING"}],
    "projection": [named("n")],
    "distinctOn": [{"name": "n"}],
    "limit": 1,
    "offset": 1,
    "startCursor": "W10=",
    "endCursor": "W10=",
}
READ = {"readOptions": {"newTransaction": {"readWrite": {"previousTransaction": "eA=="}}}}
MUTATION = {
    "upsert": RICH,
    "baseVersion": "1",
    "conflictResolutionStrategy": "FAIL",
    "propertyMask": {"paths": ["n", "inner.x"]},
}
POLICY = {"version": 1, "bindings": [{"role": "r", "members": ["m"]}], "etag": "eA=="}
SUBSCRIBED = {
    "topic": TOPIC[4:],
    "ackDeadlineSeconds": 10,
    "messageRetentionDuration": "600s",
    "expirationPolicy": {"ttl": "86400s"},
    "deadLetterPolicy": {"deadLetterTopic": TOPIC[4:], "maxDeliveryAttempts": 5},
    "retryPolicy": {"minimumBackoff": "1s", "maximumBackoff": "2s"},
    "filter": "attributes:a",
    "labels": {"a": "b"},
}
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", ROOT + ":lookup", {"keys": [key("K", "a")], "propertyMask": {"paths": ["n"]}, **READ}),
    ("POST", ROOT + ":runQuery", {"query": QUERY, "partitionId": {"namespaceId": "n"}, **READ}),
    ("POST", ROOT + ":runQuery", {"query": {"startCursor": "W10="}}),
    (
        "POST",
        ROOT + ":runAggregationQuery",
        {
            "aggregationQuery": {
                "nestedQuery": {"kind": [{"name": "K"}]},
                "aggregations": [{"alias": "a", "count": {"upTo": "1"}}, {"sum": named("n")}],
            }
        },
    ),
    ("POST", ROOT + ":beginTransaction", {"transactionOptions": {"readOnly": {}}}),
    ("POST", ROOT + ":commit", {"singleUseTransaction": {}, "mutations": [MUTATION]}),
    (
        "POST",
        ROOT + ":commit",
        {"mode": "NON_TRANSACTIONAL", "mutations": [{"delete": key("K", "a")}]},
    ),
    ("POST", ROOT + ":rollback", {"transaction": "eA=="}),
    ("POST", ROOT + ":allocateIds", {"keys": [{"path": [{"kind": "K"}]}]}),
    ("POST", ROOT + ":reserveIds", {"keys": [{"path": [{"kind": "K", "id": "5"}]}]}),
    ("PUT", ROOT + "/topics/other", {"labels": {"a": "b"}, "messageRetentionDuration": "600s"}),
    ("PATCH", TOPIC, {"topic": {"labels": {}}, "updateMask": "labels"}),
    (
        "POST",
        TOPIC + ":publish",
        {"messages": [{"data": "YQ==", "attributes": {"a": "b"}, "orderingKey": "k"}]},
    ),
    ("POST", TOPIC + ":setIamPolicy", {"policy": POLICY}),
    ("POST", TOPIC + ":testIamPermissions", {"permissions": ["pubsub.topics.publish"]}),
    ("PUT", ROOT + "/subscriptions/other", SUBSCRIBED),
    ("PATCH", SUBSCRIPTION, {"subscription": SUBSCRIBED, "updateMask": "ackDeadlineSeconds"}),
    ("PATCH", SUBSCRIPTION, {"subscription": SUBSCRIBED, "updateMask": "retryPolicy,labels"}),
    ("POST", SUBSCRIPTION + ":pull", {"maxMessages": 1, "returnImmediately": True}),
    ("POST", SUBSCRIPTION + ":acknowledge", {"ackIds": ["1-1"]}),
    (
        "POST",
        SUBSCRIPTION + ":modifyAckDeadline",
        {"ackIds": ["1-1"], "ackDeadlineSeconds": 10},
    ),
    ("POST", SUBSCRIPTION + ":modifyPushConfig", {"pushConfig": {}}),
    ("POST", SUBSCRIPTION + ":seek", {"time": "2026-01-01T00:00:00Z"}),
]


def spoiled(body: Any) -> Iterator[Any]:
    """A request with each of its parts in turn left out, added to, or replaced by any junk."""
    for path in list(paths(body)):
        for junk in JUNK:
            wrong = copy.deepcopy(body)
            at(wrong, path[:-1])[path[-1]] = junk
            yield wrong
        if isinstance(at(body, path), dict):
            wrong = copy.deepcopy(body)
            at(wrong, path)["unheardOf"] = "x"
            yield wrong
        wrong = copy.deepcopy(body)
        del at(wrong, path[:-1])[path[-1]]
        yield wrong


def paths(part: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where all parts of a JSON value are."""
    items = part.items() if isinstance(part, dict) else enumerate(part)
    for name, inner in items:
        yield (*before, name)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*before, name))


def at(part: Any, path: tuple[Any, ...]) -> Any:
    """The part at a path."""
    for name in path:
        part = part[name]
    return part


async def prepare(run: Running) -> None:
    """Makes what the requests are about."""
    await run.ok("PUT", TOPIC, {})
    await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:]})
    plain = {name: value for name, value in MUTATION.items() if name == "upsert"}
    commit = {"mode": "NON_TRANSACTIONAL", "mutations": [plain]}
    await run.ok("POST", ROOT + ":commit", commit)


@pytest.mark.parametrize(
    ("verb", "path", "body"), REQUESTS, ids=[path[len(ROOT) :] for _, path, _ in REQUESTS]
)
async def test_malformed_requests_get_a_4xx(verb: str, path: str, body: dict[str, Any]) -> None:
    """Any part of any request, replaced by anything: what is not as Google describes it is refused.

    The referee of all tests sees to the second half: it minds what was answered with 200.
    """
    refused = 0
    async with running() as run:
        await prepare(run)
        for wrong in spoiled(body):
            if path.endswith(":pull"):
                wrong["returnImmediately"] = True
            status, answer = await run.call(verb, path, wrong)
            assert status < 500, (wrong, answer)
            if status != 200:
                refused += 1
                assert answer["error"]["status"]
                assert answer["error"]["message"]
    assert refused


async def test_json_that_is_called_a_form_is_json() -> None:
    """So `curl -d` and Python's urllib send it where nobody names its kind; services take it."""
    async with running() as run:
        await prepare(run)
        headers = run.authorization | {"Content-Type": "application/x-www-form-urlencoded"}
        async with run.session.post(
            run.url + ROOT + ":runQuery",
            data='{"query": {"kind": [{"name": "K"}]}}',
            headers=headers,
        ) as response:
            assert response.status == 200
            assert len((await response.json())["batch"]["entityResults"]) == 1


async def test_null_means_not_set(referee: Referee) -> None:
    """As everywhere in protobuf's JSON, though the description of the APIs does not say so."""
    referee.expect(": None is no ")
    async with running() as run:
        await prepare(run)
        query = {"kind": [{"name": "K"}], "filter": None, "limit": None, "order": None}
        body = {"query": query, "partitionId": None, "readOptions": None}
        found = await run.ok("POST", ROOT + ":runQuery", body)
        assert len(found["batch"]["entityResults"]) == 1
        changed = {"subscription": {"labels": None}, "updateMask": "labels"}
        assert "labels" not in await run.ok("PATCH", SUBSCRIPTION, changed)
