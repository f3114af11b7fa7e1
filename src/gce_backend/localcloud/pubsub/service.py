"""The methods of the Pub/Sub API. Their rules are Google's pubsub.v1 discovery document."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.cloud import Call, Cloud, Handler, Route, Service
from gce_backend.localcloud.pubsub import requests, resources
from gce_backend.localcloud.pubsub.deliveries import Deliveries, Delivery, Pending
from gce_backend.localcloud.pubsub.filters import parse_filter
from gce_backend.localcloud.pubsub.policies import IamPolicies
from gce_backend.localcloud.statuses import (
    ServiceError,
    already_exists,
    invalid,
    not_found,
    status_body,
)
from gce_backend.localcloud.tables import Table
from gce_backend.localcloud.wire import decode

HOLD_SECONDS = 20.0
"""Seconds that a pull waits for a first message."""

MAX_PULL = 1000
MAX_ACK_BYTES = 512 * 2**10
ACTIVE_SECONDS = 60.0
"""The precision in seconds of a subscription's last use."""

Answer = dict[str, Any]
T = TypeVar("T")


class Subscription(msgspec.Struct):
    """A subscription.

    Attributes:
        resource: its JSON Subscription.
        active: Unix time of its last use.
    """

    resource: Answer
    active: UnixSeconds


class PubSubService(Service):
    """Pub/Sub of all projects of the cloud."""

    name = "pubsub"
    error_body = staticmethod(status_body)

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._topics: Table[Answer] = cloud.tables.table("pubsub.topics", dict[str, Any])
        self._subscriptions = cloud.tables.table("pubsub.subscriptions", Subscription)
        self._meta = cloud.tables.table("pubsub.meta", int)
        self._policies = IamPolicies(cloud.tables)
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
            {
                "PUT create": self._create_topic,
                "PATCH patch": self._patch_topic,
                "DELETE delete": self._delete_topic,
            },
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
                "modifyPushConfig": self._modify_push_config,
                "seek": self._seek,
                "detach": self._detach,
            },
        )
        projects = "/v1/projects/{project}"
        topic = projects + "/topics/{id:[^/:]+}"
        snapshot = projects + "/snapshots/{id:[^/:]+}"
        name = "pubsub.projects.topics.subscriptions.list"
        yield Route(name, "GET", topic + "/subscriptions", self._list_subscriptions_of_topic)
        name = "pubsub.projects.topics.snapshots.list"
        yield Route(name, "GET", topic + "/snapshots", self._list_snapshots_of_topic)
        name = "pubsub.projects.snapshots.list"
        yield Route(name, "GET", projects + "/snapshots", _list_snapshots)
        yield Route("pubsub.projects.snapshots.create", "PUT", snapshot, _create_snapshot)

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
            policy = decode(call.body, requests.SetIamPolicy).policy
            return self._policies.set(existing(call), policy)

        async def test_permissions(call: Call) -> Answer:
            asked = decode(call.body, requests.TestIamPermissions).permissions or []
            if any("*" in permission for permission in asked):
                raise invalid("permissions with wildcards are not allowed")
            denied = self._cloud.options.denied_permissions
            granted = [permission for permission in asked if permission not in denied]
            return {"permissions": granted} if get(_name(call)) and granted else {}

        async def list_all(call: Call) -> Answer:
            names = self._topics if collection == "topics" else self._subscriptions
            prefix = f"projects/{call.path['project']}/"
            mine = (name for name in names if name.startswith(prefix))
            return _page(call, collection, mine, get)

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

    def state(self) -> Answer:
        """The topics, and the subscriptions with the numbers of their messages."""
        return {
            "topics": sorted(self._topics),
            "subscriptions": {
                name: {
                    "topic": subscription.resource["topic"],
                    "unacknowledged": self._deliveries.backlog(name).unacknowledged,
                    "waiting": len(self._deliveries.backlog(name).ready),
                }
                for name, subscription in sorted(self._subscriptions.items())
            },
        }

    async def run(self) -> None:
        """Ends leases when they are due; at its end, waiting pulls end too."""
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
        topic = resources.new_topic(name, decode(call.body, requests.Topic))
        if name in self._topics:
            raise _exists(call)
        self._topics[name] = topic
        return topic

    async def _patch_topic(self, call: Call) -> Answer:
        name = self._find_topic(call)
        request = decode(_with_mask(call), requests.UpdateTopic)
        topic = resources.patched_topic(self._topics[name], request.topic, request.update_mask)
        self._topics[name] = topic
        return topic

    async def _delete_topic(self, call: Call) -> Answer:
        name = self._find_topic(call)
        del self._topics[name]
        self._policies.drop(name)
        for subscribed in self._by_topic.pop(name, set()):
            subscription = self._subscriptions[subscribed]
            subscription.resource["topic"] = resources.DELETED_TOPIC
            self._subscriptions[subscribed] = subscription
        return {}

    async def _publish(self, call: Call) -> Answer:
        name = self._find_topic(call)
        messages = resources.check_messages(decode(call.body, requests.Publish).messages)
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
        attributes = stamped.get("attributes", {})
        for subscribed in sorted(self._by_topic[topic]):
            subscription = self._live(subscribed)
            if subscription is None:
                continue
            if parse_filter(subscription.resource.get("filter", ""))(attributes):
                self._deliveries.add(subscribed, stamped, now)
        return str(number)

    async def _list_subscriptions_of_topic(self, call: Call) -> Answer:
        names = list(self._by_topic[self._find_topic(call)])
        return _page(call, "subscriptions", names, lambda name: name if self._live(name) else None)

    async def _list_snapshots_of_topic(self, call: Call) -> Answer:
        self._find_topic(call)
        return await _list_snapshots(call)

    def _find_topic(self, call: Call) -> str:
        name = f"projects/{call.path['project']}/topics/{call.path['id']}"
        if name not in self._topics:
            raise _missing(call)
        return name

    async def _create_subscription(self, call: Call) -> Answer:
        name = _name(call)
        resource = resources.new_subscription(name, decode(call.body, requests.SubscriptionBody))
        if self._live(name) is not None:
            raise _exists(call)
        if resource["topic"] not in self._topics:
            raise not_found(f"Subscription topic does not exist (resource={resource['topic']}).")
        self._check_dead_letter_topic(resource)
        self._subscriptions[name] = Subscription(resource, self._cloud.clock.now())
        self._by_topic[resource["topic"]].add(name)
        self._deliveries.open(name)
        return resource

    async def _patch_subscription(self, call: Call) -> Answer:
        name, subscription = self._find(call)
        request = decode(_with_mask(call), requests.UpdateSubscription)
        changed = resources.patched_subscription(
            subscription.resource, request.subscription, request.update_mask
        )
        self._check_dead_letter_topic(changed)
        self._subscriptions[name] = Subscription(changed, subscription.active)
        return changed

    def _check_dead_letter_topic(self, resource: Answer) -> None:
        policy = resource.get("deadLetterPolicy")
        if policy and policy["deadLetterTopic"] not in self._topics:
            raise not_found(f"Dead letter topic not found (resource={policy['deadLetterTopic']}).")

    async def _delete_subscription(self, call: Call) -> Answer:
        name, _ = self._find(call)
        self._remove(name)
        return {}

    async def _pull(self, call: Call) -> Answer:
        request = decode(call.body, requests.Pull)
        clock = self._cloud.clock
        patience = 0.0 if request.return_immediately else HOLD_SECONDS
        deadline = clock.monotonic() + patience
        while True:
            name, subscription = self._find(call)
            if subscription.resource.get("detached"):
                raise ServiceError(400, "FAILED_PRECONDITION", "Subscription is detached.")
            self._end_leases()
            backlog = self._deliveries.backlog(name)
            if backlog.ready:
                return {"receivedMessages": self._take(call, name, subscription, request)}
            left = deadline - clock.monotonic()
            if left <= 0 or self._closing:
                return {}
            backlog.stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await backlog.stirred.wait()

    def _take(
        self, call: Call, name: str, subscription: Subscription, request: requests.Pull
    ) -> list[Answer]:
        transport = call.request.transport
        if transport is None or transport.is_closing():
            return []  # nobody would get the messages: they stay for others
        resource, now = subscription.resource, self._cloud.clock.now()
        taken = self._deliveries.take(
            name,
            most=min(request.max_messages, MAX_PULL),
            now=now,
            seconds=resource["ackDeadlineSeconds"],
            oldest=now - resources.retention_seconds(resource),
        )
        self._leased.set()
        counted = bool(resource.get("deadLetterPolicy"))
        return [_received(delivery, counted=counted) for delivery in taken]

    async def _acknowledge(self, call: Call) -> Answer:
        name, subscription = self._find(call)
        ack_ids = (await _small(call, requests.Acknowledge)).ack_ids
        now = self._cloud.clock.now()
        keep = subscription.resource.get("retainAckedMessages", False)
        self._deliveries.acknowledge(name, ack_ids, now, keep=keep)
        return {}

    async def _modify_ack_deadline(self, call: Call) -> Answer:
        name, _ = self._find(call)
        request = await _small(call, requests.ModifyAckDeadline)
        now = self._cloud.clock.now()
        self._deliveries.extend(name, request.ack_ids, now, request.ack_deadline_seconds or 0)
        self._end_leases()
        self._leased.set()
        return {}

    async def _modify_push_config(self, call: Call) -> Answer:
        self._find(call)
        if decode(call.body, requests.ModifyPushConfig).push_config:
            raise invalid("the embedded cloud has no push delivery: leave pushConfig empty")
        return {}

    async def _seek(self, call: Call) -> Answer:
        name, subscription = self._find(call)
        request = decode(call.body, requests.Seek)
        if (request.time is None) == (request.snapshot is None):
            raise invalid("a seek needs either a time or a snapshot")
        if request.time is None:
            raise not_found(f"Resource not found (resource={request.snapshot}).")
        keep = subscription.resource.get("retainAckedMessages", False)
        self._deliveries.seek(name, resources.parse_time(request.time), keep=keep)
        return {}

    async def _detach(self, call: Call) -> Answer:
        name, subscription = self._find(call)
        subscription.resource = {**subscription.resource, "detached": True}
        self._subscriptions[name] = subscription
        self._by_topic[subscription.resource["topic"]].discard(name)
        self._deliveries.clear(name)
        return {}

    def _end_leases(self) -> bool:
        return self._deliveries.end_leases(self._cloud.clock.now(), self._bury, self._rest)

    def _rest(self, name: str, pending: Pending) -> float:
        return resources.backoff_seconds(self._subscriptions[name].resource, pending.attempts)

    def _bury(self, name: str, pending: Pending) -> bool:
        """Sends a message to the dead-letter topic after too many deliveries, if there is one."""
        resource = self._subscriptions[name].resource
        policy = resource.get("deadLetterPolicy")
        if not policy or pending.attempts < policy["maxDeliveryAttempts"]:
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
        now = self._cloud.clock.now()
        if now >= subscription.active + ACTIVE_SECONDS:
            subscription.active = now
            self._subscriptions[name] = subscription
        return name, subscription

    def _subscription_json(self, name: str) -> Answer | None:
        subscription = self._live(name)
        if subscription is None:
            return None
        topic = self._topics.get(subscription.resource["topic"], {})
        if "messageRetentionDuration" not in topic:
            return subscription.resource
        kept = topic["messageRetentionDuration"]
        return {**subscription.resource, "topicMessageRetentionDuration": kept}

    def _live(self, name: str) -> Subscription | None:
        """A subscription; None if it does not exist or has expired."""
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


async def _small(call: Call, kind: type[T]) -> T:
    """A request whose size is limited.

    Raises:
        ServiceError: it is too large, or has the wrong shape.
    """
    if len(await call.request.read()) > MAX_ACK_BYTES:
        raise invalid(f"Request payload size exceeds the limit: {MAX_ACK_BYTES} bytes.")
    return decode(call.body, kind)


async def _list_snapshots(_: Call) -> Answer:
    return {}


async def _create_snapshot(_: Call) -> Answer:
    message = "the embedded cloud has no snapshots: seek to a time"
    raise ServiceError(501, "UNIMPLEMENTED", message)


def _received(delivery: Delivery, *, counted: bool) -> Answer:
    received: Answer = {"ackId": delivery.ack_id, "message": delivery.pending.message}
    if counted:
        received["deliveryAttempt"] = delivery.pending.attempts
    return received


def _with_mask(call: Call) -> Answer:
    """The body of an update, whose mask may also stand in the query."""
    mask = call.query.get("updateMask")
    return call.body if mask is None else {"updateMask": mask, **call.body}


def _page(
    call: Call, collection: str, names: Iterable[str], get: Callable[[str], Answer | str | None]
) -> Answer:
    """One page of a list by name; the token is the last name of the page before."""
    size, after = call.query.get("pageSize", "0"), call.query.get("pageToken", "")
    if not (size.isascii() and size.isdecimal() and len(size) < 10):
        raise invalid("pageSize must be a number")
    most = min(int(size) or 100, 1000)
    later = sorted(name for name in names if name > after)
    page = [item for name in later[:most] if (item := get(name)) is not None]
    token = {"nextPageToken": later[most - 1]} if len(later) > most else {}
    return {collection: page, **token}
