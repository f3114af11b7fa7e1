"""delete-instance-templates: drained templates that no group uses are deleted."""

from __future__ import annotations

from gce_backend.actions import resources
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.identity import known_mark, our_template
from gce_backend.base.errors import NotFoundError, ReplacedResourceError, ResourceInUseError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.keys import Key, RevisionKey
from gce_backend.rules.activation import is_active
from gce_backend.rules.ownership import Whose, whose

IN_USE = "ResourceInUse"
"""The condition of a template that a group uses that is not ours."""
INSERT_PATIENCE = 600.0
"""Seconds after which an insert that has left no template is taken to have never happened."""


async def run(context: Context) -> Outcome:
    """Deletes the templates of drained revisions whose groups are all gone.

    A deletion that has begun continues when the revision is named again: Compute may have heard of
    it. The revision then gets another template, under another name.
    """
    if context.paused:
        return Outcome(facts={"paused": 1})
    active = {key for key, _ in context.fleet.active_revisions()}
    keys = [
        key
        for key, revision in context.fleet.revisions.items()
        if (key not in active or revision.is_deleting)
        and (revision.url is not None or revision.in_flight is not None)
        and all(
            manager.url is None and manager.in_flight is None
            for _, manager in context.fleet.managers_of(key)
        )
    ]

    for key in keys:
        if key in active and context.conditions.reason(key) == IN_USE:
            context.conditions.clear(key)  # named again: it need not wait to be given back

    async def act(key: RevisionKey) -> Result:
        revision = context.fleet.revisions[key]
        if revision.url is None and revision.in_flight and revision.in_flight.action == "insert":
            return await _resolve_insert(context, key)
        begin = resources.beginning(context, "delete")
        await context.fleet.change([Change(key, when_present(begin))])
        return await _delete(context, key)

    return await act_on_each(context, keys, act)


async def _resolve_insert(context: Context, key: RevisionKey) -> Result:
    """A template that drained during its creation: it exists, or it never did."""
    revision = context.fleet.revisions[key]
    project, name = revision.template.project, context.fleet.template_name(key)
    try:
        found = await context.compute.get_instance_template(project, name)
    except NotFoundError:
        started = revision.in_flight.started if revision.in_flight else 0.0
        if context.clock.elapsed(started) < INSERT_PATIENCE:
            return Result.WAITING
        await resources.forget(context, {key: revision.generation})
        return Result.CHANGED
    if whose(found.description, known_mark(context), key) is not Whose.OURS:
        # somebody else's: not ours to delete
        await resources.forget(context, {key: revision.generation})
        return Result.CHANGED
    await resources.adopt(context, key, found, revision)
    return Result.CHANGED


async def _delete(context: Context, key: RevisionKey) -> Result:
    revision = context.fleet.revisions.get(key)
    if revision is None or revision.in_flight is None or revision.in_flight.action != "delete":
        return Result.NOTHING
    project, name = revision.template.project, context.fleet.template_name(key)
    compute, request_id = context.compute, revision.in_flight.request_id
    try:
        await our_template(context, key)
    except (NotFoundError, ReplacedResourceError):  # ours is gone; another one is not ours
        await resources.forget(context, {key: revision.generation})
        return Result.CHANGED
    try:
        gone = await resources.delete(
            context,
            key,
            lambda: compute.delete_instance_template(project, name, request_id=request_id),
            lambda: compute.get_instance_template(project, name),
            revision,
        )
    except ResourceInUseError as error:
        if is_active(key, context.fleet.get):
            await resources.give_up(context, key, revision)
        # Else the intent stays, however long others use it: each try would be written twice.
        context.conditions.back_off(key, IN_USE, error.message)
        return Result.HELD
    if not gone:
        return Result.WAITING
    context.log.info("template.deleted", template=key.base_name, name=name)
    return Result.CHANGED


def _concerns(context: Context, key: Key) -> bool:
    return isinstance(key, RevisionKey) and resources.is_leaving(
        context, key, context.fleet.revisions.get(key)
    )


JOB = Job(
    name="delete-instance-templates",
    run=run,
    timeout=120.0,
    wakes=("create-instance-templates", "cleanup-entities"),
    concerns=_concerns,
)
