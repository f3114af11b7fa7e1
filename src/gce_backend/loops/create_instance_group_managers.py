"""create-instance-group-managers: every active manager has its group at Compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gce_backend import specs
from gce_backend.actuation import Step, act_on_each
from gce_backend.capacity import beside
from gce_backend.context import Context
from gce_backend.errors import (
    AlreadyExistsError,
    ForeignResourceError,
    OperationFailedError,
    RemoteError,
)
from gce_backend.fleet import Change, when_present
from gce_backend.gce_types import Operation
from gce_backend.job import Job, Outcome
from gce_backend.lifecycle import replace, wanted_size
from gce_backend.links import ResourceLink
from gce_backend.models import InFlight, InstanceGroupManager, Key

NAME = "create-instance-group-managers"

Apply: TypeAlias = Callable[[InstanceGroupManager | None], InstanceGroupManager | None]


async def run(context: Context) -> Outcome:
    """Creates what is missing, once its instance template exists and the room for it is known."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    await _forget_gone(context)
    keys = [
        key
        for key, manager in context.fleet.active_managers()
        if manager.url is None and context.fleet.revision_of(key).url is not None
    ]
    intents = [
        Change(key, intent)
        for key in keys
        if not context.conditions.blocked(str(key), NAME)
        and (intent := _intend(context, key)) is not None
    ]
    await context.fleet.change(intents)

    async def create(key: Key) -> Step:
        return await _create(context, key)

    return await act_on_each(context, NAME, keys, create)


async def _forget_gone(context: Context) -> None:
    """A group that somebody else deleted is made again."""
    gone = [key for key, _ in context.fleet.active_managers() if key in context.world.gone]
    await context.fleet.change([Change(key, _deleted) for key in gone])
    context.world.gone.difference_update(gone)


async def _create(context: Context, key: Key) -> Step:
    manager = context.fleet.managers.get(key)
    revision = key.parent
    if manager is None or manager.url is not None or revision is None:
        return Step.NOTHING
    if manager.in_flight is None or manager.in_flight.action != "insert":
        return Step.WAITING  # for the other revisions' groups to be seen
    template = context.fleet.revision_of(key).template
    body = specs.group_body(
        context.settings.owner,
        key,
        template.project,
        manager.in_flight.size or 0,
        specs.template_name_of(revision),
    )
    try:
        operation = await context.compute.insert_group(
            template.project, key.name, body, request_id=manager.in_flight.request_id
        )
    except AlreadyExistsError:
        operation = None  # by an earlier try whose answer was lost, or somebody else's: read back
    except RemoteError as error:
        if not error.retryable:  # refused: nothing was begun
            await context.fleet.change([Change(key, _give_up)])
        raise
    if operation is not None and not await _ended(context, key, operation):
        return Step.WAITING
    found = await context.compute.get_group(template.project, key.name, body["name"])
    if found.description != body["description"]:
        await context.fleet.change([Change(key, _give_up)])
        raise ForeignResourceError(
            f"group {body['name']} in {template.project}, {key.name} exists and is not ours: "
            "delete it, or change the template's base_name (its description is "
            f"{found.description!r})"
        )
    await context.fleet.change([Change(key, _created(ResourceLink.parse(found.self_link).url))])
    context.log.info(
        "group.created",
        job=NAME,
        template=template.base_name,
        zone=key.name,
        name=body["name"],
        size=manager.in_flight.size,
    )
    return Step.CHANGED


async def _ended(context: Context, key: Key, operation: Operation) -> bool:
    try:
        operation = await context.compute.await_operation(
            operation, timeout=context.settings.compute.operation_wait_seconds
        )
    except OperationFailedError:
        await context.fleet.change([Change(key, _give_up)])
        raise
    return operation.done


def _intend(context: Context, key: Key) -> Apply | None:
    others = beside(context, key, context.fleet.managers[key])
    if others is None:
        return None
    request_id, now = context.new_id(), context.clock.now()

    def apply(manager: InstanceGroupManager) -> InstanceGroupManager:
        if manager.url is not None or manager.in_flight is not None:
            return manager
        size = wanted_size(manager, others)
        return replace(manager, in_flight=InFlight("insert", request_id, now, size))

    return when_present(apply)


@when_present
def _give_up(manager: InstanceGroupManager) -> InstanceGroupManager:
    """Ends an insert that failed; the next try is a new one, with an id of its own."""
    return replace(manager, in_flight=None)


@when_present
def _deleted(manager: InstanceGroupManager) -> InstanceGroupManager:
    return replace(manager, url=None, in_flight=None, resize=None)


def _created(url: str) -> Apply:
    def apply(manager: InstanceGroupManager) -> InstanceGroupManager:
        return replace(manager, url=url, in_flight=None)

    return when_present(apply)


JOB = Job(name=NAME, run=run, timeout=120.0, wakes=("fetch-instances", "resize-instance-groups"))
