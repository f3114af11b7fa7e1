"""Parses the Machine Provider's messages, and applies them to instances. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError
from gce_backend.model.entities import (
    CatalogState,
    Instance,
    Lease,
    MetadataUpdate,
    PendingDeletion,
)
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import ID_ATTRIBUTE, KEY_ATTRIBUTE, parse_instance_token

MAX_ATTRIBUTE = 1024
MAX_ID_DIGITS = 20
LATEST = 1e11
"""The latest end of a lease in Unix seconds: a greater number is in milliseconds."""


class MessageKind(StrEnum):
    """The kind of a message about a machine."""

    SUBSCRIBED = "SUBSCRIBED"
    LEASED = "LEASED"
    RECLAIMED = "RECLAIMED"


class Message(msgspec.Struct, frozen=True):
    """A valid message.

    Attributes:
        instance: the entity that it is about.
        gce_id: the VM's numeric id, if the message has one: a name may be used again.
        attributes: all of its attributes.
    """

    kind: MessageKind
    instance: MachineKey
    gce_id: int | None
    attributes: Mapping[str, str]


class PoisonError(BackendError):
    """A message that can never be understood; the error's text gives the reason."""


def understand(project: str, data: str | bytes | None, attributes: Mapping[str, str]) -> Message:
    """Parses a message.

    Args:
        project: the project whose entities it may name.
        data: the message's data, base64 as on the wire.

    Raises:
        PoisonError: it is not a message of the Machine Provider about an instance of this project.
    """
    word = _word(data)
    try:
        kind = MessageKind(word)
    except ValueError:
        raise PoisonError(f"unknown kind {word[:100]!r}") from None
    token = attributes.get(KEY_ATTRIBUTE)
    if token is None:
        raise PoisonError("it has no attribute 'key'")
    try:
        instance = parse_instance_token(project, token)
    except ValueError as error:
        raise PoisonError(str(error)) from None
    hostname = attributes.get("hostname", instance.name)
    if hostname != instance.name:
        raise PoisonError(f"hostname {hostname[:100]!r} is not the one of key {token[:200]!r}")
    gce_id = attributes.get(ID_ATTRIBUTE)
    if gce_id is not None and not _is_id(gce_id):
        raise PoisonError(f"{ID_ATTRIBUTE} {gce_id[:100]!r} is not a number")
    if kind is MessageKind.SUBSCRIBED:
        _check_subscription(attributes)
    return Message(kind, instance, int(gce_id) if gce_id else None, dict(attributes))


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS


def _word(data: str | bytes | None) -> str:
    try:
        return base64.b64decode(data or b"", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise PoisonError("its data is not base64 of ASCII text") from None


def _check_subscription(attributes: Mapping[str, str]) -> None:
    for name in ("subscription", "subscription_project"):
        value = attributes.get(name, "")
        if not value or len(value) > MAX_ATTRIBUTE:
            raise PoisonError(f"SUBSCRIBED without a usable attribute {name!r}")


def is_about(message: Message, instance: Instance) -> bool:
    """Whether a message is about this VM, and not an earlier one of the same name (fault 33)."""
    return message.gce_id is None or message.gce_id == instance.gce_id


def apply_all(
    messages: Sequence[Message], instance: Instance, service_account: str, now: UnixSeconds
) -> Instance:
    """Applies the messages of one batch to the instance that they name.

    The batch as a whole is idempotent. Several SUBSCRIBED one by one are not, so the last counts.

    Args:
        messages: in order of arrival; those about another VM of its name do nothing.
        service_account: the account for a SUBSCRIBED machine.
    """
    relevant = [message for message in messages if is_about(message, instance)]
    last = max((n for n, m in enumerate(relevant) if m.kind is MessageKind.SUBSCRIBED), default=-1)
    for number, message in enumerate(relevant):
        if message.kind is not MessageKind.SUBSCRIBED or number == last:
            instance = apply(message, instance, service_account, now)
    return instance


def apply(message: Message, instance: Instance, service_account: str, now: UnixSeconds) -> Instance:
    """Applies a message to its instance. Idempotent and independent of order.

    Args:
        message: a message about this instance.
        service_account: the account for a SUBSCRIBED machine.
    """
    if instance.is_tombstone:
        return instance
    if instance.catalog is CatalogState.NEVER:  # the store is older than the message: a restore
        instance = replace(instance, catalog=CatalogState.CATALOGED, rising_since=None)
    if message.kind is MessageKind.RECLAIMED:
        if instance.pending_deletion is not None:
            return instance
        reason = "The Machine Provider has reclaimed it."
        return replace(instance, pending_deletion=PendingDeletion(reason, now), lease=None)
    if instance.pending_deletion is not None:  # late: its lease has ended
        return instance
    if message.kind is MessageKind.LEASED:
        # A restored catalog has it again. What is being deleted is asked about before each call.
        if instance.catalog is CatalogState.REMOVED and instance.deletion is None:
            instance = replace(instance, catalog=CatalogState.CATALOGED)
        return leased(instance, _timestamp(message.attributes.get("lease_expiration_ts")), now)
    return _subscribed(instance, message.attributes, service_account)


def leased(instance: Instance, expiration: float | None, now: UnixSeconds) -> Instance:
    """Somebody holds it; of several ends that were told the latest counts.

    Args:
        expiration: the lease's end in Unix seconds, as far as it was told.
    """
    lease = instance.lease
    if lease is None:
        return replace(instance, lease=Lease(now, expiration))
    if expiration is None or (lease.expiration is not None and lease.expiration >= expiration):
        return instance
    return replace(instance, lease=replace(lease, expiration=expiration))


def _subscribed(
    instance: Instance, attributes: Mapping[str, str], service_account: str
) -> Instance:
    items: dict[str, str | None] = {
        "pubsub_service_account": service_account,
        "pubsub_subscription": attributes["subscription"],
        "pubsub_subscription_project": attributes["subscription_project"],
    }
    wanted = " ".join(str(value) for value in items.values())
    if instance.subscribed == wanted:
        return instance
    updates = (*instance.pending_metadata_updates, MetadataUpdate(items))
    return replace(instance, subscribed=wanted, pending_metadata_updates=updates)


def _timestamp(text: str | None) -> float | None:
    """Unix seconds in an attribute; None when it is missing or invalid."""
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return lease_end(value)


def lease_end(told: float | None) -> float | None:
    """The end of a lease in Unix seconds; None when it is missing or invalid."""
    return float(told) if told is not None and 0 < told < LATEST else None
