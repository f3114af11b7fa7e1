"""What the consumer expects of Pub/Sub."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from contract.servers import Contract
from gce_backend.base.clock import SystemClock
from gce_backend.base.errors import AlreadyExistsError, NotFoundError
from gce_backend.clients.pubsub import Outgoing, PubSub, Received
from gce_backend.daemon.clients import Clients
from gce_backend.engine.inbox import Consumer
from support.patience import PATIENCE

DEADLINE = 600
"""Seconds after which Pub/Sub delivers again; no test waits so long."""


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that a server does."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  (nobody tells us)
            await asyncio.sleep(0.02)


class Post:
    """A topic with a subscription, and consumers of it."""

    def __init__(self, pubsub: PubSub, name: str) -> None:
        self.pubsub = pubsub
        self.topic = pubsub.topic(name)
        self.name = name

    async def publish(self, *words: str) -> None:
        """Publishes messages with these words, each also as an attribute."""
        await self.pubsub.publish(self.topic, [Outgoing(word, {"word": word}) for word in words])

    @contextlib.asynccontextmanager
    async def consumer(self) -> AsyncIterator[Consumer]:
        """A consumer that pulls while the block lasts."""
        made = Consumer(
            self.pubsub,
            self.name,
            clock=SystemClock(),
            max_messages=100,
            queue_size=200,
            ack_deadline=DEADLINE,
            arrived=lambda: None,
        )
        pulling = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            pulling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pulling
            await made.return_all()


async def post(server: Contract, clients: Clients, test: str) -> Post:
    """A topic and a subscription of this test alone."""
    made = Post(clients.pubsub(server.options.project), f"{server.run}-{test}")
    await made.pubsub.create_topic(made.topic)
    options = {"ackDeadlineSeconds": DEADLINE, "expirationPolicy": {}}
    await made.pubsub.create_subscription(made.pubsub.subscription(made.name), made.topic, options)
    return made


async def take(consumer: Consumer, count: int) -> list[Received]:
    """So many messages."""
    taken: list[Received] = []

    def enough() -> bool:
        taken.extend(consumer.take(count - len(taken)))
        return len(taken) == count

    await until(enough)
    return taken


def test_a_message_comes_with_its_data_and_attributes_and_once_acknowledged_no_more(
    server: Contract,
) -> None:
    """Three are published, taken and acknowledged; another consumer then gets only the fourth."""

    async def work(clients: Clients) -> None:
        mail = await post(server, clients, "acknowledged")
        async with mail.consumer() as consumer:
            await mail.publish("a", "b", "c")
            taken = await take(consumer, 3)
            assert {message.attributes["word"] for message in taken} == {"a", "b", "c"}
            assert len({message.message_id for message in taken}) == 3
            await consumer.acknowledge(taken)
        async with mail.consumer() as consumer:
            await mail.publish("d")
            (last,) = await take(consumer, 1)
            assert last.attributes == {"word": "d"}
            await consumer.acknowledge([last])

    server.ask(work)


def test_what_is_returned_is_delivered_to_another_consumer_at_once(server: Contract) -> None:
    """A consumer that stops gives back what it has; nobody waits for a deadline."""

    async def work(clients: Clients) -> None:
        mail = await post(server, clients, "returned")
        async with mail.consumer() as consumer:
            await mail.publish("a")
            (first,) = await take(consumer, 1)
        async with mail.consumer() as consumer:
            (again,) = await take(consumer, 1)
            assert again.message_id == first.message_id
            await consumer.acknowledge([again])

    server.ask(work)


def test_names_that_are_taken_or_absent_are_told_apart(server: Contract) -> None:
    """409 for a topic and a subscription that exist, 404 for those that do not."""

    async def work(clients: Clients) -> None:
        mail = await post(server, clients, "names")
        pubsub = mail.pubsub
        with pytest.raises(AlreadyExistsError):
            await pubsub.create_topic(mail.topic)
        with pytest.raises(AlreadyExistsError):
            await pubsub.create_subscription(pubsub.subscription(mail.name), mail.topic, {})
        absent = f"{server.run}-absent"
        for name in (pubsub.topic(absent), pubsub.subscription(absent)):
            with pytest.raises(NotFoundError):
                await pubsub.get(name)
        with pytest.raises(NotFoundError):
            await pubsub.pull(pubsub.subscription(absent), 1)

    server.ask(work)


def test_a_policy_is_read_and_written_and_permissions_are_told(server: Contract) -> None:
    """A topic's policy goes back as it came; the caller may consume the subscription it made."""

    async def work(clients: Clients) -> None:
        mail = await post(server, clients, "policy")
        policy = await mail.pubsub.get_iam_policy(mail.topic)
        await mail.pubsub.set_iam_policy(mail.topic, policy)
        after = await mail.pubsub.get_iam_policy(mail.topic)
        assert after.get("bindings", []) == policy.get("bindings", [])
        wanted = ("pubsub.subscriptions.consume",)
        subscription = mail.pubsub.subscription(mail.name)
        assert await mail.pubsub.test_iam_permissions(subscription, wanted) == set(wanted)

    server.ask(work)
