"""The embedded Pub/Sub, driven over HTTP."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloud_harness import Running, running

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
            assert item["deliveryAttempt"] == attempt
            await asyncio.sleep(11)
        assert await pull(run) == []
        (item,) = await pull(run, subscription=grave)
        assert texts([item]) == ["poison"]
        attributes = item["message"]["attributes"]
        assert attributes["CloudPubSubDeadLetterSourceSubscription"] == "daemon"
        assert attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"


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
