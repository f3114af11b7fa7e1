"""The consumer against the embedded Pub/Sub, and against one that answers nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gce_backend.base.errors import MalformedResponseError
from gce_backend.clients.pubsub import PubSub, Received
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.local import local_settings
from gce_backend.engine.inbox import Consumer
from gce_backend.engine.metrics import Metrics
from gce_backend.settings.settings import Settings
from support.broker_messages import SUBSCRIPTION, TOPIC, wire
from support.cloud_harness import Running, running
from support.fleet_harness import PROJECT
from support.referee import Referee
from support.responses import scripted_server
from support.simulation import VirtualClock


class Rig:
    """A consumer on a subscription of its own cloud.

    Attributes:
        arrivals: how often the consumer said that messages have come.
    """

    def __init__(self, cloud: Running, client: PubSub, **options: int) -> None:
        self.cloud = cloud
        self.arrivals = 0
        chosen = {"max_messages": 1000, "queue_size": 2000, "ack_deadline": 60, **options}
        self.consumer = Consumer(
            client, "machine-provider", clock=VirtualClock(), arrived=self._arrived, **chosen
        )

    def _arrived(self) -> None:
        self.arrivals += 1

    async def publish(self, *words: str) -> None:
        """Publishes messages that say these words."""
        messages = [wire(word, {}) for word in words]
        await self.cloud.ok("POST", f"{TOPIC}:publish", {"messages": messages})

    async def in_hand(self, count: int) -> None:
        """Waits until so many messages are in hand."""
        for _ in range(3000):
            if self.held() == count:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{self.held()} in hand, not {count}")

    def held(self) -> int:
        """Messages in hand."""
        status = self.consumer.status()
        return status.waiting + status.working

    def backlog(self) -> tuple[int, int]:
        """Messages that Pub/Sub would deliver now, and those not acknowledged."""
        state = self.cloud.pubsub.state()["subscriptions"][SUBSCRIPTION.removeprefix("/v1/")]
        return state["waiting"], state["unacknowledged"]


@contextlib.asynccontextmanager
async def _clients(url: str, path: Path) -> AsyncIterator[PubSub]:
    settings = local_settings(Settings(), url, PROJECT, path)
    clients = Clients(settings, VirtualClock(), random.Random(1), Metrics())
    try:
        yield clients.pubsub(PROJECT)
    finally:
        await clients.close()


@contextlib.asynccontextmanager
async def _rig(path: Path, *, deadline: int = 60, **options: int) -> AsyncIterator[Rig]:
    async with running() as cloud, _clients(cloud.url, path) as client:
        await cloud.ok("PUT", TOPIC, {})
        body = {"topic": TOPIC.removeprefix("/v1/"), "ackDeadlineSeconds": deadline}
        await cloud.ok("PUT", SUBSCRIPTION, body)
        rig = Rig(cloud, client, **options)
        task = asyncio.create_task(rig.consumer.run())
        yield rig
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("deadline", [10, 60, 600])
async def test_what_is_in_hand_is_extended_whatever_the_subscription_says(
    tmp_path: Path, deadline: int
) -> None:
    """Messages waiting and in work for ten minutes are never delivered a second time."""
    async with _rig(tmp_path, deadline=deadline) as rig:
        await rig.publish("one", "two")
        await rig.in_hand(2)
        work = rig.consumer.take(1)
        for _ in range(60):
            await asyncio.sleep(10)
            assert rig.backlog() == (0, 2)
        assert rig.arrivals == 1
        assert rig.consumer.status().oldest_seconds >= 600
        await rig.consumer.acknowledge(work)
        await rig.consumer.acknowledge(rig.consumer.take(10))
        assert rig.backlog() == (0, 0)
        assert rig.held() == 0


async def test_nothing_is_extended_while_nothing_is_in_hand(tmp_path: Path) -> None:
    """A quiet hour makes no calls but held pulls."""
    async with _rig(tmp_path) as rig:
        await asyncio.sleep(3600)
        calls = rig.cloud.cloud.calls
        assert calls["pubsub.projects.subscriptions.modifyAckDeadline"] == 0
        assert calls["pubsub.projects.subscriptions.pull"] <= 181


async def test_a_pull_that_is_answered_at_once_without_messages_is_repeated_ever_more_slowly(
    tmp_path: Path,
) -> None:
    """Pub/Sub may answer so, and did: a hundred times a second, for as long as nothing came."""
    pulls = 0

    def empty(request: web.Request) -> web.Response:
        nonlocal pulls
        pulls += request.path.endswith(":pull")
        answer = {"access_token": "t", "expires_in": 3600}
        return web.json_response(answer if "token" in request.path else {})

    async with scripted_server(empty) as server, _clients(server.root, tmp_path) as client:
        consumer = Consumer(
            client,
            "machine-provider",
            clock=VirtualClock(),
            max_messages=10,
            queue_size=10,
            ack_deadline=60,
            arrived=lambda: None,
        )
        task = asyncio.create_task(consumer.run())
        await asyncio.sleep(60.0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert 50 <= pulls <= 70


async def test_a_full_queue_stops_the_pull_and_room_starts_it_again(tmp_path: Path) -> None:
    """Never more in hand than the queue's size, and in the end everything comes."""
    async with _rig(tmp_path, queue_size=3, max_messages=2) as rig:
        await rig.publish(*map(str, range(10)))
        seen: list[str | None] = []
        while len(seen) < 10:
            await rig.in_hand(min(3, 10 - len(seen)))
            await asyncio.sleep(5)
            assert rig.held() <= 3
            work = rig.consumer.take(2)
            seen += [message.data for message in work]
            await rig.consumer.acknowledge(work)
        assert len(set(seen)) == 10
        assert rig.backlog() == (0, 0)


async def test_what_is_given_back_comes_first_again_and_stays_ours(tmp_path: Path) -> None:
    """No other delivery is needed."""
    async with _rig(tmp_path) as rig:
        await rig.publish("a", "b", "c")
        await rig.in_hand(3)
        work = rig.consumer.take(2)
        rig.consumer.give_back(work)
        assert rig.consumer.take(3)[:2] == work
        assert rig.arrivals == 1


async def test_what_is_returned_can_be_had_by_others_at_once(tmp_path: Path) -> None:
    """Waiting or in work: all of it goes back, and none of it is extended any more."""
    async with _rig(tmp_path) as rig:
        await rig.publish(*map(str, range(5)))
        await rig.in_hand(5)
        rig.consumer.take(2)
        pulls = rig.arrivals
        await rig.consumer.return_all()
        await rig.in_hand(5)  # the same consumer pulls them once more
        assert rig.arrivals > pulls


async def test_failing_acknowledgements_and_extensions_end_nothing(tmp_path: Path) -> None:
    """Fault 8: they are told; the messages come again."""
    async with _rig(tmp_path, deadline=10, ack_deadline=10) as rig:
        await rig.publish("one")
        await rig.in_hand(1)
        name = SUBSCRIPTION.removeprefix("/v1/")
        await rig.cloud.ok("DELETE", SUBSCRIPTION)
        await asyncio.sleep(60)  # extensions fail meanwhile
        await rig.consumer.acknowledge(rig.consumer.take(1))
        status = rig.consumer.status()
        assert f"there is no subscription {name}" in status.problem
        await rig.cloud.ok("PUT", SUBSCRIPTION, {"topic": TOPIC.removeprefix("/v1/")})
        await rig.publish("two")
        await rig.in_hand(1)
        assert rig.consumer.status().problem == ""


NONSENSE: list[Any] = [
    {"receivedMessages": None},
    {"receivedMessages": 5},
    {"receivedMessages": [5]},
    {"receivedMessages": [{"ackId": "1", "message": None}]},
    {
        "receivedMessages": [
            {
                "ackId": "1",
                "message": {
                    "messageId": "1",
                    "publishTime": "2026-01-01T00:00:00Z",
                    "attributes": ["key"],
                },
            }
        ]
    },
    [],
    "no object",
]
INCOMPLETE: list[Any] = [
    {"receivedMessages": [{"ackId": "1"}]},
    {"receivedMessages": [{"ackId": "1", "message": {"messageId": "1"}}]},
]


@pytest.mark.parametrize("body", [*NONSENSE, *INCOMPLETE])
async def test_an_answer_of_the_wrong_shape_is_one_of_our_errors(
    tmp_path: Path, body: object, referee: Referee
) -> None:
    """Fault 15: a pull's nonsense must not end the consumer's task."""
    if body not in INCOMPLETE:
        referee.expect("response")

    def answer(request: web.Request) -> web.Response:
        if "/token" in request.path:
            token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
            return web.json_response(token, headers={"Metadata-Flavor": "Google"})
        return web.json_response(body)

    async with (
        scripted_server(answer) as server,
        _clients(server.root.rstrip("/"), tmp_path) as client,
    ):
        with pytest.raises(MalformedResponseError):
            await client.pull(client.subscription("machine-provider"), 1)


async def test_data_comes_as_it_was_on_the_wire(tmp_path: Path) -> None:
    """Bad base64 reaches the job, that sets it aside; it does not spoil the whole pull."""

    def answer(request: web.Request) -> web.Response:
        if "/token" in request.path:
            token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
            return web.json_response(token, headers={"Metadata-Flavor": "Google"})
        stamp = {"publishTime": "2026-01-01T00:00:00Z"}
        messages = [
            {"ackId": "a", "message": {"messageId": "1", "data": "AAA", **stamp}},
            {"ackId": "b", "message": {"messageId": "2", "attributes": {"k": "v"}, **stamp}},
        ]
        return web.json_response({"receivedMessages": messages})

    async with (
        scripted_server(answer) as server,
        _clients(server.root.rstrip("/"), tmp_path) as client,
    ):
        assert await client.pull(client.subscription("machine-provider"), 10) == [
            Received("a", "1", "AAA", {}),
            Received("b", "2", None, {"k": "v"}),
        ]


async def test_line_03_a_server_that_does_not_wait_for_messages_is_not_stormed(
    tmp_path: Path,
) -> None:
    """It answers at once that there are none: one pull a second, not as many as can be."""
    async with _rig(tmp_path) as rig:
        pull = {"method": "pubsub.projects.subscriptions.pull", "kind": "answer", "body": {}}
        async with rig.cloud.session.post(
            f"{rig.cloud.url}/_localcloud/faults", json={**pull, "times": 500}
        ) as response:
            assert response.status == 200
        await rig.publish("one")  # ends a pull that waits already
        await asyncio.sleep(5)
        before = rig.cloud.cloud.faults.injected[0].fired
        await asyncio.sleep(60)
        assert 50 <= rig.cloud.cloud.faults.injected[0].fired - before <= 61
