"""The methods of the Pub/Sub API. Their rules are Google's pubsub.v1 discovery document."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud, Handler, Route, ServiceError
from gce_backend.localcloud.pubsub import resources
from gce_backend.localcloud.pubsub.deliveries import Deliveries, Delivery, Pending
from gce_backend.localcloud.pubsub.policies import Policies
from gce_backend.localcloud.statuses import already_exists, invalid, not_found, status_body
from gce_backend.localcloud.tables import Table

HOLD_SECONDS = 20.0
"""How long a pull waits for a first message."""

MAX_PULL = 1000

Answer = dict[str, Any]


class Subscription(msgspec.Struct):
    """A subscription.

    Attributes:
        resource: its JSON Subscription.
        active: Unix time of its last pull.
    """

    resource: Answer
    active: float


class PubSubService:
    """Pub/Sub of all projects of the cloud.

    Args:
        cloud: the cloud that it is part of.
    """

    name = "pubsub"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._topics: Table[Answer] = cloud.tables.table("pubsub.topics", dict[str, Any])
        self._subscriptions = cloud.tables.table("pubsub.subscriptions", Subscription)
        self._meta = cloud.tables.table("pubsub.meta", int)
        self._policies = Policies(cloud.tables)
        self._deliveries = Deliveries(cloud.tables, self._subscriptions)
        self._by_topic: defaultdict[str, set[str]] = defaultdict(set)
        for name, subscription in self._subscriptions.items():
            self._by_topic[subscription.resource["topic"]].add(name)
        self._leased = asyncio.Event()
        self._closing = False

    def routes(self) -> Iterable[Route]:
        """The methods of pubsub.projects.topics and pubsub.projects.subscriptions."""
        yield from self._resource_routes(
            "topics",
            self._topics.get,
            {"PUT create": self._create_topic, "DELETE delete": self._delete_topic},
            {"publish": self._publish},
        )
        yield from self._resource_routes(
            "subscriptions",
            self._subscription_json,
            {
                "PUT create": self._create_subscription,
                "PATCH patch": self._patch_subscription,
                "DELETE delete": self._delete_subscription,
            },
            {
                "pull": self._pull,
                "acknowledge": self._acknowledge,
                "modifyAckDeadline": self._modify_ack_deadline,
            },
        )

    def _resource_routes(
        self,
        collection: str,
        get: Callable[[str], Answer | None],
        verbs: dict[str, Handler],
        custom: dict[str, Handler],
    ) -> Iterable[Route]:
        def existing(call: Call) -> str:
            name = _name(call)
            if get(name) is None:
                raise not_found(f"Resource not found (resource={name.rpartition('/')[2]}).")
            return name

        async def read(call: Call) -> Answer:
            return get(existing(call)) or {}

        async def get_policy(call: Call) -> Answer:
            return self._policies.get(existing(call))

        async def set_policy(call: Call) -> Answer:
            return self._policies.set(existing(call), call.body.get("policy"))

        async def test_permissions(call: Call) -> Answer:
            existing(call)
            denied = self._cloud.options.denied_permissions
            asked = call.body.get("permissions", [])
            return {"permissions": [permission for permission in asked if permission not in denied]}

        async def list_all(call: Call) -> Answer:
            names = self._topics if collection == "topics" else self._subscriptions
            return _page(call, collection, names, get)

        root = f"/v1/projects/{{project}}/{collection}"
        path = root + "/{id:[^/:]+}"
        methods = {"GET get": read, **verbs}
        yield Route(f"pubsub.projects.{collection}.list", "GET", root, list_all)
        for words, handler in methods.items():
            verb, method = words.split()
            yield Route(f"pubsub.projects.{collection}.{method}", verb, path, handler)
        name = f"pubsub.projects.{collection}.getIamPolicy"
        yield Route(name, "GET", path + ":getIamPolicy", get_policy)
        posts = {"setIamPolicy": set_policy, "testIamPermissions": test_permissions, **custom}
        for method, handler in posts.items():
            name = f"pubsub.projects.{collection}.{method}"
            yield Route(name, "POST", f"{path}:{method}", handler)

    def error_body(self, error: ServiceError) -> Answer:
        """google.rpc.Status as JSON."""
        return status_body(error)

    def state(self) -> Answer:
        """The topics, and the subscriptions with how much they still have to deliver."""
        return {
            "topics": sorted(self._topics),
            "subscriptions": {
                name: {
                    "topic": subscription.resource["topic"],
                    "unacknowledged": len(self._deliveries.backlog(name).ids),
                    "waiting": len(self._deliveries.backlog(name).ready),
                }
                for name, subscription in sorted(self._subscriptions.items())
            },
        }

    async def run(self) -> None:
        """Ends leases in time; when it is stopped, waiting pulls end too."""
        try:
            while True:
                self._leased.clear()
                end = self._deliveries.next_end()
                delay = None if end is None else max(0.0, end - self._cloud.clock.now())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._leased.wait()
                if self._end_leases():
                    self._cloud.tables.commit()
        finally:
            self._closing = True
            self._deliveries.stir_all()

    async def _create_topic(self, call: Call) -> Answer:
        name = _name(call)
        topic = resources.new_topic(name, call.body)
        if name in self._topics:
            raise _exists(call)
        self._topics[name] = topic
        return topic

    async def _delete_topic(self, call: Call) -> Answer:
        name = _name(call)
        if name not in self._topics:
            raise _missing(call)
        del self._topics[name]
        self._policies.drop(name)
        for subscribed in self._by_topic.pop(name, set()):
            subscription = self._subscriptions[subscribed]
            subscription.resource["topic"] = resources.DELETED_TOPIC
            self._subscriptions[subscribed] = subscription
        return {}

    async def _publish(self, call: Call) -> Answer:
        name = _name(call)
        if name not in self._topics:
            raise _missing(call)
        messages = resources.check_messages(call.body.get("messages"))
        ids = [self._deliver(name, message) for message in messages]
        return {"messageIds": ids}

    def _deliver(self, topic: str, message: Answer) -> str:
        now = self._cloud.clock.now()
        number = self._meta.get("messages", 10**15) + 1
        self._meta["messages"] = number
        moment = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
        stamped = {
            **message,
            "messageId": str(number),
            "publishTime": moment.isoformat(timespec="milliseconds") + "Z",
        }
        for subscribed in sorted(self._by_topic[topic]):
            if self._live(subscribed) is not None:
                self._deliveries.add(subscribed, stamped, now)
        return str(number)

    async def _create_subscription(self, call: Call) -> Answer:
        name = _name(call)
        resource = resources.new_subscription(name, call.body)
        if self._live(name) is not None:
            raise _exists(call)
        if resource["topic"] not in self._topics:
            raise not_found(f"Subscription topic does not exist (resource={resource['topic']}).")
        self._subscriptions[name] = Subscription(resource, self._cloud.clock.now())
        self._by_topic[resource["topic"]].add(name)
        self._deliveries.open(name)
        return resource

    async def _patch_subscription(self, call: Call) -> Answer:
        name, subscription = self._find(call)
        changes = call.body.get("subscription") or {}
        mask = str(call.body.get("updateMask", ""))
        subscription.resource = resources.patched(subscription.resource, changes, mask)
        self._subscriptions[name] = subscription
        return subscription.resource

    async def _delete_subscription(self, call: Call) -> Answer:
        name, _ = self._find(call)
        self._remove(name)
        return {}

    async def _pull(self, call: Call) -> Answer:
        most = call.body.get("maxMessages")
        if not isinstance(most, int) or most < 1:
            raise invalid("maxMessages must be positive")
        clock = self._cloud.clock
        patience = 0.0 if call.body.get("returnImmediately") else HOLD_SECONDS
        deadline = clock.monotonic() + patience
        while True:
            name, subscription = self._find(call)
            self._end_leases()
            backlog = self._deliveries.backlog(name)
            if backlog.ready:
                return {"receivedMessages": self._take(call, name, subscription, most)}
            left = deadline - clock.monotonic()
            if left <= 0 or self._closing:
                return self._active(name, subscription)
            backlog.stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await backlog.stirred.wait()

    def _take(self, call: Call, name: str, subscription: Subscription, most: int) -> list[Answer]:
        transport = call.request.transport
        if transport is None or transport.is_closing():
            return []  # nobody would get what was taken: it stays for others
        self._active(name, subscription)
        resource, now = subscription.resource, self._cloud.clock.now()
        taken = self._deliveries.take(
            name,
            most=min(most, MAX_PULL),
            now=now,
            seconds=resource["ackDeadlineSeconds"],
            oldest=now - resources.retention_seconds(resource),
        )
        self._leased.set()
        counted = bool(resource.get("deadLetterPolicy"))
        return [_received(delivery, counted=counted) for delivery in taken]

    def _active(self, name: str, subscription: Subscription) -> Answer:
        subscription.active = self._cloud.clock.now()
        self._subscriptions[name] = subscription
        return {}

    async def _acknowledge(self, call: Call) -> Answer:
        name, _ = self._find(call)
        self._deliveries.acknowledge(name, _ack_ids(call), self._cloud.clock.now())
        return {}

    async def _modify_ack_deadline(self, call: Call) -> Answer:
        name, _ = self._find(call)
        seconds = call.body.get("ackDeadlineSeconds", 0)
        if not isinstance(seconds, int) or not 0 <= seconds <= 600:
            raise invalid("ackDeadlineSeconds must be between 0 and 600")
        self._deliveries.extend(name, _ack_ids(call), self._cloud.clock.now(), seconds)
        self._end_leases()
        self._leased.set()
        return {}

    def _end_leases(self) -> bool:
        return self._deliveries.end_leases(self._cloud.clock.now(), self._bury)

    def _bury(self, name: str, pending: Pending) -> bool:
        """Sends a message that was delivered too often to the dead-letter topic, if any."""
        resource = self._subscriptions[name].resource
        policy = resource.get("deadLetterPolicy")
        if not policy or pending.attempts < resources.max_attempts(resource):
            return False
        if policy["deadLetterTopic"] not in self._topics:
            return False
        _, project, _, subscription = name.split("/")
        prefix = "CloudPubSubDeadLetterSource"
        attributes = {
            **pending.message.get("attributes", {}),
            f"{prefix}DeliveryCount": str(pending.attempts),
            f"{prefix}Subscription": subscription,
            f"{prefix}SubscriptionProject": project,
            f"{prefix}TopicPublishTime": pending.message["publishTime"],
        }
        self._deliver(policy["deadLetterTopic"], {**pending.message, "attributes": attributes})
        return True

    def _find(self, call: Call) -> tuple[str, Subscription]:
        name = _name(call)
        subscription = self._live(name)
        if subscription is None:
            raise _missing(call)
        return name, subscription

    def _subscription_json(self, name: str) -> Answer | None:
        subscription = self._live(name)
        return subscription.resource if subscription else None

    def _live(self, name: str) -> Subscription | None:
        """A subscription, unless it is missing or nobody has pulled from it for too long."""
        subscription = self._subscriptions.get(name)
        if subscription is None:
            return None
        idle = self._cloud.clock.now() - subscription.active
        longest = resources.expires_after(subscription.resource)
        if longest is None or idle <= longest:
            return subscription
        self._remove(name)
        return None

    def _remove(self, name: str) -> None:
        subscription = self._subscriptions.pop(name)
        self._by_topic[subscription.resource["topic"]].discard(name)
        self._deliveries.drop(name)
        self._policies.drop(name)


def _name(call: Call) -> str:
    collection = call.method.split(".")[2]
    return f"projects/{call.path['project']}/{collection}/{call.path['id']}"


def _missing(call: Call) -> ServiceError:
    return not_found(f"Resource not found (resource={call.path['id']}).")


def _exists(call: Call) -> ServiceError:
    return already_exists(f"Resource already exists in the project (resource={call.path['id']}).")


def _ack_ids(call: Call) -> list[str]:
    ack_ids = call.body.get("ackIds")
    if not isinstance(ack_ids, list) or not ack_ids:
        raise invalid("ackIds must be a non-empty list")
    return ack_ids


def _received(delivery: Delivery, *, counted: bool) -> Answer:
    received: Answer = {"ackId": delivery.ack_id, "message": delivery.pending.message}
    if counted:
        received["deliveryAttempt"] = delivery.pending.attempts
    return received


def _page(
    call: Call, collection: str, names: Iterable[str], get: Callable[[str], Answer | None]
) -> Answer:
    """One page of a project's resources; the token is the last name of the page before."""
    prefix = f"projects/{call.path['project']}/"
    size, after = call.query.get("pageSize", "0"), call.query.get("pageToken", "")
    if not size.isdecimal():
        raise invalid("pageSize must be a number")
    most = min(int(size) or 100, 1000)
    later = sorted(name for name in names if name.startswith(prefix) and name > after)
    page = [item for name in later[:most] if (item := get(name)) is not None]
    token = {"nextPageToken": later[most - 1]} if len(later) > most else {}
    return {collection: page, **token}
