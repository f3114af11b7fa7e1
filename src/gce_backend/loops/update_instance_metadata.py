"""update-instance-metadata: applies active updates by a zone operation.

It stores the request id before it sends an update, and the operation after. After a crash in
between it sends the update again. The same id makes it the same request, and an applied update has
nothing left to change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from gce_backend.actions.fan_out import LOOK_AGAIN, Result, act_in_slices, doubt
from gce_backend.actions.vm_looks import ListedVms, list_vms
from gce_backend.base.errors import ConditionNotMetError, InvalidRequestError
from gce_backend.clients.compute.types import ComputeInstance
from gce_backend.configuration.values import zone_region
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.metadata_updates import (
    LONGEST_DELAY,
    MAX_TOTAL,
    finish,
    is_denied,
    is_too_large,
    merge,
)

ATTEMPTS = 2
"""Tries in a row, each after a fresh read; one after a run in which none fitted."""
TOO_LARGE = "MetadataTooLarge"
"""The condition of a machine whose last update was dropped."""
CONTESTED = "MetadataContested"
CONTESTED_DELAY = 20.0
"""Seconds at least before a retry while somebody keeps changing the metadata."""


async def run(context: Context) -> Outcome:
    """Starts an operation for each active update that has none and is due."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    keys, waits = [], []
    for key, instance in context.fleet.having(Facet.UPDATING):
        update = instance.active_metadata_update
        if update is None or update.operation is not None or instance.deletion is not None:
            continue
        if instance.pending_deletion is not None or instance.missing_since is not None:
            continue
        if context.is_paused(key):
            continue
        if wait := context.clock.remaining(update.not_before, LONGEST_DELAY):
            waits.append(wait)
        else:
            keys.append(key)

    async def apply(key: MachineKey, listed: ListedVms) -> Result:
        return await _apply(context, key, listed.get(key))

    now, crowded = _within_budget(context, keys)
    outcome = await act_in_slices(context, now, _prepare, apply)
    waits += [max(context.compute.metadata_room(*place).wait, LOOK_AGAIN) for place in crowded]
    if outcome.again_after is not None:
        waits.append(outcome.again_after)
    return replace(outcome, again_after=min(waits, default=None))


def _within_budget(
    context: Context, keys: Iterable[MachineKey]
) -> tuple[list[MachineKey], list[tuple[str, str]]]:
    """Those for whose updates the call budget has room, the groups in turn.

    The others are left: their calls would wait, fail, and make each of them back off.

    Returns:
        The machines to act on, those that back off included; and where there are more, by project
        and region.
    """
    places: defaultdict[tuple[str, str], list[MachineKey]] = defaultdict(list)
    chosen: list[MachineKey] = []
    crowded = []
    for key in keys:
        revision = context.fleet.revisions.get(key.group.revision)
        if revision is None or context.conditions.blocked(key):
            chosen.append(key)
        else:
            places[revision.template.project, zone_region(key.zone)].append(key)
    for place, wanted in places.items():
        room = context.compute.metadata_room(*place)
        if len(wanted) > room.calls:
            crowded.append(place)
            turns: Counter[GroupKey] = Counter()
            turn_of = {}
            for key in wanted:
                turn_of[key] = turns[key.group]
                turns[key.group] += 1
            wanted.sort(key=turn_of.__getitem__)
        chosen += wanted[: room.calls]
    return chosen, crowded


async def _prepare(context: Context, keys: Sequence[MachineKey]) -> ListedVms:
    """Stores the intents to send updates, and reads the VMs together where they are many."""
    await context.fleet.change([Change(key, _intend(context)) for key in keys])
    return await list_vms(context, keys)


async def _apply(context: Context, key: MachineKey, found: ComputeInstance | None) -> Result:
    """Sends an update to the VM as it was just found; None when it must be read first."""
    instance = context.fleet.instances.get(key)
    update = instance.active_metadata_update if instance is not None else None
    if instance is None or update is None:
        return Result.NOTHING
    project = context.fleet.revision_of(key.group).template.project
    denied = sorted(name for name in update.items if is_denied(name))
    if denied:
        context.log.error(
            "metadata.denied",
            **key.log_fields,
            keys=denied,
        )
    tries = ATTEMPTS
    if context.conditions.reason(key) == CONTESTED:
        found, tries = None, 1
    for _ in range(tries):
        if found is None:
            # A missing VM backs off: fetch-instances finds out what happened to it.
            found = await context.compute.get_instance(project, key.zone, key.name)
        if instance.gce_id is not None and found.id != instance.gce_id:
            doubt(context, key)
            return Result.NOTHING  # another VM of that name
        items = merge(found.metadata.as_dict(), update.items)
        if items == found.metadata.as_dict():
            await context.fleet.change([Change(key, _ended(update.items))])
            return Result.CHANGED
        if is_too_large(items):
            return await _drop(context, key, update.items)
        if await _send(context, key, project, found, items):
            context.log.info(
                "metadata.sent",
                **key.log_fields,
                keys=sorted(update.items),
            )
            return Result.CHANGED
        found = None
    message = (
        "Its metadata changes between every read and write: find out who else writes it. The "
        "update waits."
    )
    context.conditions.back_off(key, CONTESTED, message, retry_after=CONTESTED_DELAY)
    return Result.HELD


async def _drop(context: Context, key: MachineKey, items: Mapping[str, str | None]) -> Result:
    """Gives up an update for which the VM's metadata has no room; the next one ends the problem."""
    message = (
        f"The VM's metadata has no room for its last update, which was dropped: Compute Engine "
        f"allows {MAX_TOTAL // 1024} KiB. Remove what others put there."
    )
    context.conditions.note(key, TOO_LARGE, message)
    await context.fleet.change([Change(key, _ended(items))])
    context.log.error(
        "metadata.dropped",
        **key.log_fields,
        keys=sorted(items),
    )
    return Result.HELD


async def _send(
    context: Context, key: MachineKey, project: str, found: ComputeInstance, items: dict[str, str]
) -> bool:
    """Sends the update; False when the metadata has changed and must be read again."""
    instance = context.fleet.instances.get(key)
    update = instance.active_metadata_update if instance is not None else None
    if update is None or update.request_id is None:
        return False
    try:
        operation = await context.compute.set_instance_metadata(
            project,
            key.zone,
            key.name,
            found.metadata.fingerprint,
            items,
            request_id=update.request_id,
        )
    except (ConditionNotMetError, InvalidRequestError) as error:
        # A stale fingerprint; or the id was used before, for what the metadata then made of it.
        await context.fleet.change([Change(key, _intend(context, update.request_id))])
        if isinstance(error, InvalidRequestError) and "requestId" not in error.message:
            raise
        return False
    await context.fleet.change([Change(key, _started(update.request_id, operation.link.url))])
    return True


def _intend(context: Context, instead_of: str | None = None) -> Apply[Instance]:
    """Gives an update a new request id in place of the one used before."""
    request_id = context.new_id()

    def apply(instance: Instance) -> Instance:
        update = instance.active_metadata_update
        if update is None or update.operation is not None or update.request_id != instead_of:
            return instance
        return replace(instance, active_metadata_update=replace(update, request_id=request_id))

    return when_present(apply)


def _started(request_id: str, operation: str) -> Apply[Instance]:
    def apply(instance: Instance) -> Instance:
        update = instance.active_metadata_update
        if update is None or update.request_id != request_id or update.operation is not None:
            return instance
        return replace(instance, active_metadata_update=replace(update, operation=operation))

    return when_present(apply)


def _ended(items: Mapping[str, str | None]) -> Apply[Instance]:
    """Ends an update that has nothing left to send; a newer one stays."""

    def apply(instance: Instance) -> Instance:
        update = instance.active_metadata_update
        if update is None or update.items != items or update.operation is not None:
            return instance
        return finish(instance)

    return when_present(apply)


def _concerns(context: Context, key: Key) -> bool:
    instance = context.fleet.instances.get(key) if isinstance(key, MachineKey) else None
    if instance is None or instance.deletion is not None:
        return False
    dropped = context.conditions.reason(key) == TOO_LARGE  # shown until another update is sent
    return bool(dropped or instance.active_metadata_update or instance.pending_metadata_updates)


JOB = Job(
    name="update-instance-metadata",
    run=run,
    timeout=120.0,
    wakes=("check-instance-metadata-operations", "compress-instance-metadata-updates"),
    concerns=_concerns,
)
