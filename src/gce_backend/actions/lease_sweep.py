"""The lease sweep: slowly asks the catalog for the state of every cataloged machine.

It makes up for lost messages. A machine that the catalog does not know is only marked; what follows
is decided elsewhere, under the narrow cap. Of deleted machines it takes out the
entries that late additions have made. A lease that the catalog denies ends where the VM is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from gce_backend.actions import phantom_entries
from gce_backend.actions.lease_ends import end_of
from gce_backend.actions.vm_looks import is_gone
from gce_backend.base.errors import BackendError, RemoteError
from gce_backend.clients.machine_provider import CatalogEntry, MethodNotOffered, NotCataloged
from gce_backend.engine.context import Context
from gce_backend.engine.job import Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import CatalogState, Instance, Lease, PendingDeletion
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import KEY_ATTRIBUTE, instance_token
from gce_backend.rules.cataloging import (
    CONTRADICTED_LOOKS,
    Contradiction,
    contradicted_seconds,
    lease_is_over,
    without_lease,
)
from gce_backend.rules.facets import Facet, is_held_for_ever, is_swept
from gce_backend.rules.sightings import LesseeNews, news_for_lessee

BROKER = "machine-provider"
TOPIC = "sweep"
PATIENCE_SECONDS = 10.0
"""A Machine Provider that is slower must not keep the messages waiting."""
CONTRADICTED = "LeaseContradicted"
SLOW = "the Machine Provider does not answer in time"
SHARE_PER_MINUTE = 1 / 60
"""Of the cataloged machines: in a large fleet, too, each is asked about within an hour."""


async def sweep(context: Context) -> Outcome:
    """Asks about the machines whose turn it is, within the sweep's own pace."""
    least = context.settings.machine_provider.sweep_per_minute
    deleted = phantom_entries.tombstones_due(context, least=least, share=SHARE_PER_MINUTE)
    due = deleted + _due(context, least)
    instances = context.fleet.instances
    conditions = context.conditions.of_job(TOPIC)
    if not _number(context) and not context.memory.catalog.phantoms.are_due:
        conditions.clear(BROKER)
    if not due or conditions.blocked(BROKER):
        _give_back(context, deleted, due)
        return Outcome()
    changes: list[Change[Instance]] = []
    problems: tuple[str, ...] = ()
    swept = 0
    try:
        broker = context.broker()
        async with asyncio.timeout(PATIENCE_SECONDS):
            for key in due:
                asked = context.clock.monotonic()
                entry = await broker.get(key.name)
                if isinstance(entry, MethodNotOffered):
                    return Outcome()
                if swept < len(deleted):
                    await phantom_entries.take_out(context, key, entry)
                else:
                    instance = instances.get(key)
                    own = None if instance is None else _own_entry(context, key, instance, entry)
                    _note_contradiction(context, key, instance, own, asked)
                    if own is not None:
                        context.memory.catalog.agents.note(key, waits=own.awaits_agent)
                    gone = await _is_denied_and_gone(context, key, instance, own, asked)
                    changes.append(Change(key, _judge(context, key, entry, asked, gone=gone)))
                swept += 1
    except (BackendError, TimeoutError) as error:
        _give_back(context, deleted[swept:], due[swept:])
        if isinstance(error, BackendError) or not swept:
            conditions.back_off(BROKER, "Unavailable", str(error) or SLOW)
            problems = (f"sweep: {str(error) or SLOW}",)
    else:
        conditions.clear(BROKER)
    changed = await context.fleet.change(changes)
    _forget(context)
    return Outcome(changed=changed, facts={"swept": swept}, problems=problems)


def _number(context: Context) -> int:
    """How many machines are swept."""
    counts = (context.fleet.count(facet) for facet in (Facet.NOT_SWEPT, Facet.DELETED))
    return len(context.fleet.instances) - sum(counts)


def _due(context: Context, least: float) -> list[MachineKey]:
    """The machines whose turn it is; `least` of them a minute, or more of many."""
    instances, number = context.fleet.instances, _number(context)
    return context.turns.take(
        number,
        lambda: [key for key, one in context.fleet.living() if is_swept(one)],
        lambda key: key in instances and is_swept(instances[key]),
        pace=max(least, number * SHARE_PER_MINUTE) / 60.0,
        now=context.clock.monotonic(),
    )


def _give_back(context: Context, deleted: Sequence[MachineKey], due: Sequence[MachineKey]) -> None:
    """Gives back those that were not asked about: they are first the next time.

    Args:
        context: all that is known.
        deleted: those of them that are deleted; they come first.
        due: all of them.
    """
    context.phantom_turns.give_back(deleted)
    context.turns.give_back(due[len(deleted) :])


def _judge(
    context: Context,
    key: MachineKey,
    entry: CatalogEntry | NotCataloged,
    asked: float,
    *,
    gone: bool,
) -> Apply[Instance]:
    now = context.clock.now()
    token = instance_token(context.project, key)

    def apply(instance: Instance) -> Instance:
        if instance.pending_deletion is not None or instance.deletion is not None:
            return instance
        own = _own_entry(context, key, instance, entry)
        if instance.catalog is not CatalogState.CATALOGED:
            if not is_held_for_ever(instance):
                return instance
            if own is None:
                return _without_denied_lease(context, key, instance, own, asked, gone=gone)
            instance = replace(instance, catalog=CatalogState.CATALOGED, rising_since=None)
        if isinstance(entry, CatalogEntry) and entry.attributes.get(KEY_ATTRIBUTE) != token:
            # Another's entry under our host name: the daemon must not remove it from the catalog.
            return replace(instance, catalog=CatalogState.REFUSED, lost_since=None)
        if own is None:
            lost = (
                instance if instance.lost_since is not None else replace(instance, lost_since=now)
            )
            return _without_denied_lease(context, key, lost, own, asked, gone=gone)
        known = replace(instance, lost_since=None) if instance.lost_since else instance
        if own.state == "RECLAIMED":
            reason = "The catalog says that the Machine Provider has reclaimed it."
            return replace(known, pending_deletion=PendingDeletion(reason, now), lease=None)
        if own.state == "LEASED":
            expiration = end_of(own)
            if known.lease is not None and known.lease.expiration == expiration:
                return known
            since = known.lease.since if known.lease is not None else now
            return replace(known, lease=Lease(since, expiration))
        return _without_denied_lease(context, key, known, own, asked, gone=gone)

    return when_present(apply)


def _without_denied_lease(
    context: Context,
    key: MachineKey,
    instance: Instance,
    own: CatalogEntry | None,
    asked: float,
    *,
    gone: bool,
) -> Instance:
    """The machine without its lease, where the catalog has denied it for long enough.

    Nobody can hold a VM that is gone: there, the first denial is enough.
    """
    if gone and _denies(context, instance, own, asked):
        return without_lease(instance)
    contradiction, lease = context.memory.catalog.contradicted.get(key), instance.lease
    contradicts = _contradicts(context, instance, own, asked)
    if contradiction is None or lease is None or not contradicts:
        return instance
    if lease.expiration is None and _waits(context) and instance.drain is None:
        return instance
    now, moment = context.clock.earliest(), context.clock.monotonic()
    patience = contradicted_seconds(context.settings.machine_provider.lost_seconds)
    over = lease_is_over(lease, now, contradiction, moment, patience)
    return without_lease(instance) if over else instance


async def _is_denied_and_gone(
    context: Context,
    key: MachineKey,
    instance: Instance | None,
    own: CatalogEntry | None,
    asked: float,
) -> bool:
    """Whether the catalog denies a machine's lease, and Compute confirms that its VM is gone."""
    if instance is None or not _denies(context, instance, own, asked):
        return False
    if news_for_lessee(instance, context.clock.elapsed) is not LesseeNews.GONE:
        return False
    try:
        return await is_gone(context, key)
    except RemoteError:
        return False  # it is asked again at the next look


def _own_entry(
    context: Context, key: MachineKey, instance: Instance, entry: CatalogEntry | NotCataloged
) -> CatalogEntry | None:
    """The entry, if it is of this very machine."""
    if isinstance(entry, NotCataloged):
        return None
    return entry if entry.is_of(instance_token(context.project, key), instance.gce_id) else None


def _waits(context: Context) -> bool:
    """Whether an operator decides about what the catalog denies."""
    return context.settings.machine_provider.lost_machines == "wait"


def _contradicts(
    context: Context, instance: Instance, own: CatalogEntry | None, asked: float
) -> bool:
    """Whether the catalog denies a known lease: the machine is available, or unknown.

    For an unknown machine, a lease with a known end lasts until that end, unless its VM is gone.
    The answer does not count against a lease that became known after the question.
    """
    lasts = instance.lease is not None and instance.lease.expiration is not None
    return not (own is None and lasts) and _denies(context, instance, own, asked)


def _denies(context: Context, instance: Instance, own: CatalogEntry | None, asked: float) -> bool:
    """Whether the catalog has a machine with a known lease as available, or not at all."""
    lease, took = instance.lease, context.clock.monotonic() - asked
    if lease is None or (own is not None and own.state != "AVAILABLE"):
        return False
    return context.clock.elapsed(lease.since) > took


def _note_contradiction(
    context: Context,
    key: MachineKey,
    instance: Instance | None,
    own: CatalogEntry | None,
    asked: float,
) -> None:
    """Counts answers that contradict a known lease, and reports them; another answer resets it."""
    contradicted, conditions = context.memory.catalog.contradicted, context.conditions.of_job(TOPIC)
    if instance is None or not _denies(context, instance, own, asked):
        if contradicted.pop(key, None) is not None:
            conditions.clear(key)
        return
    before = contradicted.get(key, Contradiction(context.clock.monotonic(), 0))
    looks = before.looks + 1
    contradicted[key] = before._replace(looks=looks)
    if looks < CONTRADICTED_LOOKS and not _contradicts(context, instance, own, asked):
        return  # the lease has just ended, and the message RECLAIMED is on its way
    denial = "does not hold it" if own is None else "calls it available"
    message = (
        f"The catalog {denial}, but a lease that is known here has not ended: "
        f"{_kept(context, key, instance)}. Find out whether the Machine Provider was restored from "
        "a backup."
    )
    if conditions.note(key, CONTRADICTED, message):
        context.log.warning(
            "lease.contradicted",
            **key.log_fields,
        )


def _kept(context: Context, key: MachineKey, instance: Instance) -> str:
    """For how long a machine is kept whose lease the catalog denies, in words."""
    if instance.lease is not None and instance.lease.expiration is not None:
        return "it is kept until it ends"
    minutes = contradicted_seconds(context.settings.machine_provider.lost_seconds) / 60
    if _waits(context) and instance.drain is None:
        return (
            'it is kept (machine_provider.lost_machines = "wait"). When nobody uses it, '
            f"`gce-backend drain {key.name}` has it deleted once the catalog has said so for "
            f"{minutes:.0f} minutes and {CONTRADICTED_LOOKS} looks"
        )
    return (
        f"it is kept, unless the catalog says so for {minutes:.0f} minutes and "
        f"{CONTRADICTED_LOOKS} looks. Then it counts as not leased; if the catalog does not hold "
        "it, it is deleted within the cap on unconfirmed deletions"
    )


def _forget(context: Context) -> None:
    """Forgets what was said of leases that have ended."""
    contradicted = context.memory.catalog.contradicted
    for key in tuple(contradicted):
        instance = context.fleet.instances.get(key)
        if instance is None or instance.lease is None or instance.pending_deletion is not None:
            del contradicted[key]
            context.conditions.of_job(TOPIC).clear(key)
