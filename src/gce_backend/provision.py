"""`gce-backend setup`: makes what the daemon needs in a project, where it is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from gce_backend.errors import AlreadyExistsError, NotFoundError, RemoteError
from gce_backend.pubsub_client import PubSub
from gce_backend.settings import Settings

DEAD_LETTER_SUFFIX = "-dead-letter"
MAX_DELIVERY_ATTEMPTS = 20
PUBLISHER = "roles/pubsub.publisher"
SUBSCRIPTION_PERMISSIONS = ("pubsub.subscriptions.consume", "pubsub.subscriptions.get")
TOPIC_PERMISSIONS = ("pubsub.topics.get",)


class Done(msgspec.Struct, frozen=True):
    """One step.

    Attributes:
        what: what was looked at.
        outcome: `made`, `present`, `would make`, `changed`, `would change`, `missing` or `failed`.
        remedy: what to do about it; "" when there is nothing to do.
    """

    what: str
    outcome: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do."""
        return self.outcome not in {"missing", "failed"}


async def provision_messages(
    pubsub: PubSub, settings: Settings, *, publisher: str | None = None, dry_run: bool = False
) -> AsyncIterator[Done]:
    """Makes the topic, its dead-letter topic and the pull subscription.

    The subscription never expires and gives up on no message before it was delivered many times.

    Args:
        pubsub: Pub/Sub of the daemon's project.
        settings: the process settings.
        publisher: the Machine Provider's service account, which may publish then.
        dry_run: say what would be made, and make nothing.
    """
    topic = pubsub.topic(settings.pubsub.topic)
    dead = pubsub.topic(settings.pubsub.topic + DEAD_LETTER_SUFFIX)
    dead_subscription = pubsub.subscription(settings.pubsub.topic + DEAD_LETTER_SUFFIX)
    subscription = pubsub.subscription(settings.pubsub.subscription)
    forever: dict[str, object] = {"expirationPolicy": {}}
    options = {
        **forever,
        "ackDeadlineSeconds": settings.pubsub.ack_deadline_seconds,
        "deadLetterPolicy": {
            "deadLetterTopic": dead,
            "maxDeliveryAttempts": MAX_DELIVERY_ATTEMPTS,
        },
    }
    yield await _ensure(pubsub, topic, lambda: pubsub.create_topic(topic), dry_run=dry_run)
    yield await _ensure(pubsub, dead, lambda: pubsub.create_topic(dead), dry_run=dry_run)
    yield await _ensure(
        pubsub,
        dead_subscription,
        lambda: pubsub.create_subscription(dead_subscription, dead, forever),
        dry_run=dry_run,
    )
    yield await _ensure(
        pubsub,
        subscription,
        lambda: pubsub.create_subscription(subscription, topic, options),
        dry_run=dry_run,
    )
    if publisher:
        yield await _allow(pubsub, topic, publisher, dry_run=dry_run)
    yield await _check(pubsub, topic, TOPIC_PERMISSIONS)
    yield await _check(pubsub, subscription, SUBSCRIPTION_PERMISSIONS)


async def _ensure(
    pubsub: PubSub, name: str, make: Callable[[], Awaitable[None]], *, dry_run: bool
) -> Done:
    try:
        await pubsub.get(name)
    except NotFoundError:
        pass
    except RemoteError as error:
        return Done(name, "failed", str(error))
    else:
        return Done(name, "present")
    if dry_run:
        return Done(name, "would make")
    try:
        await make()
    except AlreadyExistsError:
        return Done(name, "present")
    except RemoteError as error:
        return Done(name, "failed", str(error))
    return Done(name, "made")


async def _allow(pubsub: PubSub, topic: str, account: str, *, dry_run: bool) -> Done:
    what = f"{account} may publish to {topic}"
    member = f"serviceAccount:{account}"
    try:
        policy = await pubsub.get_iam_policy(topic)
        bindings = policy.setdefault("bindings", [])
        members = [
            set(binding.get("members", ()))
            for binding in bindings
            if binding.get("role") == PUBLISHER
        ]
        if any(member in found for found in members):
            return Done(what, "present")
        if dry_run:
            return Done(what, "would change")
        bindings.append({"role": PUBLISHER, "members": [member]})
        await pubsub.set_iam_policy(topic, policy)
    except NotFoundError:
        return Done(what, "would change" if dry_run else "missing", "" if dry_run else "no topic")
    except RemoteError as error:
        return Done(what, "failed", str(error))
    return Done(what, "changed")


async def _check(pubsub: PubSub, name: str, permissions: tuple[str, ...]) -> Done:
    what = f"permissions on {name}"
    try:
        granted = await pubsub.test_iam_permissions(name, permissions)
    except RemoteError as error:
        return Done(what, "missing", str(error))
    lacking = sorted(set(permissions) - granted)
    if lacking:
        return Done(what, "missing", f"grant the daemon's service account {', '.join(lacking)}")
    return Done(what, "present")
