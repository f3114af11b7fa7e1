"""Topics, subscriptions and messages: Google's rules for them, from JSON to JSON."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from gce_backend.localcloud.statuses import invalid

DELETED_TOPIC = "_deleted-topic_"
MAX_MESSAGES = 1000
MAX_PUBLISH_BYTES = 10_000_000
DAY = 86_400.0

_ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_NAME = re.compile(r"projects/([^/]+)/(topics|subscriptions)/([^/]+)")
_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")
_TOPIC_MEMBERS = {"name", "labels", "messageRetentionDuration"}
_SUBSCRIPTION_MEMBERS = {
    "name",
    "topic",
    "labels",
    "ackDeadlineSeconds",
    "messageRetentionDuration",
    "expirationPolicy",
    "deadLetterPolicy",
}
_OUTPUT_ONLY = {"state", "detached", "topicMessageRetentionDuration"}


def check_name(name: str) -> str:
    """The full name of a topic or subscription.

    Raises:
        ServiceError: it breaks Google's rules for names.
    """
    match = _NAME.fullmatch(name)
    if match is None or not _ID.fullmatch(match[3]):
        raise invalid(f"Invalid resource name given (name={name}).")
    return name


def parse_duration(text: Any) -> float:  # unchecked JSON
    """Seconds of a JSON duration such as `600s`.

    Raises:
        ServiceError: it is not one.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise invalid(f"Invalid duration: {text!r}")
    return float(match[1])


def new_topic(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON Topic that a create makes.

    Raises:
        ServiceError: it breaks a rule, or asks for what the embedded cloud does not have.
    """
    _refuse_unknown(body, _TOPIC_MEMBERS)
    if "messageRetentionDuration" in body:
        parse_duration(body["messageRetentionDuration"])
    return {**body, "name": check_name(name), "state": "ACTIVE"}


def new_subscription(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON Subscription that a create makes, with Google's defaults.

    Raises:
        ServiceError: it breaks a rule, or asks for what the embedded cloud does not have.
    """
    _refuse_unknown(body, _SUBSCRIPTION_MEMBERS)
    check_name(body.get("topic", ""))
    subscription = {
        "messageRetentionDuration": "604800s",
        "expirationPolicy": {"ttl": "2678400s"},
        **{member: body[member] for member in _SUBSCRIPTION_MEMBERS & body.keys()},
        "name": check_name(name),
        "ackDeadlineSeconds": body.get("ackDeadlineSeconds") or 10,
        "pushConfig": {},
        "state": "ACTIVE",
    }
    return _check_subscription(subscription)


def patched(subscription: dict[str, Any], changes: dict[str, Any], mask: str) -> dict[str, Any]:
    """A subscription with the members that a mask names taken from others.

    Raises:
        ServiceError: the mask names what cannot be changed, or the result breaks a rule.
    """
    names = [name for name in mask.split(",") if name]
    fixed = {"name", "topic"}
    wrong = [name for name in names if name not in _SUBSCRIPTION_MEMBERS - fixed]
    if wrong or not names:
        raise invalid(f"Invalid update_mask provided in the UpdateSubscriptionRequest: {mask!r}")
    kept = {name: value for name, value in subscription.items() if name not in names}
    new = {name: changes[name] for name in names if name in changes}
    return _check_subscription({"ackDeadlineSeconds": 10, **kept, **new})


def _check_subscription(subscription: dict[str, Any]) -> dict[str, Any]:
    deadline = subscription["ackDeadlineSeconds"]
    if not isinstance(deadline, int) or not 10 <= deadline <= 600:
        raise invalid("ackDeadlineSeconds must be between 10 and 600")
    if not 600 <= retention_seconds(subscription) <= 31 * DAY:
        raise invalid("messageRetentionDuration must be between 10 minutes and 31 days")
    idle = expires_after(subscription)
    if idle is not None and idle < DAY:
        raise invalid("expirationPolicy.ttl must be at least 1 day")
    policy = subscription.get("deadLetterPolicy")
    if policy:
        check_name(policy.get("deadLetterTopic", ""))
        if not 5 <= max_attempts(subscription) <= 100:
            raise invalid("maxDeliveryAttempts must be between 5 and 100")
    return subscription


def retention_seconds(subscription: dict[str, Any]) -> float:
    """How long an unacknowledged message is kept."""
    return parse_duration(subscription.get("messageRetentionDuration", "604800s"))


def expires_after(subscription: dict[str, Any]) -> float | None:
    """After how many idle seconds the subscription goes; None for never."""
    policy = subscription.get("expirationPolicy")
    if policy is None:
        return 31 * DAY
    return parse_duration(policy["ttl"]) if policy.get("ttl") else None


def max_attempts(subscription: dict[str, Any]) -> int:
    """After how many deliveries a message is a dead letter; only with a dead-letter policy."""
    attempts = subscription["deadLetterPolicy"].get("maxDeliveryAttempts") or 5
    if not isinstance(attempts, int):
        raise invalid("maxDeliveryAttempts must be an integer")
    return attempts


def check_messages(messages: Any) -> list[dict[str, Any]]:  # unchecked JSON
    """The messages of a publish: data and attributes.

    Raises:
        ServiceError: one of them, their number or their size breaks a rule.
    """
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid(f"a publish takes 1 to {MAX_MESSAGES} messages")
    if len(msgspec.json.encode(messages)) > MAX_PUBLISH_BYTES:
        raise invalid(f"the messages are larger than {MAX_PUBLISH_BYTES} bytes")
    return [_check_message(message) for message in messages]


def _check_message(message: Any) -> dict[str, Any]:  # as above
    if not isinstance(message, dict):
        raise invalid("a message must be an object")
    data, attributes = message.get("data") or "", message.get("attributes") or {}
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise invalid("a message's data is not base64") from None
    if not data and not attributes:
        raise invalid("a message needs data or attributes")
    if not isinstance(attributes, dict) or len(attributes) > 100:
        raise invalid("a message has at most 100 attributes")
    for name, value in attributes.items():
        if not isinstance(value, str) or not 0 < len(name.encode()) <= 256:
            raise invalid("an attribute's name has 1 to 256 bytes, and its value is a string")
        if len(value.encode()) > 1024:
            raise invalid("an attribute's value has at most 1024 bytes")
    if message.get("orderingKey"):
        raise invalid("the embedded cloud does not order messages")
    members = {"data": data, "attributes": attributes}
    return {name: value for name, value in members.items() if value}


def _refuse_unknown(body: dict[str, Any], known: set[str]) -> None:
    unknown = [name for name, value in body.items() if value and name not in known | _OUTPUT_ONLY]
    if unknown:
        raise invalid(f"the embedded cloud does not support {', '.join(sorted(unknown))}")
