"""Deletes VMs: the only module that requests the destruction of a VM.

Every instance is read again just before, needs a permit that the Machine Provider confirms, and has
its deletion stored, guarded by its version, before the request to Compute. A deletion is repeated,
each time with a newly confirmed permit, until the VM no longer exists.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from gce_backend.actions.broker_turns import BROKER, BrokerTurns
from gce_backend.actions.deletion_budget import (
    IsWanted,
    backs_off,
    begin_under_caps,
    note_held,
    under_caps,
)
from gce_backend.actions.fan_out import LOOK_AGAIN, OBSERVER, Result, act_in_slices, act_on_each
from gce_backend.actions.identity import known_mark, our_group
from gce_backend.actions.permit_check import LEASED, Checked, with_fresh_permits
from gce_backend.actions.vm_looks import ListedVms, find_vm, is_gone, list_vms
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    NotFoundError,
    PermissionDeniedError,
    RemoteError,
    TransientError,
)
from gce_backend.engine.context import Context
from gce_backend.engine.job import Outcome, joined
from gce_backend.fleet.conditions import Condition
from gce_backend.fleet.picture import BATCH, Apply, Change, when_present
from gce_backend.model.entities import (
    DELETION_WINDOW_KEY,
    CatalogState,
    DeletionWindow,
    Entity,
    Instance,
)
from gce_backend.model.keys import GroupKey, Key, MachineKey
from gce_backend.rules.cataloging import found_again
from gce_backend.rules.cost import HOURS_A_DAY
from gce_backend.rules.facets import Facet
from gce_backend.rules.ownership import mark_of_labels, may_be_ours
from gce_backend.rules.permits import deleted, deleting, is_due_again, lease_runs
from gce_backend.rules.sightings import has_left_its_group

ABANDONED = "Abandoned"
MAX_NAMES = 1000
"""Instances of one deleteInstances call."""
TOGETHER = BATCH - 1
"""Deletions that one transaction stores, with the window that counts them."""

Decided: TypeAlias = dict[Key, Entity | None]


class DeletionBatch(NamedTuple):
    """Instances of one group whose deletion is stored and that one call deletes."""

    manager: GroupKey
    request_id: str
    keys: list[MachineKey]


async def delete(context: Context, wanted: IsWanted) -> Outcome:
    """Deletes the instances that a job wants gone, and follows each to its end.

    Args:
        wanted: whether the job wants this instance deleted; checked again on the fresh entity.
    """
    confirmed, waiting = await _confirm(context, wanted)
    if context.paused:
        return Outcome(changed=confirmed, facts={"paused": 1, "confirmed": confirmed})

    def wanted_now(key: MachineKey, instance: Instance) -> bool:
        return wanted(key, instance) and not context.is_paused(key)

    chosen, held = await under_caps(context, wanted_now)
    note_held(context, held)
    repeats = [key for key in waiting if not context.is_paused(key) and _is_due_again(context, key)]
    asked = await _delete(context, [*chosen, *repeats], wanted_now)
    # A VM that is still listed is checked again when fetch-instances no longer finds it.
    unlisted = any(
        _is_unlisted(context, key)
        and not _is_abandoned(context, key)
        and not context.conditions.blocked(key)
        for key in [*waiting, *chosen]
    )
    waits = [
        asked.again_after,
        LOOK_AGAIN if unlisted else None,
        _back_off(context, wanted),
    ]
    return Outcome(
        changed=confirmed + asked.changed,
        again_after=min((wait for wait in waits if wait is not None), default=None),
        facts={
            **asked.facts,
            **({"confirmed": confirmed} if confirmed else {}),
            **({"held": held.total()} if held.total() else {}),
        },
        # It has seen itself what is only confirmed here.
        wakes=(OBSERVER,) if asked.changed or asked.wakes else (),
        problems=asked.problems,
    )


async def _delete(context: Context, keys: Sequence[MachineKey], wanted: IsWanted) -> Outcome:
    """Deletes those with a permit, a few at a time: stores and requests the confirmed ones first.

    So every run makes progress, however slow the Machine Provider is.
    """
    turns = BrokerTurns(context)
    outcomes = []
    while keys and not turns.silent:
        batches, checked = await _intend(context, keys, turns, wanted)
        outcome = await _ask(context, batches)
        asked = checked.outcome
        outcomes += [Outcome(again_after=asked.again_after, problems=asked.problems), outcome]
        keys = checked.left
    return joined(outcomes)


async def _confirm(context: Context, wanted: IsWanted) -> tuple[int, list[MachineKey]]:
    """Ends the deletions of VMs that are gone; returns how many, and the others' keys."""
    pending = [
        key
        for key, instance in context.fleet.having(Facet.LEAVING)
        if instance.deletion is not None and not instance.is_tombstone and wanted(key, instance)
    ]
    unlisted = [
        key for key in pending if _is_unlisted(context, key) and not _is_abandoned(context, key)
    ]
    gone: set[MachineKey] = set()

    async def look(key: MachineKey, listed: ListedVms) -> Result:
        if not await is_gone(context, key, listed) or not _is_unlisted(context, key):
            return Result.NOTHING
        await context.fleet.change([Change(key, _gone(context.clock.now()))])
        gone.add(key)
        _log(context, "instance.deleted", key)
        _measure(context, key)
        return Result.CHANGED

    await act_in_slices(context, unlisted, list_vms, look, observing=True)
    return len(gone), [key for key in pending if key not in gone]


def _is_unlisted(context: Context, key: MachineKey) -> bool:
    """Whether a complete list of its group does not show it, not even as a member without VM.

    A group that still counts a member whose VM is gone would neither be refilled nor become empty.
    """
    instance = context.fleet.instances.get(key)
    if instance is None or instance.missing_since is None:
        return False
    group = context.memory.seen.groups.get(key.group)
    if group is None:  # not looked at since the start, or there is none
        manager = context.fleet.managers.get(key.group)
        return manager is None or manager.url is None or key.group in context.memory.seen.gone
    member = group.members.get(key.name)
    listed = member is not None and member.gce_id in {None, instance.gce_id}
    return group.listed is not None and not listed


def abandoned_message(context: Context, key: MachineKey) -> str:
    """The message about a VM that exists outside its group, with the command that deletes it."""
    template = context.fleet.revision_of(key.group).template
    project, price = template.project, context.memory.hourly_prices.get(template.machine_type)
    cost = "money"
    if price is not None:
        cost = f"about {price * HOURS_A_DAY:.2f} {context.settings.cost.currency} a day"
    return (
        f"Somebody abandoned the VM: it exists, costs {cost}, and cannot be leased. "
        f"{context.fleet.instances[key].url or key.name} After its lease ends, delete it: "
        f"gcloud compute instances delete {key.name} --zone {key.zone} --project {project}"
    )


def _is_abandoned(context: Context, key: MachineKey) -> bool:
    """Whether a VM exists outside its group; fetch-instances checks whether it still does."""
    return context.fleet.instances[key].abandoned_since is not None


def _back_off(context: Context, wanted: IsWanted) -> float | None:
    """Ends conditions of deleted VMs; returns seconds until the first of the rest may be tried.

    What tells why a machine was kept stays until the machine's lease ends.
    """
    failed = [c for c in context.conditions.mine() if c.failures]
    if not failed:
        return None
    now, instances = context.clock.now(), context.fleet.instances

    def is_ending(key: MachineKey) -> bool:
        one = instances.get(key)
        return one is not None and not one.is_tombstone and wanted(key, one)

    def lasts(condition: Condition) -> bool:
        subject = condition.subject
        if isinstance(subject, GroupKey):
            return any(is_ending(key) for key, _ in context.fleet.instances_of(subject))
        if not isinstance(subject, MachineKey):
            return subject == BROKER
        kept = condition.reason == LEASED and subject in instances
        return is_ending(subject) or (kept and lease_runs(instances[subject], now))

    for condition in failed:
        if not lasts(condition):
            context.conditions.clear(condition.subject)
    waits = [context.conditions.wait(condition.subject) for condition in failed]
    return min((wait for wait in waits if wait), default=None)


def _is_due_again(context: Context, key: MachineKey) -> bool:
    """Whether to request a deletion again: it failed, or has not ended."""
    instance = context.fleet.instances.get(key)
    if instance is None or instance.deletion is None or backs_off(context, key):
        return False
    pause = context.settings.deletion.repeat_seconds
    if _is_abandoned(context, key):  # no sooner than its next check
        look = context.memory.seen.next_abandoned_look.get(key)
        pause = max(pause, look[1]) if look is not None else pause
    elif context.conditions.wait(key.group) is not None:  # the last call failed
        return True
    return is_due_again(instance.deletion, context.clock.elapsed, pause)


async def _intend(
    context: Context, keys: Sequence[MachineKey], turns: BrokerTurns, wanted: IsWanted
) -> tuple[list[DeletionBatch], Checked]:
    """Reads them and all above them again, and stores the deletion of those with a permit.

    Returns:
        The deletions to request, and the Machine Provider's answers.
    """
    # The entities above decide whether they are wanted: another process may have changed them.
    await context.fleet.refresh({above for key in keys for above in key.lineage})
    instances = context.fleet.instances
    still = [key for key in keys if key in instances and wanted(key, instances[key])]
    checked = await with_fresh_permits(context, still, turns)
    groups: defaultdict[GroupKey, list[MachineKey]] = defaultdict(list)
    for key in checked.permits:
        groups[key.group].append(key)
    batches = [
        DeletionBatch(manager, context.new_id(), members[start : start + MAX_NAMES])
        for manager, members in groups.items()
        for start in range(0, len(members), MAX_NAMES)
    ]
    await _store_intents(context, batches, checked.permits, wanted)
    ready = [
        batch._replace(keys=[k for k in batch.keys if _is_asked_with(context, k, batch.request_id)])
        for batch in batches
    ]
    return [batch for batch in ready if batch.keys], checked


async def _store_intents(
    context: Context,
    batches: Sequence[DeletionBatch],
    permits: Mapping[MachineKey, CatalogState | None],
    wanted: IsWanted,
) -> None:
    """Stores the deletions that may begin within the caps, and counts them.

    Raises:
        RemoteError: Datastore could not be reached; stored deletions are repeated later.
    """
    now, asked = context.clock.earliest(), context.clock.stamp()
    request_ids = {key: batch.request_id for batch in batches for key in batch.keys}
    keys = list(request_ids)
    # A call names VMs: one that is gone already may have its name taken by another by then.
    unsent = {k for k in keys if _is_unlisted(context, k) and not _is_abandoned(context, k)}
    for start in range(0, len(keys), TOGETHER):
        some = keys[start : start + TOGETHER]

        def decide(found: Mapping[Key, Entity], some: list[MachineKey] = some) -> Decided:
            before = {key: it for key in some if isinstance(it := found.get(key), Instance)}
            told = {key: _told(it, permits[key]) for key, it in before.items()}
            after = {
                key: deleting(it, request_ids[key], now, asked, unsent=key in unsent)
                if wanted(key, it)
                else it
                for key, it in told.items()
            }
            new = {
                key: it.deletion.permit
                for key, it in after.items()
                if it.deletion is not None and before[key].deletion is None
            }
            window = found.get(DELETION_WINDOW_KEY)
            window = window if isinstance(window, DeletionWindow) else DeletionWindow()
            begins, counted = begin_under_caps(context, window, new)
            after |= {key: told[key] for key in new if key not in begins}
            news: Decided = {key: it for key, it in after.items() if it != before[key]}
            return {**news, DELETION_WINDOW_KEY: counted} if begins else news

        try:
            await context.fleet.transact([DELETION_WINDOW_KEY, *some], decide)
        except TransientError:
            # Its outcome was unknown, and has been read.
            if not any(_is_asked_with(context, key, request_ids[key]) for key in some):
                raise


def _told(instance: Instance, state: CatalogState | None) -> Instance:
    return found_again(instance, state) if state is not None else instance


def _is_asked_with(context: Context, key: MachineKey, request_id: str) -> bool:
    instance = context.fleet.instances.get(key)
    return (
        instance is not None
        and instance.deletion is not None
        and instance.deletion.request_id == request_id
    )


def _is_named(context: Context, key: MachineKey) -> bool:
    """Whether its stored deletion says that a call names the VM."""
    instance = context.fleet.instances.get(key)
    return instance is not None and instance.deletion is not None and not instance.deletion.unsent


async def _ask(context: Context, batches: Sequence[DeletionBatch]) -> Outcome:
    """Requests the deletion of instances from Compute, one call for many of a group."""
    groups: defaultdict[GroupKey, list[DeletionBatch]] = defaultdict(list)
    outside: dict[MachineKey, str] = {}
    for batch in batches:
        named = [k for k in batch.keys if _is_named(context, k)]
        outside |= {k: batch.request_id for k in named if _is_abandoned(context, k)}
        members = [k for k in named if k not in outside and not _is_unlisted(context, k)]
        if members:
            groups[batch.manager].append(batch._replace(keys=members))

    async def ask(manager: GroupKey) -> Result:
        project = context.fleet.revision_of(manager).template.project
        await our_group(context, manager)  # another group may have VMs with the same names
        for batch in groups[manager]:
            with _telling(context, batch.keys):
                await context.compute.delete_instances(
                    project,
                    manager.zone,
                    context.fleet.group_name(manager),
                    [key.name for key in batch.keys],
                    request_id=batch.request_id,
                    skip_invalid=True,
                )
        return Result.CHANGED

    async def ask_directly(key: MachineKey) -> Result:
        return await _ask_directly(context, key, outside[key])

    asked = await act_on_each(context, list(groups), ask)
    alone = await act_on_each(context, list(outside), ask_directly)
    return replace(joined([asked, alone]), facts=asked.facts)


async def _ask_directly(context: Context, key: MachineKey, request_id: str) -> Result:
    """Requests the deletion of a VM that no group can delete, if identity and role allow it.

    The VM must have the stored numeric id and carry our mark. The role of least privilege lacks the
    permission; then fetch-instances reports the VM to an operator.
    """
    if not has_left_its_group(context.fleet.instances[key], context.clock.elapsed):
        return Result.NOTHING  # a group that still counts the VM deletes it itself
    found = await find_vm(context, key)
    if found is None or context.fleet.instances[key].gce_id != found.id:
        return Result.NOTHING
    if not may_be_ours(mark_of_labels(found.labels), known_mark(context)):
        return Result.NOTHING
    project = context.fleet.revision_of(key.group).template.project
    try:
        with _telling(context, [key]):
            await context.compute.delete_instance(
                project, key.zone, key.name, request_id=request_id
            )
    except (PermissionDeniedError, NotFoundError):
        return Result.NOTHING
    return Result.CHANGED


@contextlib.contextmanager
def _telling(context: Context, keys: Iterable[MachineKey]) -> Iterator[None]:
    """Logs that a deletion was requested, also when the answer is lost: it may be carried out."""
    try:
        yield
    except RemoteError as error:
        if error.status in {None, 200}:
            _log_requested(context, keys)
        raise
    else:
        _log_requested(context, keys)


def _log_requested(context: Context, keys: Iterable[MachineKey]) -> None:
    for key in keys:
        _log(context, "instance.deletion_requested", key)


def _gone(now: UnixSeconds) -> Apply[Instance]:
    return when_present(lambda instance: deleted(instance, now))


def _measure(context: Context, key: MachineKey) -> None:
    pending = context.fleet.instances[key].pending_deletion
    if pending is not None:
        context.metrics.deleted(key.base_name, context.clock.elapsed(pending.since))


def _log(context: Context, event: str, key: MachineKey) -> None:
    instance = context.fleet.instances.get(key)
    context.log.info(
        event,
        **key.log_fields,
        gce_id=str(instance.gce_id) if instance else "",
        permit=instance.deletion.permit.value if instance and instance.deletion else "",
    )
