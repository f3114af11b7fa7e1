"""The Machine Provider's topic and subscription: creates, corrects and checks them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from typing import Any

import msgspec

from gce_backend.base.errors import AlreadyExistsError, NotFoundError, RemoteError
from gce_backend.clients.pubsub import PubSub
from gce_backend.settings.settings import Settings
from gce_backend.setup.permissions import SUBSCRIPTION

DEAD_LETTER_SUFFIX = "-dead-letter"
MAX_DELIVERY_ATTEMPTS = 20
DELETED_TOPIC = "_deleted-topic_"
PUBLISHER = "roles/pubsub.publisher"
SUBSCRIBER = "roles/pubsub.subscriber"
AGENT = re.compile(r"serviceAccount:service-\d+@gcp-sa-pubsub\.iam\.gserviceaccount\.com")
"""Pub/Sub itself, which moves messages that nobody acknowledges to the dead-letter topic."""


class Done(msgspec.Struct, frozen=True):
    """One step.

    Attributes:
        what: the resource, in words.
        outcome: `made`, `present`, `would make`, `changed`, `would change`, `unknown` (it would be
            made first), `by hand` (only a person can see to it), `unset`, `missing`, `wrong` (a
            person has to correct it) or `failed` (it could not be looked at, or made).
        remedy: what to do about it; "" when there is nothing to do.
    """

    what: str
    outcome: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do."""
        return self.outcome not in {"missing", "wrong", "failed"}


async def provision_messages(
    pubsub: PubSub, settings: Settings, *, publisher: str | None = None, dry_run: bool = False
) -> AsyncIterator[Done]:
    """Makes the topic, its dead-letter topic and the pull subscription.

    The subscription never expires. It drops no message before many deliveries.

    Args:
        pubsub: Pub/Sub of the daemon's project.
        publisher: the Machine Provider's service account, which gets the right to publish.
        dry_run: only report what would be created.
    """
    topic = pubsub.topic(settings.pubsub.topic)
    dead = pubsub.topic(settings.pubsub.topic + DEAD_LETTER_SUFFIX)
    dead_subscription = pubsub.subscription(settings.pubsub.topic + DEAD_LETTER_SUFFIX)
    subscription = pubsub.subscription(settings.pubsub.subscription)
    forever: dict[str, Any] = {"expirationPolicy": {}}
    options = {
        **forever,
        "ackDeadlineSeconds": settings.pubsub.ack_deadline_seconds,
        "deadLetterPolicy": {
            "deadLetterTopic": dead,
            "maxDeliveryAttempts": MAX_DELIVERY_ATTEMPTS,
        },
    }
    yield await _ensure_topic(pubsub, topic, dry_run=dry_run)
    yield await _ensure_topic(pubsub, dead, dry_run=dry_run)
    yield await _ensure_subscription(pubsub, dead_subscription, dead, forever, dry_run=dry_run)
    yield await _ensure_subscription(pubsub, subscription, topic, options, dry_run=dry_run)
    if publisher:
        yield await allow_publisher(pubsub, topic, publisher, dry_run=dry_run)
    else:
        yield await _look_for_publisher(pubsub, topic)
    yield await _look_for_agent(pubsub, dead, subscription)
    yield await _check(pubsub, subscription, SUBSCRIPTION)


async def _ensure_topic(pubsub: PubSub, name: str, *, dry_run: bool) -> Done:
    try:
        await pubsub.get(name)
    except NotFoundError:
        return await _make(name, lambda: pubsub.create_topic(name), dry_run=dry_run)
    except RemoteError as error:
        return Done(name, "failed", str(error))
    return Done(name, "present")


async def _ensure_subscription(
    pubsub: PubSub, name: str, topic: str, options: dict[str, Any], *, dry_run: bool
) -> Done:
    try:
        found = await pubsub.get(name)
    except NotFoundError:
        return await _make(
            name, lambda: pubsub.create_subscription(name, topic, options), dry_run=dry_run
        )
    except RemoteError as error:
        return Done(name, "failed", str(error))
    if found.get("topic") != topic:
        remedy = (
            f"its topic is {found.get('topic')}, not {topic}: delete the subscription, and run "
            "setup again"
        )
        return Done(name, "wrong", remedy)
    changes = {field: options[field] for field in _differing(found, options)}
    if not changes:
        return Done(name, "present")
    what = f"{name}: {', '.join(changes)}"
    if dry_run:
        return Done(what, "would change")
    try:
        await pubsub.patch_subscription(name, changes)
    except RemoteError as error:
        return Done(what, "failed", str(error))
    return Done(what, "changed")


def _differing(found: dict[str, Any], options: dict[str, Any]) -> Iterator[str]:
    """The fields to be corrected. A dead-letter policy of the operator's own is left alone."""
    if (found.get("expirationPolicy") or {}).get("ttl"):
        yield "expirationPolicy"
    deadline = options.get("ackDeadlineSeconds")
    if deadline is not None and found.get("ackDeadlineSeconds") != deadline:
        yield "ackDeadlineSeconds"
    dead = (found.get("deadLetterPolicy") or {}).get("deadLetterTopic", "")
    if "deadLetterPolicy" in options and dead in {"", DELETED_TOPIC}:
        yield "deadLetterPolicy"


async def _make(name: str, make: Callable[[], Awaitable[None]], *, dry_run: bool) -> Done:
    if dry_run:
        return Done(name, "would make")
    try:
        await make()
    except AlreadyExistsError:
        return Done(name, "present")
    except RemoteError as error:
        return Done(name, "failed", str(error))
    return Done(name, "made")


async def allow_publisher(pubsub: PubSub, topic: str, account: str, *, dry_run: bool) -> Done:
    """Lets a service account publish to a topic.

    Args:
        pubsub: Pub/Sub.
        topic: the topic's full name.
        account: the service account's address.
        dry_run: only report what would be changed.
    """
    what = f"{account} may publish to {topic}"
    member = f"serviceAccount:{account}"
    try:
        policy = await pubsub.get_iam_policy(topic)
        if member in _members(policy, PUBLISHER):
            return Done(what, "present")
        if dry_run:
            return Done(what, "would change")
        policy.setdefault("bindings", []).append({"role": PUBLISHER, "members": [member]})
        await pubsub.set_iam_policy(topic, policy)
    except NotFoundError:
        return Done(what, "would change" if dry_run else "missing", "" if dry_run else "no topic")
    except RemoteError as error:
        return Done(what, "failed", str(error))
    return Done(what, "changed")


async def _look_for_publisher(pubsub: PubSub, topic: str) -> Done:
    what = f"the Machine Provider may publish to {topic}"
    try:
        members = _members(await pubsub.get_iam_policy(topic), PUBLISHER)
    except NotFoundError:
        members = set()
    except RemoteError as error:
        return Done(what, "unknown", str(error))
    if members:
        return Done(f"{', '.join(sorted(members))} may publish to {topic}", "present")
    return Done(what, "unset", "run setup with --machine-provider-account EMAIL")


async def _look_for_agent(pubsub: PubSub, dead: str, subscription: str) -> Done:
    """Checks the agent's role; a person grants it, as its name holds the project's number."""
    what = f"Pub/Sub's own service agent may publish to {dead}"
    remedy = (
        f"without it no message reaches the dead-letter topic. Grant {PUBLISHER} on {dead} and "
        f"{SUBSCRIBER} on {subscription} to "
        "service-PROJECT_NUMBER@gcp-sa-pubsub.iam.gserviceaccount.com"
    )
    try:
        publishers = _members(await pubsub.get_iam_policy(dead), PUBLISHER)
        subscribers = _members(await pubsub.get_iam_policy(subscription), SUBSCRIBER)
    except RemoteError:
        return Done(what, "by hand", remedy)
    known = any(map(AGENT.fullmatch, publishers)) and any(map(AGENT.fullmatch, subscribers))
    return Done(what, "present") if known else Done(what, "by hand", remedy)


def _members(policy: dict[str, Any], role: str) -> set[str]:
    """Who has a role, with no condition."""
    return {
        member
        for binding in policy.get("bindings", ())
        if binding.get("role") == role and not binding.get("condition")
        for member in binding.get("members", ())
    }


async def _check(pubsub: PubSub, name: str, permissions: tuple[str, ...]) -> Done:
    what = f"permissions of this account on {name}"
    try:
        granted = await pubsub.test_iam_permissions(name, permissions)
    except RemoteError as error:
        return Done(what, "failed", str(error))
    if not granted and await _is_absent(pubsub, name):
        return Done(what, "unknown", "it does not exist yet")
    return of_permissions(what, permissions, granted)


def of_permissions(what: str, wanted: Iterable[str], granted: Collection[str]) -> Done:
    """The step that checks permissions."""
    lacking = [permission for permission in wanted if permission not in granted]
    if lacking:
        return Done(what, "missing", f"grant {', '.join(lacking)}")
    return Done(what, "present")


async def _is_absent(pubsub: PubSub, name: str) -> bool:
    """Whether a resource does not exist: Google then grants nothing on it, without an error."""
    try:
        await pubsub.get(name)
    except NotFoundError:
        return True
    except RemoteError:
        return False
    return False
