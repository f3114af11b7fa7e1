"""The embedded Pub/Sub, driven over HTTP."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.cloud_harness import Running, running

ROOT = "/v1/projects/p"
TOPIC = ROOT + "/topics/machines"
SUBSCRIPTION = ROOT + "/subscriptions/daemon"


async def subscribed(run: Running, **more: Any) -> None:
    """Makes the topic and a subscription to it."""
    await run.ok("PUT", TOPIC, {})
    await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:], **more})


async def publish(run: Running, *texts: str, topic: str = TOPIC) -> list[str]:
    """Publishes texts; their ids."""
    messages = [{"data": base64.b64encode(text.encode()).decode()} for text in texts]
    answer = await run.ok("POST", topic + ":publish", {"messages": messages})
    ids: list[str] = answer["messageIds"]
    return ids


async def pull(run: Running, most: int = 10, subscription: str = SUBSCRIPTION) -> list[Any]:
    """What a pull gives at once."""
    body = {"maxMessages": most, "returnImmediately": True}
    answer = await run.ok("POST", subscription + ":pull", body)
    received: list[Any] = answer.get("receivedMessages", [])
    return received


def texts(received: list[Any]) -> list[str]:
    """The texts of received messages."""
    return [base64.b64decode(item["message"]["data"]).decode() for item in received]


async def acknowledge(run: Running, received: list[Any]) -> None:
    """Acknowledges what was received."""
    ids = [item["ackId"] for item in received]
    await run.ok("POST", SUBSCRIPTION + ":acknowledge", {"ackIds": ids})


async def test_published_messages_are_delivered_until_acknowledged() -> None:
    """Leased messages go to nobody else, acknowledged ones never come back."""
    async with running() as run:
        await subscribed(run)
        ids = await publish(run, "one", "two", "three")
        first = await pull(run, 2)
        assert texts(first) == ["one", "two"]
        assert [item["message"]["messageId"] for item in first] == ids[:2]
        assert texts(await pull(run)) == ["three"]
        await acknowledge(run, first)
        await asyncio.sleep(11)
        assert texts(await pull(run)) == ["three"]


async def test_messages_published_before_the_subscription_are_not_delivered() -> None:
    """A subscription begins empty."""
    async with running() as run:
        await run.ok("PUT", TOPIC, {})
        await publish(run, "early")
        await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:]})
        await publish(run, "late")
        assert texts(await pull(run)) == ["late"]


async def test_an_acknowledgement_after_the_deadline_is_ignored() -> None:
    """The message is delivered again, with another ack id."""
    async with running() as run:
        await subscribed(run, ackDeadlineSeconds=20)
        await publish(run, "one")
        first = await pull(run)
        await asyncio.sleep(19)
        assert await pull(run) == []
        await asyncio.sleep(2)
        await acknowledge(run, first)
        again = await pull(run)
        assert texts(again) == ["one"]
        assert again[0]["ackId"] != first[0]["ackId"]


async def test_a_deadline_can_be_extended_and_ended() -> None:
    """600 s keep a message away from others, 0 s gives it back at once."""
    async with running() as run:
        await subscribed(run)
        await publish(run, "one")
        (item,) = await pull(run)
        path = SUBSCRIPTION + ":modifyAckDeadline"
        await run.ok("POST", path, {"ackIds": [item["ackId"]], "ackDeadlineSeconds": 600})
        await asyncio.sleep(590)
        assert await pull(run) == []
        await run.ok("POST", path, {"ackIds": [item["ackId"]], "ackDeadlineSeconds": 0})
        assert texts(await pull(run)) == ["one"]
        too_long = {"ackIds": [item["ackId"]], "ackDeadlineSeconds": 601}
        assert await run.refused("POST", path, too_long) == (400, "INVALID_ARGUMENT")


async def test_a_pull_waits_for_the_first_message() -> None:
    """It returns when one is published, and without any after a while."""
    async with running() as run:
        await subscribed(run)
        clock = run.cloud.clock
        started = clock.monotonic()
        waiting = asyncio.create_task(
            run.ok("POST", SUBSCRIPTION + ":pull", {"maxMessages": 5}), name="pull"
        )
        await asyncio.sleep(3)
        await publish(run, "one")
        assert texts((await waiting)["receivedMessages"]) == ["one"]
        assert clock.monotonic() - started < 4
        started = clock.monotonic()
        again = await run.ok("POST", SUBSCRIPTION + ":pull", {"maxMessages": 5})
        assert texts(again["receivedMessages"]) == ["one"]
        assert 5 < clock.monotonic() - started < 11
        await acknowledge(run, again["receivedMessages"])
        started = clock.monotonic()
        assert await run.ok("POST", SUBSCRIPTION + ":pull", {"maxMessages": 5}) == {}
        assert 19 < clock.monotonic() - started < 21


async def test_waiting_pulls_end_at_shutdown_and_with_their_subscription() -> None:
    """Neither waits for the end of its patience."""
    async with running() as run:
        await subscribed(run)
        body = {"maxMessages": 1}
        first = asyncio.create_task(run.call("POST", SUBSCRIPTION + ":pull", body), name="first")
        await asyncio.sleep(1)
        await run.ok("DELETE", SUBSCRIPTION)
        assert (await first)[0] == 404
        await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:]})
        second = asyncio.create_task(run.call("POST", SUBSCRIPTION + ":pull", body), name="second")
        await asyncio.sleep(1)
        await run.cloud.close()
        assert await second == (200, {})
        assert run.cloud.clock.monotonic() < 5


async def test_messages_stay_when_the_waiting_client_has_gone() -> None:
    """A pull whose connection is closed takes nothing."""
    async with running() as run:
        await subscribed(run)
        with pytest.raises(TimeoutError):
            async with run.session.post(
                run.url + SUBSCRIPTION + ":pull",
                json={"maxMessages": 5},
                headers=run.authorization,
                timeout=aiohttp.ClientTimeout(total=2),
            ):
                pass
        await asyncio.sleep(1)
        await publish(run, "one")
        (item,) = await pull(run)
        assert item["ackId"].endswith("-1")


async def test_undeliverable_messages_go_to_the_dead_letter_topic() -> None:
    """After the allowed number of attempts, with attributes that say where they come from."""
    async with running() as run:
        dead = ROOT + "/topics/dead-letters"
        grave = ROOT + "/subscriptions/grave"
        await run.ok("PUT", dead, {})
        await run.ok("PUT", grave, {"topic": dead[4:]})
        policy = {"deadLetterTopic": dead[4:], "maxDeliveryAttempts": 5}
        await subscribed(run, deadLetterPolicy=policy)
        await publish(run, "poison")
        for attempt in range(1, 6):
            (item,) = await pull(run)
            published = item["message"]["publishTime"]
            assert item["deliveryAttempt"] == attempt
            await asyncio.sleep(11)
        assert await pull(run) == []
        (item,) = await pull(run, subscription=grave)
        assert texts([item]) == ["poison"]
        attributes = item["message"]["attributes"]
        assert attributes["CloudPubSubDeadLetterSourceSubscription"] == "daemon"
        assert attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
        assert attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] == "p"
        assert attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] == published


async def nack(run: Running, received: list[Any]) -> None:
    """Gives back what was received."""
    ids = [item["ackId"] for item in received]
    body = {"ackIds": ids, "ackDeadlineSeconds": 0}
    await run.ok("POST", SUBSCRIPTION + ":modifyAckDeadline", body)


async def test_refusals_count_as_attempts_too() -> None:
    """A message that was given back often enough is a dead letter; without a policy it never is."""
    async with running() as run:
        dead = ROOT + "/topics/dead-letters"
        await run.ok("PUT", dead, {})
        await subscribed(run)
        await publish(run, "poison")
        for _ in range(9):
            received = await pull(run)
            assert "deliveryAttempt" not in received[0]
            await nack(run, received)
        policy = {"subscription": {"deadLetterPolicy": {"deadLetterTopic": dead[4:]}}}
        await run.ok("PATCH", SUBSCRIPTION, {**policy, "updateMask": "deadLetterPolicy"})
        found = await run.ok("GET", SUBSCRIPTION)
        assert found["deadLetterPolicy"]["maxDeliveryAttempts"] == 5
        await nack(run, await pull(run))
        assert await pull(run) == []
        assert run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]["unacknowledged"] == 0


async def test_a_dead_letter_topic_must_exist() -> None:
    """When a subscription is made, and when it is changed."""
    async with running() as run:
        await run.ok("PUT", TOPIC, {})
        policy = {"deadLetterPolicy": {"deadLetterTopic": "projects/p/topics/none"}}
        body = {"topic": TOPIC[4:], **policy}
        assert await run.refused("PUT", SUBSCRIPTION, body) == (404, "NOT_FOUND")
        await run.ok("PUT", SUBSCRIPTION, {"topic": TOPIC[4:]})
        body = {"subscription": policy, "updateMask": "deadLetterPolicy"}
        assert await run.refused("PATCH", SUBSCRIPTION, body) == (404, "NOT_FOUND")
        assert "deadLetterPolicy" not in await run.ok("GET", SUBSCRIPTION)


async def test_messages_rest_longer_after_each_vain_delivery() -> None:
    """As the retry policy says, from its minimum to its maximum."""
    async with running() as run:
        policy = {"minimumBackoff": "20s", "maximumBackoff": "60s"}
        await subscribed(run, retryPolicy=policy)
        await publish(run, "one", "two")
        clock = run.cloud.clock
        rests = []
        for _ in range(4):
            received = await pull(run)
            assert texts(received) == ["one", "two"]
            started = clock.monotonic()
            await nack(run, received)
            await acknowledge(run, received)
            while True:
                answer = await run.ok("POST", SUBSCRIPTION + ":pull", {"maxMessages": 10})
                if answer:
                    break
            rests.append(round(clock.monotonic() - started))
            await nack(run, answer["receivedMessages"])
            await asyncio.sleep(120)
        assert rests == [20, 60, 60, 60]


async def test_resting_messages_survive_a_restart(tmp_path: Path) -> None:
    """They come when their rest is over, not before."""
    async with running(tmp_path / "state") as run:
        await subscribed(run, retryPolicy={"minimumBackoff": "100s"})
        await publish(run, "one")
        await nack(run, await pull(run))
        left = run.cloud.clock.now() + 100
    async with running(tmp_path / "state") as run:
        await asyncio.sleep(left - run.cloud.clock.now() - 1)
        assert await pull(run) == []
        await asyncio.sleep(2)
        assert texts(await pull(run)) == ["one"]


async def seek(run: Running, moment: float) -> None:
    """Seeks the subscription to a Unix time."""
    text = datetime.fromtimestamp(moment, UTC).isoformat()
    await run.ok("POST", SUBSCRIPTION + ":seek", {"time": text})


async def test_acknowledged_messages_can_be_sought_again() -> None:
    """When the subscription retains them, and no longer than that."""
    async with running() as run:
        await subscribed(run, retainAckedMessages=True, messageRetentionDuration="1000s")
        clock = run.cloud.clock
        await publish(run, "old")
        await asyncio.sleep(500)
        await publish(run, "one")
        between = clock.now() + 5
        await asyncio.sleep(10)
        await publish(run, "two")
        received = await pull(run)
        assert texts(received) == ["old", "one", "two"]
        await acknowledge(run, received)
        assert await pull(run) == []
        assert run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]["unacknowledged"] == 0
        await seek(run, between)
        received = await pull(run)
        assert texts(received) == ["two"]
        await asyncio.sleep(600)
        await seek(run, 0)
        assert texts(await pull(run)) == ["one", "two"]


async def test_seeking_forward_empties_a_subscription() -> None:
    """What is waiting and what is leased; and without retention nothing comes back."""
    async with running() as run:
        await subscribed(run)
        await publish(run, "leased", "waiting")
        leased = await pull(run, 1)
        await asyncio.sleep(1)
        await seek(run, run.cloud.clock.now())
        await acknowledge(run, leased)
        assert await pull(run) == []
        await seek(run, 0)
        assert await pull(run) == []
        await publish(run, "new")
        assert texts(await pull(run)) == ["new"]


async def test_what_was_sought_is_kept_over_a_restart(tmp_path: Path) -> None:
    """Acknowledged messages stay acknowledged, and can still be sought."""
    async with running(tmp_path / "state") as run:
        await subscribed(run, retainAckedMessages=True)
        await publish(run, "one", "two")
        await acknowledge(run, await pull(run, 1))
    async with running(tmp_path / "state") as run:
        state = run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]
        assert (state["unacknowledged"], state["waiting"]) == (1, 1)
        assert texts(await pull(run)) == ["two"]
        await seek(run, 0)
        assert texts(await pull(run)) == ["one"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", ["lease", "reclaim", "bare"]),
        ("attributes:kind", ["lease", "reclaim"]),
        ("NOT attributes:kind", ["bare"]),
        ("-attributes:kind", ["bare"]),
        ('attributes.kind = "LEASED"', ["lease"]),
        ('attributes.kind != "LEASED"', ["reclaim"]),
        ('hasPrefix(attributes.host, "vm-")', ["lease", "reclaim"]),
        ('attributes."kind" = "LEASED" OR attributes:zone', ["lease", "reclaim"]),
        ('attributes:host AND NOT (attributes:zone OR attributes.kind = "X")', ["lease"]),
    ],
)
async def test_filters_let_some_messages_pass(rule: str, expected: list[str]) -> None:
    """The others count as acknowledged."""
    async with running() as run:
        await subscribed(run, filter=rule)
        attributes = {
            "lease": {"kind": "LEASED", "host": "vm-1"},
            "reclaim": {"kind": "RECLAIMED", "host": "vm-2", "zone": "z"},
            "bare": {"other": ""},
        }
        messages = [
            {"data": base64.b64encode(name.encode()).decode(), "attributes": found}
            for name, found in attributes.items()
        ]
        await run.ok("POST", TOPIC + ":publish", {"messages": messages})
        assert texts(await pull(run)) == expected
        state = run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]
        assert state["unacknowledged"] == len(expected)


async def test_a_detached_subscription_gets_nothing() -> None:
    """Its messages go, new ones do not come, and pulls are refused."""
    async with running() as run:
        await subscribed(run)
        await publish(run, "one")
        (item,) = (await run.ok("GET", TOPIC + "/subscriptions"))["subscriptions"]
        assert item == SUBSCRIPTION[4:]
        await run.ok("POST", SUBSCRIPTION + ":detach", {})
        assert (await run.ok("GET", SUBSCRIPTION))["detached"]
        assert await run.ok("GET", TOPIC + "/subscriptions") == {"subscriptions": []}
        await publish(run, "two")
        body = {"maxMessages": 1}
        refused = await run.refused("POST", SUBSCRIPTION + ":pull", body)
        assert refused == (400, "FAILED_PRECONDITION")
        assert run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]["unacknowledged"] == 0


async def test_a_waiting_pull_ends_when_its_subscription_is_detached() -> None:
    """It is refused like any later one."""
    async with running() as run:
        await subscribed(run)
        waiting = asyncio.create_task(
            run.refused("POST", SUBSCRIPTION + ":pull", {"maxMessages": 1}), name="pull"
        )
        await asyncio.sleep(1)
        await run.ok("POST", SUBSCRIPTION + ":detach", {})
        assert await waiting == (400, "FAILED_PRECONDITION")
        assert run.cloud.clock.monotonic() < 5


async def test_topics_can_be_patched() -> None:
    """Only what the mask names changes; subscriptions show how long the topic keeps messages."""
    async with running() as run:
        await subscribed(run)
        changes = {"messageRetentionDuration": "600s", "labels": {"a": "b"}}
        body = {"topic": changes, "updateMask": "messageRetentionDuration"}
        await run.ok("PATCH", TOPIC, body)
        found = await run.ok("GET", TOPIC)
        assert found["messageRetentionDuration"] == "600s"
        assert "labels" not in found
        assert (await run.ok("GET", SUBSCRIPTION))["topicMessageRetentionDuration"] == "600s"
        short = {"topic": {"messageRetentionDuration": "1s"}, "updateMask": body["updateMask"]}
        for wrong in (short, {**body, "updateMask": "name"}, {**body, "updateMask": ""}):
            assert await run.refused("PATCH", TOPIC, wrong) == (400, "INVALID_ARGUMENT")


async def test_ordering_keys_are_accepted_and_promise_nothing() -> None:
    """They come with their messages; one publish has one key."""
    async with running() as run:
        await subscribed(run)
        keyed = {"data": "YQ==", "orderingKey": "k"}
        await run.ok("POST", TOPIC + ":publish", {"messages": [keyed]})
        (item,) = await pull(run)
        assert item["message"]["orderingKey"] == "k"
        mixed = {"messages": [keyed, {"data": "YQ=="}]}
        assert await run.refused("POST", TOPIC + ":publish", mixed) == (400, "INVALID_ARGUMENT")


async def test_what_is_not_there_says_so() -> None:
    """Push delivery and snapshots: lists are empty, and what would make them is refused."""
    async with running() as run:
        await subscribed(run)
        assert await run.ok("GET", ROOT + "/snapshots") == {}
        assert await run.ok("GET", TOPIC + "/snapshots") == {}
        made = await run.refused("PUT", ROOT + "/snapshots/one", {"subscription": SUBSCRIPTION[4:]})
        assert made == (501, "UNIMPLEMENTED")
        wanted = {"snapshot": "projects/p/snapshots/one"}
        assert await run.refused("POST", SUBSCRIPTION + ":seek", wanted) == (404, "NOT_FOUND")
        push = SUBSCRIPTION + ":modifyPushConfig"
        await run.ok("POST", push, {"pushConfig": {}})
        pushed = {"pushConfig": {"pushEndpoint": "https://example.com"}}
        assert await run.refused("POST", push, pushed) == (400, "INVALID_ARGUMENT")


async def test_using_a_subscription_keeps_it_alive() -> None:
    """Any call on it does, not only pulls."""
    async with running() as run:
        await subscribed(run)
        for _ in range(3):
            await asyncio.sleep(20 * 86_400)
            await run.authenticate()
            await run.ok("POST", SUBSCRIPTION + ":acknowledge", {"ackIds": ["1-1"]})
        await run.ok("GET", SUBSCRIPTION)


async def test_a_large_acknowledgement_is_refused() -> None:
    """512 KiB is the most for a list of ack ids."""
    async with running() as run:
        await subscribed(run)
        body = {"ackIds": ["1000000000000001-1"] * 30_000}
        for method in ("acknowledge", "modifyAckDeadline"):
            refused = await run.refused("POST", f"{SUBSCRIPTION}:{method}", body)
            assert refused == (400, "INVALID_ARGUMENT")


async def test_messages_and_leases_survive_a_restart(tmp_path: Path) -> None:
    """What was not acknowledged is there again, and an ack id from before still counts."""
    async with running(tmp_path / "state") as run:
        await subscribed(run, ackDeadlineSeconds=600)
        await publish(run, "leased", "waiting")
        leased = await pull(run, 1)
    async with running(tmp_path / "state") as run:
        assert texts(await pull(run)) == ["waiting"]
        await acknowledge(run, leased)
        assert run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]["unacknowledged"] == 1


async def test_old_messages_and_idle_subscriptions_go() -> None:
    """Messages after their retention, subscriptions after 31 days without a pull unless unset."""
    async with running() as run:
        await subscribed(run, messageRetentionDuration="600s")
        other = ROOT + "/subscriptions/keeps"
        await run.ok("PUT", other, {"topic": TOPIC[4:], "expirationPolicy": {}})
        await publish(run, "one")
        await asyncio.sleep(601)
        assert await pull(run) == []
        await asyncio.sleep(31 * 86_400 + 1)
        await run.authenticate()
        assert await run.refused("GET", SUBSCRIPTION) == (404, "NOT_FOUND")
        await run.ok("GET", other)


async def test_a_subscription_outlives_its_topic() -> None:
    """It then names the deleted topic, and gets nothing from a new one of the same name."""
    async with running() as run:
        await subscribed(run)
        await publish(run, "one")
        await run.ok("DELETE", TOPIC)
        assert (await run.ok("GET", SUBSCRIPTION))["topic"] == "_deleted-topic_"
        await run.ok("PUT", TOPIC, {})
        await publish(run, "two")
        assert texts(await pull(run)) == ["one"]


async def test_missing_and_existing_resources_are_told() -> None:
    """404 NOT_FOUND and 409 ALREADY_EXISTS, as Google answers them."""
    async with running() as run:
        message = {"messages": [{"data": "YQ=="}]}
        assert await run.refused("POST", TOPIC + ":publish", message) == (404, "NOT_FOUND")
        topic = {"topic": TOPIC[4:]}
        assert await run.refused("PUT", SUBSCRIPTION, topic) == (404, "NOT_FOUND")
        pulling = {"maxMessages": 1}
        assert await run.refused("POST", SUBSCRIPTION + ":pull", pulling) == (404, "NOT_FOUND")
        await subscribed(run)
        assert await run.refused("PUT", TOPIC, {}) == (409, "ALREADY_EXISTS")
        assert await run.refused("PUT", SUBSCRIPTION, topic) == (409, "ALREADY_EXISTS")
        for path in (SUBSCRIPTION, TOPIC):
            await run.ok("DELETE", path)
            assert await run.refused("DELETE", path) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{}]},
        {"messages": [{"data": "not base64!"}]},
        {"messages": [{"data": "YQ==", "attributes": {"a": 1}}]},
        {"messages": [{"data": "YQ==", "attributes": {"goog-a": "b"}}]},
        {"messages": [{"data": "YQ==", "attributes": {"": "b"}}]},
        {"messages": [{"data": "YQ==", "attributes": {"a" * 257: "b"}}]},
        {"messages": [{"data": "YQ==", "attributes": {"a": "b" * 1025}}]},
        {"messages": [{"data": "YQ==", "attributes": {str(n): "" for n in range(101)}}]},
        {"messages": [{"data": "YQ==", "orderingKey": "k" * 1025}]},
        {"messages": [{"data": "YQ=="}] * 1001},
        {"messages": [{"data": "QUFB" * 900_000}] * 3},
    ],
)
async def test_publish_keeps_the_rules(body: dict[str, Any]) -> None:
    """Nothing of a bad request is published."""
    async with running() as run:
        await subscribed(run)
        assert await run.refused("POST", TOPIC + ":publish", body) == (400, "INVALID_ARGUMENT")
        assert await pull(run) == []


@pytest.mark.parametrize(
    "body",
    [
        {"ackDeadlineSeconds": 601},
        {"ackDeadlineSeconds": 9},
        {"messageRetentionDuration": "1s"},
        {"expirationPolicy": {"ttl": "1s"}},
        {"deadLetterPolicy": {"deadLetterTopic": TOPIC[4:], "maxDeliveryAttempts": 4}},
        {"pushConfig": {"pushEndpoint": "https://example.com"}},
        {"enableMessageOrdering": True},
        {"enableExactlyOnceDelivery": True},
        {"bigqueryConfig": {"table": "p.d.t"}},
        {"retryPolicy": {"minimumBackoff": "700s"}},
        {"retryPolicy": {"minimumBackoff": "20s", "maximumBackoff": "10s"}},
        {"filter": "attributes"},
        {"filter": "attributes:a AND attributes:b OR attributes:c"},
        {"filter": 'attributes.a = "b'},
        {"filter": "attributes.a = b"},
        {"filter": "a:b"},
        {"filter": "(attributes:a"},
        {"filter": "attributes:" + "a" * 256},
        {"topic": "machines"},
        {"labels": "none"},
    ],
)
async def test_subscriptions_keep_the_rules(body: dict[str, Any]) -> None:
    """Values out of range, and what is not supported, are refused."""
    async with running() as run:
        await run.ok("PUT", TOPIC, {})
        request = {"topic": TOPIC[4:], **body}
        assert await run.refused("PUT", SUBSCRIPTION, request) == (400, "INVALID_ARGUMENT")


async def test_subscriptions_can_be_patched() -> None:
    """Only what the mask names changes."""
    async with running() as run:
        await subscribed(run)
        changes = {"ackDeadlineSeconds": 60, "labels": {"a": "b"}}
        body = {"subscription": changes, "updateMask": "ackDeadlineSeconds"}
        await run.ok("PATCH", SUBSCRIPTION, body)
        found = await run.ok("GET", SUBSCRIPTION)
        assert found["ackDeadlineSeconds"] == 60
        assert "labels" not in found
        wrong = {"subscription": {"topic": "x"}, "updateMask": "topic"}
        assert await run.refused("PATCH", SUBSCRIPTION, wrong) == (400, "INVALID_ARGUMENT")


async def test_lists_are_paged() -> None:
    """Every topic of the project is on exactly one page."""
    async with running() as run:
        for number in range(5):
            await run.ok("PUT", f"{ROOT}/topics/topic-{number}", {})
        await run.ok("PUT", "/v1/projects/other/topics/topic-9", {})
        found, token = [], ""
        while True:
            page = await run.ok("GET", f"{ROOT}/topics?pageSize=2&pageToken={token}")
            found += [topic["name"].rpartition("/")[2] for topic in page["topics"]]
            token = page.get("nextPageToken", "")
            if not token:
                break
        assert found == [f"topic-{number}" for number in range(5)]


async def test_policies_are_kept_and_guarded_by_their_etag() -> None:
    """A change computed from an old policy is refused."""
    async with running() as run:
        await subscribed(run)
        for path in (TOPIC, SUBSCRIPTION):
            old = await run.ok("GET", path + ":getIamPolicy")
            binding = {"role": "roles/pubsub.publisher", "members": ["user:a@example.com"]}
            body = {"policy": {**old, "bindings": [binding]}}
            await run.ok("POST", path + ":setIamPolicy", body)
            assert (await run.ok("GET", path + ":getIamPolicy"))["bindings"] == [binding]
            assert await run.refused("POST", path + ":setIamPolicy", body) == (409, "ABORTED")
            wanted = {"permissions": ["pubsub.topics.publish"]}
            assert await run.ok("POST", path + ":testIamPermissions", wanted) == wanted
            assert await run.ok("POST", path + "-gone:testIamPermissions", wanted) == {}
            everything = {"permissions": ["pubsub.*"]}
            refused = await run.refused("POST", path + ":testIamPermissions", everything)
            assert refused == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "policy",
    [
        {"version": 2},
        {"bindings": {}},
        {"bindings": [{"role": "roles/x", "members": []}]},
        {"bindings": [{"role": "roles/x", "members": ["a"], "condition": {"expression": "x"}}]},
        "policy",
    ],
)
async def test_policies_keep_the_rules(policy: Any) -> None:
    """Conditions need version 3, bindings members."""
    async with running() as run:
        await subscribed(run)
        refused = await run.refused("POST", TOPIC + ":setIamPolicy", {"policy": policy})
        assert refused == (400, "INVALID_ARGUMENT")


async def test_ten_thousand_messages_are_delivered_once_each() -> None:
    """Published, pulled and acknowledged by the thousand."""
    async with running() as run:
        await subscribed(run)
        for thousand in range(10):
            await publish(run, *(f"{thousand}-{number}" for number in range(1000)))
        seen: set[str] = set()
        while received := await pull(run, 1000):
            seen.update(texts(received))
            await acknowledge(run, received)
        assert len(seen) == 10_000
        state = run.pubsub.state()["subscriptions"][SUBSCRIPTION[4:]]
        assert state["unacknowledged"] == 0
