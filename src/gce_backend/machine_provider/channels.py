"""Pub/Sub as the Machine Provider uses it: a topic and a subscription per machine, and messages."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from gce_backend.base.errors import AlreadyExistsError, NotFoundError, RemoteError
from gce_backend.clients.pubsub import Outgoing, PubSub
from gce_backend.machine_provider.entities import StoredMachine

MAX_MESSAGES = 500
"""Messages in one publish call: half of the number that Pub/Sub accepts."""
AT_ONCE = 16
"""Calls in flight."""
SUBSCRIPTION = {"ackDeadlineSeconds": 60, "expirationPolicy": {}}

T = TypeVar("T")


class Notice(NamedTuple):
    """A message to send.

    Attributes:
        topic: the topic to publish to, `projects/P/topics/T`.
        word: its data.
    """

    topic: str
    word: str
    attributes: Mapping[str, str]


class Channels:
    """The Machine Provider's Pub/Sub.

    Args:
        pubsub: Pub/Sub of the project that holds the machines' topics and subscriptions.

    All methods raise `gce_backend.base.errors.RemoteError`.
    """

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self.project = pubsub.project

    def topic(self, machine: StoredMachine) -> str:
        """The machine's own topic."""
        return self._pubsub.topic(_name(machine))

    def subscription(self, machine: StoredMachine) -> str:
        """The machine's own subscription."""
        return self._pubsub.subscription(_name(machine))

    async def open(self, machine: StoredMachine) -> None:
        """Creates the machine's topic and subscription, and lets its service account read them."""
        topic, subscription = self.topic(machine), self.subscription(machine)
        with contextlib.suppress(AlreadyExistsError):
            await self._pubsub.create_topic(topic)
        with contextlib.suppress(AlreadyExistsError):
            await self._pubsub.create_subscription(subscription, topic, dict(SUBSCRIPTION))
        account = machine.policies.machine_service_account
        if account:
            members = [f"serviceAccount:{account}"]
            binding = {"role": "roles/pubsub.subscriber", "members": members}
            await self._pubsub.set_iam_policy(subscription, {"bindings": [binding]})

    async def close(self, machine: StoredMachine) -> None:
        """Removes the machine's subscription and topic."""
        with contextlib.suppress(NotFoundError):
            await self._pubsub.delete_subscription(self.subscription(machine))
        with contextlib.suppress(NotFoundError):
            await self._pubsub.delete_topic(self.topic(machine))

    async def publish(self, topic: str, notices: Sequence[Notice]) -> None:
        """Sends at most `MAX_MESSAGES` messages to one topic.

        Raises:
            NotFoundError: there is no such topic.
        """
        messages = [Outgoing(notice.word, notice.attributes) for notice in notices]
        await self._pubsub.publish(topic, messages)


def _name(machine: StoredMachine) -> str:
    host = machine.hostname
    if not re.fullmatch(r"[-A-Za-z0-9_.]{1,200}", host):
        host = hashlib.sha1(host.encode(), usedforsecurity=False).hexdigest()
    return f"machine-provider-{machine.backend.lower()}-{host}"


async def each(
    work: Callable[[T], Awaitable[None]], items: Sequence[T]
) -> list[RemoteError | None]:
    """Does the same for every item, `AT_ONCE` at a time; one failure does not affect the others.

    Returns:
        The failure of each item, in the order of the items.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    failures: list[RemoteError | None] = [None] * len(items)

    async def one(place: int) -> None:
        async with gate:
            try:
                await work(items[place])
            except RemoteError as failure:
                failures[place] = failure

    async with asyncio.TaskGroup() as group:
        for place in range(len(items)):
            group.create_task(one(place), name=f"machine_provider.each.{place}")
    return failures
