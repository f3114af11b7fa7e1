"""What clients that we did not write send, byte for byte where it counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from localcloud.datastore_world import entity, fill, key, names, number, text
from support.cloud_harness import Running, running
from support.referee import Referee
from support.watch import BY_HAND

PROJECT = "/v1/projects/p"
TOPIC = PROJECT + "/topics/machines"
SUBSCRIPTION = PROJECT + "/subscriptions/daemon"


async def sent(run: Running, verb: str, path: str, raw: bytes, **more: str) -> tuple[int, Any]:
    """A request with exactly this body."""
    headers = {"Content-Type": "application/json", **run.authorization, **BY_HAND, **more}
    async with run.session.request(verb, run.url + path, data=raw, headers=headers) as response:
        return response.status, await response.json()


async def test_line_18_a_post_without_a_body_may_carry_an_empty_text(referee: Referee) -> None:
    """Google's client for Node sends `""` where a method takes no body."""
    referee.expect("request")
    async with running() as run:
        status, answer = await sent(run, "POST", PROJECT + ":beginTransaction", b'""')
        assert (status, bool(answer["transaction"])) == (200, True)
        assert (await sent(run, "POST", PROJECT + ":beginTransaction", b'"x"'))[0] == 400


DATA = b"\xfb\xff\xfe?>"
FORMS = [
    form
    for full in (base64.b64encode(DATA).decode(), base64.urlsafe_b64encode(DATA).decode())
    for form in (full, full.rstrip("="))
]


@pytest.mark.parametrize("form", FORMS)
async def test_line_18_every_form_of_base64_is_one_for_messages_and_blobs(form: str) -> None:
    """Either alphabet, padded or not; answers have the standard one."""
    async with running() as run:
        await run.ok("PUT", TOPIC, {})
        await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:]})
        await run.ok("POST", TOPIC + ":publish", {"messages": [{"data": form}]})
        body = {"maxMessages": 1, "returnImmediately": True}
        (received,) = (await run.ok("POST", SUBSCRIPTION + ":pull", body))["receivedMessages"]
        assert received["message"]["data"] == base64.b64encode(DATA).decode()
        blob = entity("K", "a", b={"blobValue": form})
        mutation = {"mode": "NON_TRANSACTIONAL", "mutations": [{"upsert": blob}]}
        await run.ok("POST", PROJECT + ":commit", mutation)


async def test_fields_of_today_that_are_empty_are_taken_and_others_are_refused_by_name() -> None:
    """Terraform and Ansible send `tags: {}`, Google's consoles `messageTransforms: []`."""
    async with running() as run:
        empty: dict[str, Any] = {"tags": {}, "messageTransforms": []}
        await run.ok("PUT", TOPIC, empty)
        await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:], **empty})
        for path in (TOPIC, SUBSCRIPTION):
            found = await run.ok("GET", path)
            assert not {"tags", "messageTransforms"} & found.keys()
        other = {"messageTransforms": [{"javascriptUdf": {"functionName": "f"}}]}
        status, answer = await run.call("PUT", PROJECT + "/topics/other", other)
        assert (status, "messageTransforms" in answer["error"]["message"]) == (400, True)


async def test_an_updates_mask_may_stand_in_the_query(referee: Referee) -> None:
    """Where Terraform and Ansible put it, with names of what is empty here."""
    referee.expect("updateMask: no such parameter")
    async with running() as run:
        await run.ok("PUT", TOPIC, {})
        await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:]})
        query = "?updateMask=cloudStorageConfig,ackDeadlineSeconds"
        change = {"subscription": {"topic": TOPIC[4:], "ackDeadlineSeconds": 90}}
        assert (await run.ok("PATCH", SUBSCRIPTION + query, change))["ackDeadlineSeconds"] == 90
        change = {"subscription": {"cloudStorageConfig": {"bucket": "b"}}}
        status, answer = await run.call("PATCH", SUBSCRIPTION + query, change)
        assert (status, "cloudStorageConfig" in answer["error"]["message"]) == (400, True)


async def test_line_18_original_field_names_and_the_numbers_of_enums_are_valid(
    referee: Referee,
) -> None:
    """Both are protobuf's JSON, which the discovery documents do not tell of."""
    referee.expect("request")
    async with running() as run:
        await fill(run)
        camel = {
            "query": {
                "kind": [{"name": "K"}],
                "filter": {
                    "compositeFilter": {
                        "op": "AND",
                        "filters": [
                            {
                                "propertyFilter": {
                                    "property": {"name": "n"},
                                    "op": "GREATER_THAN",
                                    "value": number(1),
                                }
                            }
                        ],
                    }
                },
                "order": [{"property": {"name": "n"}, "direction": "DESCENDING"}],
            }
        }
        old = json.dumps(camel)
        for word, name in (
            ("compositeFilter", "composite_filter"),
            ("propertyFilter", "property_filter"),
        ):
            old = old.replace(word, name)
        for word, enum in (("AND", 1), ("GREATER_THAN", 3), ("DESCENDING", 2)):
            old = old.replace(f'"{word}"', str(enum))
        expected = await run.ok("POST", PROJECT + ":runQuery", camel)
        status, answer = await sent(run, "POST", PROJECT + ":runQuery", old.encode())
        assert status == 200
        assert names(answer["batch"]) == names(expected["batch"])
        await run.ok("PUT", TOPIC, {"message_retention_duration": "600s"})
        body = {"topic": TOPIC[4:], "ack_deadline_seconds": 60, "retry_policy": {}}
        assert (await run.ok("PUT", SUBSCRIPTION, body))["ackDeadlineSeconds"] == 60
        change = {"subscription": {"ackDeadlineSeconds": 30}, "updateMask": "ack_deadline_seconds"}
        assert (await run.ok("PATCH", SUBSCRIPTION, change))["ackDeadlineSeconds"] == 30


async def test_distinct_results_need_no_projection() -> None:
    """The first entity of each value, in the order of the values."""
    async with running() as run:
        rows = [("a", 2), ("b", 1), ("c", 2), ("d", 1)]
        mutations = [{"upsert": entity("K", name, n=number(value))} for name, value in rows]
        await run.ok(
            "POST", PROJECT + ":commit", {"mode": "NON_TRANSACTIONAL", "mutations": mutations}
        )
        query = {"kind": [{"name": "K"}], "distinctOn": [{"name": "n"}]}
        batch = (await run.ok("POST", PROJECT + ":runQuery", {"query": query}))["batch"]
        assert names(batch) == ["b", "a"]
        assert batch["entityResults"][0]["entity"]["properties"] == {"n": {"integerValue": "1"}}
        assert batch["entityResultType"] == "FULL"


async def test_commits_and_values_have_the_limits_of_todays_page() -> None:
    """More than 500 mutations in a commit, and 1,048,487 bytes in a value without an index."""
    async with running() as run:
        mutations = [{"upsert": entity("K", f"m{index}")} for index in range(501)]
        body = {"mode": "NON_TRANSACTIONAL", "mutations": mutations}
        answer = await run.ok("POST", PROJECT + ":commit", body)
        assert len(answer["mutationResults"]) == 501
        long = entity("K", "a", t=text("x" * 1_048_487, excludeFromIndexes=True))
        body = {"mode": "NON_TRANSACTIONAL", "mutations": [{"upsert": long}]}
        await run.ok("POST", PROJECT + ":commit", body)


async def test_line_18_a_method_that_is_not_served_is_named_in_json_and_counted() -> None:
    """Within bounds, whatever is asked for."""
    async with running() as run:
        path = "/compute/v1/projects/p/zones/z/nodeGroups"
        status, answer = await run.call("GET", path)
        assert (status, answer["error"]["code"]) == (501, 501)
        assert answer["error"]["status"] == "UNIMPLEMENTED"
        assert f"GET {path}" in answer["error"]["message"]
        assert run.cloud.calls[f"unserved GET {path}"] == 1
        for index in range(150):
            await run.call("POST", f"/nowhere/{index}", {})
        assert run.cloud.calls["unserved"] == 151
        assert len(run.cloud.calls) < 110


async def test_clients_of_emulators_bring_no_token() -> None:
    """A cloud that wants none takes them for its own account; a wrong one stays wrong."""
    query = json.dumps({"keys": [key("K", "a")]}).encode()
    async with running(options=CloudOptions(authenticate=False)) as run:
        run.authorization = {}
        assert (await sent(run, "POST", PROJECT + ":lookup", query))[0] == 200
        wrong = {"Authorization": "Bearer owner"}
        assert (await sent(run, "POST", PROJECT + ":lookup", query, **wrong))[0] == 401
    async with running() as run:
        run.authorization = {}
        assert (await sent(run, "POST", PROJECT + ":lookup", query))[0] == 401
