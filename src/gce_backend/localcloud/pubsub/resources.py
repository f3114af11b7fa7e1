"""Topics, subscriptions and messages: converts requests to JSON, by Google's rules."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Any

import msgspec

from gce_backend.localcloud.pubsub.filters import parse_filter
from gce_backend.localcloud.pubsub.requests import PubsubMessage, SubscriptionBody, Topic
from gce_backend.localcloud.statuses import invalid
from gce_backend.localcloud.wire import from_base64, json_name

DELETED_TOPIC = "_deleted-topic_"
MAX_MESSAGES = 1000
MAX_PUBLISH_BYTES = 10_000_000
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_NAME_BYTES = 256
MAX_ATTRIBUTE_BYTES = 1024
MAX_ORDERING_KEY_BYTES = 1024
DAY = 86_400.0

_ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_NAME = re.compile(r"projects/([^/]+)/(topics|subscriptions)/([^/]+)")
_TOPIC_MASK = {"labels", "messageRetentionDuration"}
_SUBSCRIPTION_MASK = {
    "labels",
    "ackDeadlineSeconds",
    "messageRetentionDuration",
    "retainAckedMessages",
    "expirationPolicy",
    "deadLetterPolicy",
    "retryPolicy",
}
_OUTPUT_ONLY = {"state", "detached", "topicMessageRetentionDuration"}
_ABSENT = {
    "enableMessageOrdering": "ordered delivery",
    "enableExactlyOnceDelivery": "delivery exactly once",
    "pushConfig": "push delivery",
    "messageTransforms": "message transforms",
    "tags": "tags",
    "bigqueryConfig": "export to BigQuery",
    "bigtableConfig": "export to Bigtable",
    "cloudStorageConfig": "export to Cloud Storage",
    "ingestionDataSourceSettings": "ingestion",
    "kmsKeyName": "encryption keys",
    "messageStoragePolicy": "storage policies",
    "schemaSettings": "schemas",
}
"""What Google has and the embedded cloud has not: taken where it is empty."""


def check_name(name: str | None) -> str:
    """The full name of a topic or subscription.

    Raises:
        ServiceError: it breaks Google's rules for names.
    """
    match = _NAME.fullmatch(name or "")
    if name is None or match is None or not _ID.fullmatch(match[3]):
        raise invalid(f"Invalid resource name given (name={name}).")
    return name


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def parse_time(text: str) -> float:
    """Unix time of an RFC 3339 time.

    Raises:
        ServiceError: it is not one.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"Invalid time: {text!r}") from None
    if moment.tzinfo is None:
        raise invalid(f"Invalid time: {text!r} has no time zone")
    return moment.timestamp()


def new_topic(name: str, request: Topic) -> dict[str, Any]:
    """The JSON Topic that a create makes.

    Raises:
        ServiceError: it breaks a rule.
    """
    return _topic({**_possible(request), "name": check_name(name)})


def patched_topic(topic: dict[str, Any], changes: Topic, mask: str) -> dict[str, Any]:
    """A topic with the changes that a mask names.

    Raises:
        ServiceError: the mask names what cannot be changed, or the result breaks a rule.
    """
    return _topic(_patch(topic, _possible(changes), mask, _TOPIC_MASK))


def _topic(topic: dict[str, Any]) -> dict[str, Any]:
    if "messageRetentionDuration" in topic:
        _check_retention(topic["messageRetentionDuration"])
    return {**topic, "state": "ACTIVE"}


def new_subscription(name: str, request: SubscriptionBody) -> dict[str, Any]:
    """The JSON Subscription that a create makes, with Google's defaults.

    Raises:
        ServiceError: it breaks a rule, or asks for what the embedded cloud does not have.
    """
    given = _possible(request)
    return _subscription({**given, "topic": check_name(request.topic), "name": check_name(name)})


def patched_subscription(
    subscription: dict[str, Any], changes: SubscriptionBody, mask: str
) -> dict[str, Any]:
    """A subscription with the changes that a mask names.

    Raises:
        ServiceError: the mask names what cannot be changed, or the result breaks a rule.
    """
    return _subscription(_patch(subscription, _possible(changes), mask, _SUBSCRIPTION_MASK))


def _possible(request: Topic | SubscriptionBody) -> dict[str, Any]:
    """The given members, without empty ones that the embedded cloud does not have."""
    given = _given(request)
    for member, what in _ABSENT.items():
        if given.pop(member, None):
            raise invalid(f"the embedded cloud has no {what}: leave {member} out")
    return given


def _given(request: Topic | SubscriptionBody) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(request)
    return {name: value for name, value in members.items() if name not in _OUTPUT_ONLY}


def _patch(
    resource: dict[str, Any], changes: dict[str, Any], mask: str, changeable: set[str]
) -> dict[str, Any]:
    names = [json_name(name) for name in mask.split(",") if name]
    if not names or not changeable.union(_ABSENT).issuperset(names):
        raise invalid(
            f"Invalid update_mask provided: {mask!r}; it can name {', '.join(sorted(changeable))}"
        )
    kept = {name: value for name, value in resource.items() if name not in names}
    return {**kept, **{name: changes[name] for name in names if name in changes}}


def _subscription(subscription: dict[str, Any]) -> dict[str, Any]:
    """A subscription with all defaults, checked."""
    subscription = {
        "messageRetentionDuration": "604800s",
        "expirationPolicy": {"ttl": "2678400s"},
        **subscription,
        "ackDeadlineSeconds": subscription.get("ackDeadlineSeconds") or 10,
        "pushConfig": {},
        "state": "ACTIVE",
    }
    if not 10 <= subscription["ackDeadlineSeconds"] <= 600:
        raise invalid("ackDeadlineSeconds must be between 10 and 600")
    _check_retention(subscription["messageRetentionDuration"])
    idle = expires_after(subscription)
    if idle is not None and idle < DAY:
        raise invalid("expirationPolicy.ttl must be at least 1 day")
    if "deadLetterPolicy" in subscription:
        policy = {"maxDeliveryAttempts": 5, **subscription["deadLetterPolicy"]}
        policy["maxDeliveryAttempts"] = policy["maxDeliveryAttempts"] or 5
        check_name(policy.get("deadLetterTopic"))
        if not 5 <= policy["maxDeliveryAttempts"] <= 100:
            raise invalid("maxDeliveryAttempts must be between 5 and 100")
        subscription["deadLetterPolicy"] = policy
    if "retryPolicy" in subscription:
        defaults = {"minimumBackoff": "10s", "maximumBackoff": "600s"}
        subscription["retryPolicy"] = {**defaults, **subscription["retryPolicy"]}
        shortest, longest = map(_seconds, subscription["retryPolicy"].values())
        if not shortest <= longest <= 600:
            raise invalid("retryPolicy: 0s <= minimumBackoff <= maximumBackoff <= 600s must hold")
    parse_filter(subscription.get("filter", ""))
    return subscription


def _check_retention(duration: str) -> None:
    if not 600 <= _seconds(duration) <= 31 * DAY:
        raise invalid("messageRetentionDuration must be between 10 minutes and 31 days")


def retention_seconds(subscription: dict[str, Any]) -> float:
    """How long a message is kept."""
    return _seconds(subscription["messageRetentionDuration"])


def expires_after(subscription: dict[str, Any]) -> float | None:
    """The idle seconds after which the subscription is deleted; None for never."""
    ttl = subscription["expirationPolicy"].get("ttl")
    return _seconds(ttl) if ttl else None


def backoff_seconds(subscription: dict[str, Any], attempts: int) -> float:
    """How long a message that was not acknowledged rests before it is delivered again.

    Args:
        subscription: its JSON Subscription.
        attempts: how often it was delivered; each doubles the pause.
    """
    policy = subscription.get("retryPolicy")
    if policy is None:
        return 0.0
    shortest = _seconds(policy["minimumBackoff"])
    doubled = shortest * 2.0 ** min(attempts - 1, 32)
    return min(doubled, _seconds(policy["maximumBackoff"]))


def check_messages(messages: list[PubsubMessage]) -> list[dict[str, Any]]:
    """The messages of a publish as JSON: data, attributes and ordering key.

    Raises:
        ServiceError: one of them, their number or their size breaks a rule.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid(f"a publish takes 1 to {MAX_MESSAGES} messages")
    if len({message.ordering_key or "" for message in messages}) > 1:
        raise invalid("all messages of a publish must have the same orderingKey")
    checked = [_check_message(message) for message in messages]
    if len(msgspec.json.encode(checked)) > MAX_PUBLISH_BYTES:
        raise invalid(f"the messages are larger than {MAX_PUBLISH_BYTES} bytes")
    return checked


def _check_message(message: PubsubMessage) -> dict[str, Any]:
    data, attributes = message.data or "", message.attributes or {}
    try:
        data = base64.b64encode(from_base64(data)).decode()
    except ValueError:
        raise invalid("a message's data is not base64") from None
    if not data and not attributes:
        raise invalid("a message needs data or attributes")
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid(f"a message has at most {MAX_ATTRIBUTES} attributes")
    for name, value in attributes.items():
        if not 0 < len(name.encode()) <= MAX_ATTRIBUTE_NAME_BYTES or name.startswith("goog"):
            raise invalid(
                f"an attribute's name has 1 to {MAX_ATTRIBUTE_NAME_BYTES} bytes and does not "
                "begin with goog"
            )
        if len(value.encode()) > MAX_ATTRIBUTE_BYTES:
            raise invalid(f"an attribute's value has at most {MAX_ATTRIBUTE_BYTES} bytes")
    key = message.ordering_key or ""
    if len(key.encode()) > MAX_ORDERING_KEY_BYTES:
        raise invalid(f"an orderingKey has at most {MAX_ORDERING_KEY_BYTES} bytes")
    members = {"data": data, "attributes": attributes, "orderingKey": key}
    return {name: value for name, value in members.items() if value}
