"""process-pubsub-messages: stores the Machine Provider's messages in the machines' entities.

A message is acknowledged only after its effect is stored. One that cannot be understood is stored
with its reason and acknowledged too, so that it blocks no other. A slow sweep that
asks the catalog makes up for lost messages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gce_backend.actions import lease_ends
from gce_backend.actions.accounts import DEFAULT, machine_account
from gce_backend.actions.lease_sweep import sweep
from gce_backend.base.errors import BackendError, MissingEntityError
from gce_backend.base.plurals import plural
from gce_backend.clients.pubsub import Received
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.engine.metrics import UNKNOWN_KIND
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance, SetAsideMessage
from gce_backend.model.keys import Key, MachineKey
from gce_backend.rules.messages import (
    Message,
    MessageKind,
    PoisonError,
    apply_all,
    is_about,
    understand,
)

BATCH = 1000
MAX_KEPT_TEXT = 500
RETRY_SECONDS = 5.0
"""Seconds after which messages are retried whose effect could not be stored."""


class Dealt(NamedTuple):
    """The outcome of one message, once the changes are stored.

    Attributes:
        received: the message.
        kind: its kind; None when it is unknown.
        outcome: `processed`, `stale` or `set-aside`.
        detail: the instance that it is about, or why it was set aside.
    """

    received: Received
    kind: MessageKind | None
    outcome: str
    detail: str


async def run(context: Context) -> Outcome:
    """Processes the queue batch by batch, then sweeps."""
    changed = 0
    facts: Counter[str] = Counter()
    endless: dict[MachineKey, None] = {}
    while batch := context.inbox.take(BATCH):
        try:
            changed += await _work(context, batch, facts, endless)
        except BackendError as error:  # nothing is wrong with the messages: they are kept
            context.inbox.give_back(batch)
            return Outcome(
                changed=changed,
                facts=facts,
                again_after=RETRY_SECONDS,
                problems=(f"{plural(len(batch), 'message')} not processed yet: {error}",),
            )
        except BaseException:
            context.inbox.give_back(batch)
            raise
        await context.inbox.acknowledge(batch)
    try:
        changed += await lease_ends.ask(context, list(endless))
        swept = await sweep(context)
    except BackendError as error:  # what was changed above must still wake others
        swept = Outcome(problems=(f"sweep: {error}",))
    return Outcome(
        changed=changed + swept.changed,
        facts={**facts, **swept.facts},
        again_after=swept.again_after,
        problems=swept.problems,
    )


async def _work(
    context: Context,
    batch: Sequence[Received],
    facts: Counter[str],
    endless: dict[MachineKey, None],
) -> int:
    """Stores the effect of a batch; returns how many entities changed.

    Args:
        facts: counts what became of the messages.
        endless: gets the machines whose leases' ends no message has said.
    """
    changes: list[Change[Any]] = []
    dealt: list[Dealt] = []
    understood: list[tuple[Received, Message]] = []
    for received in batch:
        try:
            message = understand(context.project, received.data, received.attributes)
        except PoisonError as poison:
            changes.append(_set_aside(context, received, str(poison)))
            dealt.append(Dealt(received, None, "set-aside", str(poison)))
        else:
            understood.append((received, message))
    by_instance: defaultdict[MachineKey, list[Message]] = defaultdict(list)
    causes: defaultdict[MachineKey, list[str]] = defaultdict(list)
    await _look_again(context, [message for _, message in understood])
    for received, message in understood:
        instance = context.fleet.instances.get(message.instance)
        if instance is None:
            reason = f"unknown instance {message.instance}"
            changes.append(_set_aside(context, received, reason))
            dealt.append(Dealt(received, message.kind, "set-aside", reason))
        elif not is_about(message, instance):
            dealt.append(Dealt(received, message.kind, "stale", message.instance.name))
        else:
            by_instance[message.instance].append(message)
            causes[message.instance].append(f"{message.kind.value} {received.message_id}")
            dealt.append(Dealt(received, message.kind, "processed", message.instance.name))
    for key, said in by_instance.items():
        account = await _account(context, key, said)
        cause = f"message {', '.join(causes[key])}"
        changes.append(Change(key, _applied(context, account, said), cause))
    changed = await context.fleet.change(changes)
    endless.update(
        (key, None) for key, said in by_instance.items() if _is_endless(context, key, said)
    )
    for item in dealt:
        facts[item.outcome] += 1
        _report(context, item)
    return changed


def _is_endless(context: Context, key: MachineKey, said: Sequence[Message]) -> bool:
    """Whether messages said that a machine is leased, and none has ever said until when."""
    instance = context.fleet.instances.get(key)
    lease = instance.lease if instance is not None else None
    is_leased = any(message.kind is MessageKind.LEASED for message in said)
    return is_leased and lease is not None and lease.expiration is None


async def _look_again(context: Context, messages: Iterable[Message]) -> None:
    """Reads entities that the picture may lack: another process may have just written them."""
    doubtful: dict[Key, None] = {}
    for message in messages:
        known = context.fleet.instances.get(message.instance)
        if known is None or not is_about(message, known):
            doubtful.update(dict.fromkeys(message.instance.lineage))
    if doubtful:
        await context.fleet.refresh(doubtful)


def _report(context: Context, item: Dealt) -> None:
    context.metrics.message(item.kind.value if item.kind else UNKNOWN_KIND, item.outcome)
    if item.outcome == "set-aside":
        context.log.error(
            "message.set_aside", message_id=item.received.message_id, reason=item.detail
        )
        return
    context.log.info(
        "message.processed",
        kind=item.kind.value if item.kind else UNKNOWN_KIND,
        outcome=item.outcome,
        instance=item.detail,
        message_id=item.received.message_id,
    )


async def _account(context: Context, key: MachineKey, messages: Sequence[Message]) -> str:
    """The account with which a machine subscribes, as far as it is known now."""
    if all(message.kind is not MessageKind.SUBSCRIBED for message in messages):
        return ""
    try:
        return await machine_account(context, key)
    except MissingEntityError:
        return ""
    except BackendError:  # on the VM itself the word means the same
        return DEFAULT


def _applied(context: Context, account: str, messages: Sequence[Message]) -> Apply[Instance]:
    now = context.clock.now()
    return when_present(lambda instance: apply_all(messages, instance, account, now))


def _set_aside(context: Context, received: Received, reason: str) -> Change[SetAsideMessage]:
    message = SetAsideMessage(
        reason=reason,
        received=context.clock.now(),
        data=(received.data or "")[:MAX_KEPT_TEXT],
        attributes={
            key[:MAX_KEPT_TEXT]: value[:MAX_KEPT_TEXT]
            for key, value in list(received.attributes.items())[:20]
        },
    )
    key = Key(SetAsideMessage.KIND, received.message_id)
    return Change(key, lambda kept: kept or message)


JOB = Job(
    name="process-pubsub-messages",
    run=run,
    timeout=60.0,
    wakes=(
        "compress-instance-metadata-updates",
        "delete-instances-pending-deletion",
        "remove-cataloged-instances",
        "resize-instance-groups",
    ),
)
