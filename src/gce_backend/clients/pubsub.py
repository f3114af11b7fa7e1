"""Pub/Sub's methods that this project uses, on gcloud-aio-pubsub's clients.

No policy: every method is one call, and raises the errors of
`gce_backend.errors`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
from gcloud.aio.pubsub import PublisherClient, PubsubMessage, SubscriberClient, SubscriberMessage

from gce_backend.base.errors import MalformedResponseError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.exchange import Deadlines, Exchange
from gce_backend.clients.gcloud import LibraryAnswer, LibrarySession
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.plain_http import PlainSession

TIMEOUT = Deadlines(total=30.0, sock_connect=5.0, sock_read=25.0)
PULL_TIMEOUT = Deadlines(total=100.0, sock_connect=5.0, sock_read=95.0)
"""A pull is held by the server until there are messages, or for a minute and a half at most."""

_CUSTOM = re.compile(r"/(topics|subscriptions)/[^/:]+:(?P<verb>\w+)$")
_RESOURCE = re.compile(r"/(topics|subscriptions)/[^/:]+$")
_VERBS = {"PUT": "create", "GET": "get", "PATCH": "patch", "DELETE": "delete"}


class Received(NamedTuple):
    """A message as it was pulled.

    Attributes:
        ack_id: the id that acknowledges this delivery.
        message_id: the message's own id.
        data: its data as on the wire: base64, not decoded; None when it has none.
    """

    ack_id: str
    message_id: str
    data: str | None
    attributes: Mapping[str, str]


class Outgoing(NamedTuple):
    """A message to publish: its data as text, and its attributes."""

    data: str
    attributes: Mapping[str, str]


def method_of(verb: str, url: str) -> str:
    """The discovery document's name of a call, e.g. `pubsub.projects.topics.publish`."""
    path = url.partition("?")[0]
    match = _CUSTOM.search(path)
    if match:
        return f"pubsub.projects.{match[1]}.{match['verb']}"
    match = _RESOURCE.search(path)
    if match:
        return f"pubsub.projects.{match[1]}.{_VERBS.get(verb, verb.lower())}"
    return f"pubsub.projects.{path.rpartition('/')[2]}.list"


class _PullTransport(LibrarySession):
    """Passes data on as received: one malformed message must not break the others."""

    async def post(self, url: str, headers: Mapping[str, str], **options: Any) -> LibraryAnswer:
        answer = await super().post(url, headers, **options)
        data = await answer.json()
        for received in data.get("receivedMessages", ()):
            message = received["message"]
            if "data" in message:  # the library decodes it: encoded once more, it comes out as sent
                message["data"] = base64.b64encode(str(message["data"]).encode()).decode()
        return answer


class PubSub:
    """One project's topics and subscriptions.

    Args:
        api_root: e.g. `https://pubsub.googleapis.com/v1`.
        project: the project of all names.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | PlainSession,
        tokens: TokenSource,
        api_root: str,
        project: str,
        observer: CallObserver | None = None,
    ) -> None:
        # For a development server, the library sends no token: the exchange sends it.
        options: dict[str, Any] = {"session": session, "api_root": api_root, "api_is_dev": True}
        exchange, token = Exchange(session, tokens, observer), tokens.token
        transport = LibrarySession(exchange, method_of=method_of, timeout=TIMEOUT)
        pulling = _PullTransport(exchange, method_of=method_of, timeout=PULL_TIMEOUT)
        self._publisher = PublisherClient(token=token, **options)
        self._subscriber = SubscriberClient(token=token, **options)
        self._puller = SubscriberClient(token=token, **options)
        self._publisher.session = transport  # type: ignore[assignment]  # it has the same methods
        self._subscriber.session = transport  # type: ignore[assignment]  # as above
        self._puller.session = pulling  # type: ignore[assignment]  # as above
        self._transport = transport
        self._root = api_root
        self.project = project

    def topic(self, name: str) -> str:
        """The full name of a topic."""
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str) -> str:
        """The full name of a subscription."""
        return f"projects/{self.project}/subscriptions/{name}"

    async def publish(self, topic: str, messages: Sequence[Outgoing]) -> None:
        """Publishes at most 1,000 messages.

        Args:
            topic: its full name, of any project.

        Raises:
            NotFoundError: there is no such topic.
        """
        wire = []
        for outgoing in messages:
            message = PubsubMessage(outgoing.data)
            message.attributes = dict(outgoing.attributes)  # as keywords, `data` would collide
            wire.append(message)
        await self._publisher.publish(topic, wire)

    async def pull(self, subscription: str, max_messages: int) -> list[Received]:
        """Pulls the available messages; waits for the first one as long as the server does.

        Raises:
            NotFoundError: there is no such subscription.
        """
        try:
            found = await self._puller.pull(subscription, max_messages)
            return [_received(message) for message in found]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            method = "pubsub.projects.subscriptions.pull"
            words = f"{type(error).__name__} in the answer"
            raise MalformedResponseError(method, words, status=200) from None

    async def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Acknowledges at most 1,000 deliveries; expired ones are ignored."""
        await self._subscriber.acknowledge(subscription, list(ack_ids))

    async def modify_ack_deadline(
        self, subscription: str, ack_ids: Sequence[str], seconds: int
    ) -> None:
        """Sets the deadline of deliveries to this many seconds from now; 0 returns them at once."""
        ids = list(ack_ids)
        await self._subscriber.modify_ack_deadline(subscription, ids, seconds)

    async def get(self, name: str) -> dict[str, Any]:
        """A topic or subscription, by its full name.

        Raises:
            NotFoundError: it does not exist.
        """
        return await self._request("GET", f"/{name}")

    async def create_topic(self, name: str) -> None:
        """Creates a topic.

        Args:
            name: its full name.

        Raises:
            AlreadyExistsError: there is one.
        """
        await self._publisher.create_topic(name)

    async def create_subscription(self, name: str, topic: str, options: dict[str, Any]) -> None:
        """Creates a pull subscription.

        Args:
            name: its full name.
            topic: the topic's full name.
            options: other fields of the resource.

        Raises:
            AlreadyExistsError: there is one.
        """
        await self._subscriber.create_subscription(name, topic, options)

    async def patch_subscription(self, name: str, fields: dict[str, Any]) -> None:
        """Changes a subscription's fields."""
        body = {"subscription": fields, "updateMask": ",".join(fields)}
        await self._subscriber.patch_subscription(name, body)

    async def delete_subscription(self, name: str) -> None:
        """Deletes a subscription.

        Raises:
            NotFoundError: there is no such subscription.
        """
        await self._subscriber.delete_subscription(name)

    async def delete_topic(self, name: str) -> None:
        """Deletes a topic.

        Raises:
            NotFoundError: there is no such topic.
        """
        await self._publisher.delete_topic(name)

    async def get_iam_policy(self, name: str) -> dict[str, Any]:
        """The IAM policy of a topic or subscription."""
        return await self._request("GET", f"/{name}:getIamPolicy")

    async def set_iam_policy(self, name: str, policy: dict[str, Any]) -> None:
        """Replaces the IAM policy of a topic or subscription."""
        await self._request("POST", f"/{name}:setIamPolicy", {"policy": policy})

    async def test_iam_permissions(self, name: str, permissions: Sequence[str]) -> frozenset[str]:
        """Which of these permissions the caller has on a topic or subscription."""
        body = {"permissions": list(permissions)}
        answer = await self._request("POST", f"/{name}:testIamPermissions", body)
        granted = answer.get("permissions", [])
        if not isinstance(granted, list):
            method = "pubsub.projects.testIamPermissions"
            raise MalformedResponseError(method, "permissions is not a list", status=200)
        return frozenset(str(permission) for permission in granted)

    async def _request(
        self, verb: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Makes a call that the libraries do not offer."""
        headers = {"Content-Type": "application/json"}
        url = self._root + path
        if verb == "GET":
            return await (await self._transport.get(url, headers)).json()
        data = json.dumps(body).encode()
        return await (await self._transport.post(url, headers, data=data)).json()


def _received(message: SubscriberMessage) -> Received:
    return Received(
        str(message.ack_id),
        str(message.message_id),
        message.data.decode(errors="replace") if message.data is not None else None,
        {str(key): str(value) for key, value in (message.attributes or {}).items()},
    )
