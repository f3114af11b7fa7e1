"""create-instance-group-managers: every active manager has its group at Compute."""

from __future__ import annotations

from gce_backend.actions import resources
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.resources import beside
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import InstanceGroupManager
from gce_backend.model.keys import Key
from gce_backend.rules import compute_bodies
from gce_backend.rules.group_sizes import wanted_size


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
        intent
        for key in keys
        if not context.is_paused(key)
        and not context.conditions.blocked(key)
        and (intent := _intend(context, key)) is not None
    ]
    await context.fleet.change(intents)

    async def create(key: Key) -> Result:
        return await _create(context, key)

    return await act_on_each(context, keys, create)


async def _forget_gone(context: Context) -> None:
    """A group that somebody else deleted is made again."""
    gone = [key for key, _ in context.fleet.active_managers() if key in context.memory.seen.gone]
    await resources.forget(context, gone)
    context.memory.seen.gone.difference_update(gone)


async def _create(context: Context, key: Key) -> Result:
    manager = context.fleet.managers.get(key)
    revision = key.parent
    if manager is None or manager.url is not None or revision is None:
        return Result.NOTHING
    if manager.in_flight is None or manager.in_flight.action != "insert":
        return Result.WAITING  # for the other revisions' groups to be seen
    template = context.fleet.revision_of(key).template
    body = compute_bodies.group_body(
        context.settings.owner,
        key,
        template.project,
        manager.in_flight.size or 0,
        compute_bodies.template_name_of(revision),
    )
    compute, project, request_id = context.compute, template.project, manager.in_flight.request_id
    name, size = body["name"], manager.in_flight.size
    creation = resources.Creation(
        what=f"group {name} in {project}, {key.name}",
        description=body["description"],
        send=lambda: compute.insert_group(project, key.name, body, request_id=request_id),
        read=lambda: compute.get_group(project, key.name, name),
    )
    if not await resources.create(context, key, creation):
        return Result.WAITING
    context.log.info(
        "group.created",
        template=template.base_name,
        zone=key.name,
        name=name,
        size=size,
    )
    return Result.CHANGED


def _intend(context: Context, key: Key) -> Change[InstanceGroupManager] | None:
    manager = context.fleet.managers[key]
    others = beside(context, key, manager)
    if others is None:
        return None
    size = wanted_size(manager, others)
    return Change(key, when_present(resources.beginning(context, "insert", size)))


JOB = Job(
    name="create-instance-group-managers",
    run=run,
    timeout=120.0,
    wakes=("fetch-instances", "resize-instance-groups"),
)
