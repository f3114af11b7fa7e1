"""process-pubsub-messages: what the Machine Provider said of a machine is in its entity.

A message is acknowledged only after its effect is stored. One that cannot be understood is stored
with its reason and acknowledged too, so that it blocks no other. Lost messages are made good by a
slow sweep that asks the catalog itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gce_backend.context import Context
from gce_backend.fleet import Change, when_present
from gce_backend.job import Job, Outcome
from gce_backend.messages import Message, Poison, apply, is_about, understand
from gce_backend.models import Instance, Key, SetAsideMessage
from gce_backend.pubsub_client import Received
from gce_backend.sweep import sweep

NAME = "process-pubsub-messages"
BATCH = 1000
MAX_KEPT_TEXT = 500

Apply: TypeAlias = Callable[[Instance | None], Instance | None]


async def run(context: Context) -> Outcome:
    """Works on what is in the queue, batch by batch, then sweeps."""
    changed = 0
    facts: Counter[str] = Counter()
    while batch := context.inbox.take(BATCH):
        try:
            changed += await _work(context, batch, facts)
        except BaseException:
            context.inbox.give_back(batch)
            raise
        await context.inbox.acknowledge(batch)
    swept = await sweep(context, NAME)
    return Outcome(
        changed=changed + swept.changed,
        facts={**facts, **swept.facts},
        again_after=swept.again_after,
        problems=swept.problems,
    )


async def _work(context: Context, batch: Sequence[Received], facts: Counter[str]) -> int:
    """Stores the effect of a batch; returns how many entities changed."""
    understood: list[tuple[Received, Message]] = []
    changes: list[Change[Any]] = []
    for received in batch:
        try:
            message = understand(context.project, received.data, received.attributes)
        except Poison as poison:
            changes.append(_set_aside(context, received, str(poison)))
            continue
        understood.append((received, message))
    # The picture may lack what another process has just written: look before giving up on one.
    unknown = {m.instance for _, m in understood if m.instance not in context.fleet.instances}
    if unknown:
        await context.fleet.refresh(unknown)
    for received, message in understood:
        instance = context.fleet.instances.get(message.instance)
        if instance is None:
            reason = f"unknown instance {message.instance}"
            changes.append(_set_aside(context, received, reason))
        elif not is_about(message, instance):
            facts["stale"] += 1
            context.metrics.message(message.kind.value, "stale")
        else:
            changes.append(Change(message.instance, _applied(context, message)))
            facts[message.kind.value.lower()] += 1
            context.metrics.message(message.kind.value, "processed")
            context.log.info(
                "message.processed",
                job=NAME,
                kind=message.kind.value,
                instance=message.instance.name,
                message_id=received.message_id,
            )
    return await context.fleet.change(changes)


def _applied(context: Context, message: Message) -> Apply:
    now = context.clock.now()
    manager = message.instance.parent
    accounts = context.fleet.revision_of(manager).template.service_accounts if manager else ()
    account = accounts[0].name if accounts else ""

    def change(instance: Instance) -> Instance:
        return apply(message, instance, account, now) if is_about(message, instance) else instance

    return when_present(change)


def _set_aside(context: Context, received: Received, reason: str) -> Change[SetAsideMessage]:
    context.metrics.message("unknown", "set-aside")
    context.log.error(
        "message.set_aside", job=NAME, message_id=received.message_id, reason=reason
    )
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
    name=NAME,
    run=run,
    timeout=60.0,
    wakes=(
        "compress-instance-metadata-updates",
        "delete-instances-pending-deletion",
        "remove-cataloged-instances",
    ),
)
