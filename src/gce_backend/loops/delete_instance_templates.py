"""delete-instance-templates: drained templates that no group uses are deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gce_backend import specs
from gce_backend.actuation import Step, act_on_each
from gce_backend.context import Context
from gce_backend.errors import NotFoundError, OperationFailedError, ResourceInUseError
from gce_backend.fleet import Change, when_present
from gce_backend.job import Job, Outcome
from gce_backend.lifecycle import replace
from gce_backend.links import ResourceLink
from gce_backend.models import InFlight, InstanceTemplateRevision, Key

NAME = "delete-instance-templates"
INSERT_PATIENCE = 600.0
"""Seconds after which an insert that has left no template is taken to have never happened."""

Apply: TypeAlias = Callable[[InstanceTemplateRevision | None], InstanceTemplateRevision | None]


async def run(context: Context) -> Outcome:
    """Deletes the templates of drained revisions whose groups are all gone."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    active = {key for key, _ in context.fleet.active_revisions()}
    keys = [
        key
        for key, revision in context.fleet.revisions.items()
        if key not in active
        and (revision.url is not None or revision.in_flight is not None)
        and all(
            manager.url is None and manager.in_flight is None
            for _, manager in context.fleet.managers_of(key)
        )
    ]

    async def act(key: Key) -> Step:
        revision = context.fleet.revisions[key]
        if revision.url is None and revision.in_flight and revision.in_flight.action == "insert":
            return await _resolve_insert(context, key)
        await context.fleet.change([Change(key, _intend(context))])
        return await _delete(context, key)

    return await act_on_each(context, NAME, keys, act)


async def _resolve_insert(context: Context, key: Key) -> Step:
    """A template that drained while it was being created: it is there, or it never was."""
    revision = context.fleet.revisions[key]
    project, name = revision.template.project, specs.template_name_of(key)
    try:
        found = await context.compute.get_instance_template(project, name)
    except NotFoundError:
        started = revision.in_flight.started if revision.in_flight else 0.0
        if abs(context.clock.now() - started) < INSERT_PATIENCE:
            return Step.WAITING
        await context.fleet.change([Change(key, _gone)])
        return Step.CHANGED
    if found.description != specs.description_of(context.settings.owner, key):
        await context.fleet.change([Change(key, _gone)])  # somebody else's: not ours to delete
        return Step.CHANGED
    url = ResourceLink.parse(found.self_link).url
    await context.fleet.change([Change(key, _found(url))])
    return Step.CHANGED


async def _delete(context: Context, key: Key) -> Step:
    revision = context.fleet.revisions.get(key)
    if revision is None or revision.in_flight is None or revision.in_flight.action != "delete":
        return Step.NOTHING
    project, name = revision.template.project, specs.template_name_of(key)
    try:
        operation = await context.compute.delete_instance_template(
            project, name, request_id=revision.in_flight.request_id
        )
        operation = await context.compute.await_operation(
            operation, timeout=context.settings.compute.operation_wait_seconds
        )
        if not operation.done:
            return Step.WAITING
    except NotFoundError:
        pass  # gone, as wanted: by an earlier try whose answer was lost, or by somebody else
    except ResourceInUseError as error:
        await context.fleet.change([Change(key, _keep)])
        context.conditions.fail(str(key), NAME, "ResourceInUse", error.message)
        return Step.HELD
    except OperationFailedError:
        await context.fleet.change([Change(key, _keep)])
        raise
    await context.fleet.change([Change(key, _gone)])
    template = key.parent.name if key.parent else ""
    context.log.info("template.deleted", job=NAME, template=template, name=name)
    return Step.CHANGED


def _intend(context: Context) -> Apply:
    request_id, now = context.new_id(), context.clock.now()

    def apply(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
        if revision.url is None or revision.in_flight is not None:
            return revision
        return replace(revision, in_flight=InFlight("delete", request_id, now))

    return when_present(apply)


def _found(url: str) -> Apply:
    return when_present(lambda revision: replace(revision, url=url, in_flight=None))


@when_present
def _keep(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
    return replace(revision, in_flight=None)


@when_present
def _gone(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
    return replace(revision, url=None, in_flight=None)


JOB = Job(
    name=NAME,
    run=run,
    timeout=120.0,
    wakes=("create-instance-templates", "cleanup-entities"),
)
