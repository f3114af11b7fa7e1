"""check-instance-metadata-operations: reads the operations that apply metadata updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gce_backend.actions.fan_out import Result, act_in_slices
from gce_backend.actions.vm_looks import list_operations
from gce_backend.base.errors import NotFoundError
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.clients.compute.types import Operation
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance
from gce_backend.model.keys import Key, MachineKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.metadata_updates import finish, put_back

FRESH = 30.0
"""Seconds in which an operation is read every second; later, less and less often."""
PENDING = "OperationPending"
PATIENCE = 600.0
"""Seconds after which an operation that has not ended is given up, and the VM itself read."""


async def run(context: Context) -> Outcome:
    """Clears updates that succeeded; puts failed ones back in front of the pending ones."""
    keys = [
        key
        for key, instance in context.fleet.having(Facet.UPDATING)
        if instance.active_metadata_update is not None
        and instance.active_metadata_update.operation is not None
    ]

    async def check(key: MachineKey, listed: Mapping[ResourceLink, Operation]) -> Result:
        return await _check(context, key, listed)

    return await act_in_slices(context, keys, _list, check, observing=True)


async def _list(context: Context, keys: Sequence[MachineKey]) -> Mapping[ResourceLink, Operation]:
    """The operations of those machines whose zone has many."""
    updates = (context.fleet.instances[key].active_metadata_update for key in keys)
    links = (update.operation for update in updates if update is not None)
    return await list_operations(context, [ResourceLink.parse(link) for link in links if link])


async def _check(
    context: Context, key: MachineKey, listed: Mapping[ResourceLink, Operation]
) -> Result:
    update = context.fleet.instances[key].active_metadata_update
    if update is None or update.operation is None:
        return Result.NOTHING
    link = ResourceLink.parse(update.operation)
    try:
        operation = listed.get(link) or await context.compute.get_operation(link)
    except NotFoundError:
        # Compute no longer has it: the next try reads from the VM whether it was applied.
        return await _return(context, key, update.operation, "the operation is no longer known")
    if operation.done:
        context.memory.operations.pop(update.operation, None)
        failure = operation.failure()
        if failure is not None:
            return await _return(context, key, update.operation, failure.message)
        await context.fleet.change([Change(key, _finished(update.operation))])
        context.log.info(
            "metadata.updated",
            **key.log_fields,
        )
        return Result.CHANGED
    now = context.clock.monotonic()
    age = now - context.memory.operations.setdefault(update.operation, now)
    if age > PATIENCE:
        reason = f"the operation has not ended within {PATIENCE:.0f} s"
        return await _return(context, key, update.operation, reason)
    if age < FRESH:
        return Result.WAITING
    message = (
        f"Compute has not finished an update of its metadata within {FRESH:.0f} s. "
        f"After {PATIENCE:.0f} s the daemon reads the VM itself."
    )
    # As many seconds as it is old: a few looks in all, however long it runs.
    wait = min(age, PATIENCE + 1 - age)
    context.conditions.back_off(key, PENDING, message, retry_after=wait)
    return Result.HELD


async def _return(context: Context, key: MachineKey, operation: str, reason: str) -> Result:
    context.memory.operations.pop(operation, None)
    now = context.clock.now()

    def apply(instance: Instance) -> Instance:
        update = instance.active_metadata_update
        if update is None or update.operation != operation:
            return instance
        return put_back(instance, now)

    await context.fleet.change([Change(key, when_present(apply))])
    context.log.warning(
        "metadata.failed",
        **key.log_fields,
        reason=reason,
    )
    return Result.CHANGED


def _finished(operation: str) -> Apply[Instance]:
    def apply(instance: Instance) -> Instance:
        update = instance.active_metadata_update
        if update is None or update.operation != operation:
            return instance
        return finish(instance)

    return when_present(apply)


def _concerns(context: Context, key: Key) -> bool:
    instance = context.fleet.instances.get(key) if isinstance(key, MachineKey) else None
    update = instance.active_metadata_update if instance is not None else None
    return update is not None and update.operation is not None


JOB = Job(
    name="check-instance-metadata-operations",
    run=run,
    timeout=60.0,
    wakes=("compress-instance-metadata-updates",),
    concerns=_concerns,
)
