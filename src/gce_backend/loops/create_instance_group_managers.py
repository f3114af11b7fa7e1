"""create-instance-group-managers: every active manager has its group at Compute."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from gce_backend.actions import identity, resources, strays, troubles
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.resources import beside, pace, use_of
from gce_backend.actions.rollouts import limit_of
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import InFlight, InstanceGroupManager
from gce_backend.model.keys import GroupKey, Key
from gce_backend.rules import compute_bodies
from gce_backend.rules.activation import is_active
from gce_backend.rules.group_sizes import wanted_size


async def run(context: Context) -> Outcome:
    """Creates missing groups, once the instance template exists and the room is known."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    await _forget_gone(context)
    keys = [
        key
        for key, manager in context.fleet.active_managers()
        if manager.url is None and _has_template(context, key)
    ]
    projects = {context.fleet.revision_of(key).template.project for key in keys}
    problems = await strays.look_first(context, projects)
    keys = [key for key in keys if not strays.awaits(context, key)]
    pauses = {key: pace(context, key).wait for key in keys if not _may_be_made(context, key)}
    keys = [key for key in keys if key not in pauses]
    intents = [
        intent
        for key in keys
        if not context.is_paused(key)
        and not context.conditions.blocked(key)
        and (intent := _intend(context, key)) is not None
    ]
    await context.fleet.change(intents)

    outcome = await act_on_each(context, keys, partial(_create, context))
    await troubles.note_failures(context, keys)
    waits = (outcome.again_after, *pauses.values())
    return replace(
        outcome,
        again_after=min((wait for wait in waits if wait is not None), default=None),
        problems=(*problems, *outcome.problems),
    )


def _may_be_made(context: Context, key: GroupKey) -> bool:
    """Whether to create a group now: one that vanishes repeatedly waits."""
    return context.fleet.managers[key].in_flight is not None or pace(context, key).most != 0


def _has_template(context: Context, key: GroupKey) -> bool:
    revision = context.fleet.revision_of(key)
    return revision.url is not None and not revision.is_deleting


async def _forget_gone(context: Context) -> None:
    """Creates a group again that somebody else deleted."""
    gone = {
        key: manager.generation
        for key, manager in context.fleet.active_managers()
        if key in context.memory.seen.gone
    }
    await resources.forget(context, gone)
    context.memory.seen.gone.difference_update(gone)


async def _create(context: Context, key: GroupKey) -> Result:
    manager = context.fleet.managers.get(key)
    if manager is None or manager.url is not None:
        return Result.NOTHING
    if manager.in_flight is None or manager.in_flight.action != "insert":
        return Result.WAITING  # for the other revisions' groups to be seen
    if (judged := await _judge_again(context, key, manager)) is None:
        return Result.WAITING
    manager, in_flight = judged
    project = context.fleet.revision_of(key).template.project
    mark = await identity.mark(context)
    body = compute_bodies.group_body(
        mark,
        key,
        project,
        in_flight.size or 0,
        context.fleet.template_name(key.revision),
        generation=manager.generation,
    )
    compute, name, request_id = context.compute, body["name"], in_flight.request_id
    creation = resources.Creation(
        what=f"group {name} in {project}, {key.zone}",
        mark=mark,
        revision=key.revision,
        send=lambda: compute.insert_group(project, key.zone, body, request_id=request_id),
        read=lambda: compute.get_group(project, key.zone, name),
    )
    if not await resources.create(context, key, creation, manager):
        return Result.WAITING
    context.memory.seen.grown[key] = context.clock.monotonic()
    context.log.info(
        "group.created",
        template=key.base_name,
        zone=key.zone,
        name=name,
        size=in_flight.size,
    )
    return Result.CHANGED


async def _judge_again(
    context: Context, key: GroupKey, manager: InstanceGroupManager
) -> tuple[InstanceGroupManager, InFlight] | None:
    """The entity with its insert, made smaller if fewer machines are wanted now."""
    before, others = manager.in_flight, beside(context, key, manager)
    if before is None or others is None:
        return None
    size = wanted_size(manager, others, use_of(context, key))
    if size < (before.size or 0):
        smaller = replace(before, request_id=context.new_id(), size=size)

        def apply(entity: InstanceGroupManager) -> InstanceGroupManager:
            return replace(entity, in_flight=smaller) if entity.in_flight == before else entity

        await context.fleet.change([Change(key, when_present(apply))])
        manager = context.fleet.managers.get(key, manager)
    return None if manager.in_flight is None else (manager, manager.in_flight)


def _intend(context: Context, key: GroupKey) -> Change[InstanceGroupManager] | None:
    manager = context.fleet.managers[key]
    others = beside(context, key, manager)
    if others is None:
        return None
    size = wanted_size(manager, others, use_of(context, key))
    limit = limit_of(context, key)
    size = pace(context, key).limited(size if limit is None else min(size, limit.size))
    return Change(key, when_present(resources.beginning(context, "insert", size)))


def _concerns(context: Context, key: Key) -> bool:
    if not isinstance(key, GroupKey):
        return False
    manager = context.fleet.managers.get(key)
    return manager is not None and manager.url is None and is_active(key, context.fleet.get)


JOB = Job(
    name="create-instance-group-managers",
    run=run,
    timeout=120.0,
    wakes=("fetch-instances", "resize-instance-groups"),
    concerns=_concerns,
)
