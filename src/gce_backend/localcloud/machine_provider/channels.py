"""Pub/Sub as the Machine Provider uses it: a topic and a subscription per machine, and messages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import aiohttp
from gcloud.aio.auth import Token
from gcloud.aio.pubsub import PublisherClient, PubsubMessage, SubscriberClient

from gce_backend.errors import RemoteError, TransientError
from gce_backend.json_api import Answer, error_of
from gce_backend.localcloud.machine_provider.entities import Machine

MAX_MESSAGES = 500
"""Messages in one publish call: half of what Pub/Sub takes."""
SUBSCRIPTION = {"ackDeadlineSeconds": 60, "expirationPolicy": {}}

T = TypeVar("T")


class Notice(NamedTuple):
    """A message to be sent.

    Attributes:
        topic: where to, `projects/P/topics/T`.
        word: what it says.
        attributes: its attributes.
    """

    topic: str
    word: str
    attributes: Mapping[str, str]


class Channels:
    """The Machine Provider's Pub/Sub.

    Args:
        session: the shared HTTP session.
        token: gives bearer tokens.
        api_root: e.g. `https://pubsub.googleapis.com/v1`.
        project: where the machines' topics and subscriptions are made.

    All methods raise `gce_backend.errors.RemoteError`.
    """

    def __init__(
        self, *, session: aiohttp.ClientSession, token: Token, api_root: str, project: str
    ) -> None:
        # Told api_root alone, the clients take it for a development server and send no token.
        options: dict[str, Any] = {"session": session, "api_root": api_root, "api_is_dev": False}
        self._publisher = PublisherClient(token=token, **options)
        self._subscriber = SubscriberClient(token=token, **options)
        self._token = token
        self._api_root = api_root
        self.project = project

    def topic(self, machine: Machine) -> str:
        """The machine's own topic."""
        return PublisherClient.topic_path(self.project, _name(machine))

    def subscription(self, machine: Machine) -> str:
        """The machine's own subscription."""
        return SubscriberClient.subscription_path(self.project, _name(machine))

    async def open(self, machine: Machine) -> None:
        """Makes the machine's topic and subscription, and lets its service account read."""
        topic, subscription = self.topic(machine), self.subscription(machine)
        await self._call("create", lambda: self._publisher.create_topic(topic), fine=409)
        await self._call(
            "create",
            lambda: self._subscriber.create_subscription(subscription, topic, SUBSCRIPTION),
            fine=409,
        )
        account = machine.policies.machine_service_account
        if account:
            await self._call("setIamPolicy", lambda: self._allow(subscription, account))

    async def close(self, machine: Machine) -> None:
        """Removes the machine's subscription and topic."""
        subscription, topic = self.subscription(machine), self.topic(machine)
        delete = self._subscriber.delete_subscription
        await self._call("delete", lambda: delete(subscription), fine=404)
        await self._call("delete", lambda: self._publisher.delete_topic(topic), fine=404)

    async def publish(self, topic: str, notices: Sequence[Notice]) -> None:
        """Sends messages to one topic, `MAX_MESSAGES` at most.

        Raises:
            NotFoundError: there is no such topic.
        """
        messages = []
        for notice in notices:
            message = PubsubMessage(notice.word)
            message.attributes = dict(notice.attributes)  # as keywords, `data` would collide
            messages.append(message)
        await self._call("publish", lambda: self._publisher.publish(topic, messages))

    async def _allow(self, subscription: str, account: str) -> None:
        binding = {"role": "roles/pubsub.subscriber", "members": [f"serviceAccount:{account}"]}
        await self._subscriber.session.post(
            f"{self._api_root}/{subscription}:setIamPolicy",
            headers={
                "Authorization": f"Bearer {await self._token.get()}",
                "Content-Type": "application/json",
            },
            data=json.dumps({"policy": {"bindings": [binding]}}),
        )

    async def _call(
        self, verb: str, send: Callable[[], Awaitable[T]], *, fine: int | None = None
    ) -> T | None:
        """Makes a call; a refused token is replaced once, status `fine` is a success."""
        method = f"pubsub.{verb}"
        failure: RemoteError = TransientError(method, "not tried")
        for _ in range(2):
            try:
                return await send()
            except aiohttp.ClientResponseError as error:
                if error.status == fine:
                    return None
                failure = error_of(method, Answer(error.status, {}, b""))
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                failure = TransientError(method, f"no answer: {type(error).__name__}")
            if failure.status != 401:
                break
            self._token.access_token = None
        # Outside of the `except` blocks: aiohttp's exceptions hold the bearer token.
        raise failure


def _name(machine: Machine) -> str:
    host = machine.hostname
    if not re.fullmatch(r"[-A-Za-z0-9_.]{1,200}", host):
        host = hashlib.sha1(host.encode(), usedforsecurity=False).hexdigest()
    return f"machine-provider-{machine.backend.lower()}-{host}"


async def each(
    work: Callable[[T], Awaitable[None]], items: Sequence[T], *, at_once: int
) -> list[RemoteError | None]:
    """Does the same with every item, some at once; an item's failure is its own.

    Returns:
        What went wrong with each item, in their order.
    """
    gate = asyncio.Semaphore(at_once)
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
