"""The lease sweep: asks the catalog, slowly, how the machines are that we know to be in it.

It makes lost messages good. A machine that the catalog does not know is only marked: what may
follow from that is decided elsewhere, under the narrow cap.
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from gce_backend.base.errors import BackendError
from gce_backend.clients.machine_provider import CatalogEntry, MethodNotOffered, NotCataloged
from gce_backend.engine.context import Context
from gce_backend.engine.job import Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import CatalogState, Instance, Lease, PendingDeletion
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import KEY_ATTRIBUTE, instance_token
from gce_backend.rules.messages import lease_end

BROKER = "machine-provider"
TOPIC = "sweep"
PATIENCE_SECONDS = 10.0
"""A Machine Provider that is slower must not keep the messages waiting."""
SLOW = "the Machine Provider does not answer in time"
SHARE_PER_MINUTE = 1 / 60
"""Of the cataloged machines: in a large fleet, too, each is asked about within an hour."""


async def sweep(context: Context) -> Outcome:
    """Asks about the machines whose turn it is, within the sweep's own pace."""
    candidates = _candidates(context)
    least = context.settings.machine_provider.sweep_per_minute
    pace = max(least, len(candidates) * SHARE_PER_MINUTE)
    due = context.turns.take(candidates, pace=pace / 60.0, now=context.clock.monotonic())
    conditions = context.conditions.of_job(TOPIC)
    if not candidates:
        conditions.clear(BROKER)
    if not due or conditions.blocked(BROKER):
        return Outcome()
    changes: list[Change[Instance]] = []
    problems: tuple[str, ...] = ()
    try:
        broker = context.broker()
        async with asyncio.timeout(PATIENCE_SECONDS):
            for key in due:
                asked = context.clock.monotonic()
                entry = await broker.get(key.name)
                if isinstance(entry, MethodNotOffered):
                    return Outcome()
                changes.append(Change(key, _judge(context, key, entry, asked)))
    except (BackendError, TimeoutError) as error:
        context.turns.give_back(due[len(changes) :])  # they come first the next time
        if isinstance(error, BackendError) or not changes:
            conditions.back_off(BROKER, "Unavailable", str(error) or SLOW)
            problems = (f"sweep: {str(error) or SLOW}",)
    else:
        conditions.clear(BROKER)
    changed = await context.fleet.change(changes)
    return Outcome(changed=changed, facts={"swept": len(changes)}, problems=problems)


def _candidates(context: Context) -> list[MachineKey]:
    return [
        key
        for key, instance in context.fleet.instances.items()
        if instance.catalog is CatalogState.CATALOGED
        and instance.pending_deletion is None
        and instance.deletion is None
    ]


def _judge(
    context: Context, key: MachineKey, entry: CatalogEntry | NotCataloged, asked: float
) -> Apply[Instance]:
    now = context.clock.now()
    token = instance_token(context.project, key)

    def apply(instance: Instance) -> Instance:
        if instance.catalog is not CatalogState.CATALOGED or instance.pending_deletion is not None:
            return instance
        if isinstance(entry, CatalogEntry) and entry.attributes.get(KEY_ATTRIBUTE) != token:
            # Somebody else's, under our host name: it is not ours to take out of the catalog.
            return replace(instance, catalog=CatalogState.REFUSED, lost_since=None)
        if isinstance(entry, NotCataloged) or not entry.is_of(token, instance.gce_id):
            return (
                instance if instance.lost_since is not None else replace(instance, lost_since=now)
            )
        known = replace(instance, lost_since=None) if instance.lost_since else instance
        if entry.state == "RECLAIMED":
            reason = "The catalog says that the Machine Provider has reclaimed it."
            return replace(known, pending_deletion=PendingDeletion(reason, now), lease=None)
        if entry.state == "LEASED":
            seconds = None if entry.leased_indefinitely else entry.lease_expiration_ts
            expiration = lease_end(seconds)
            if known.lease is not None and known.lease.expiration == expiration:
                return known
            since = known.lease.since if known.lease is not None else now
            return replace(known, lease=Lease(since, expiration))
        # A lease that we learnt of since we asked is news to this answer.
        # One whose end is known and has not come is believed more than the catalog, which may have
        # been restored from a backup.
        lease = known.lease
        took = context.clock.monotonic() - asked
        if entry.state == "AVAILABLE" and lease and context.clock.elapsed(lease.since) > took:
            ended = lease.expiration is None or lease.expiration <= now
            return replace(known, lease=None) if ended else known
        return known

    return when_present(apply)
