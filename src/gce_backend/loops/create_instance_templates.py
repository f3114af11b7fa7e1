"""create-instance-templates: every active revision has its instance template at Compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gce_backend import specs, untracked
from gce_backend.actuation import Step, act_on_each
from gce_backend.context import Context
from gce_backend.errors import (
    AlreadyExistsError,
    ForeignResourceError,
    NotFoundError,
    OperationFailedError,
    RemoteError,
)
from gce_backend.fleet import Change, when_present
from gce_backend.gce_types import CompleteListing, Operation
from gce_backend.job import Job, Outcome
from gce_backend.lifecycle import replace
from gce_backend.links import ResourceLink
from gce_backend.models import InFlight, InstanceTemplateRevision, Key

NAME = "create-instance-templates"

Apply: TypeAlias = Callable[[InstanceTemplateRevision | None], InstanceTemplateRevision | None]


async def run(context: Context) -> Outcome:
    """Creates what is missing: intent stored first, then inserted, then read back."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    lost = await _find_lost(context)
    await context.fleet.change([Change(key, _deleted) for key in lost])
    keys = [key for key, revision in context.fleet.active_revisions() if revision.url is None]
    ready = [key for key in keys if not context.conditions.blocked(str(key), NAME)]
    await context.fleet.change([Change(key, _intend(context)) for key in ready])

    async def create(key: Key) -> Step:
        return await _create(context, key)

    return await act_on_each(context, NAME, keys, create)


async def _find_lost(context: Context) -> list[Key]:
    """The active revisions whose template somebody else deleted; looked for now and then."""
    now = context.clock.monotonic()
    if now < context.world.next_template_look:
        return []
    context.world.next_template_look = now + context.settings.fetch.resync_seconds
    projects: dict[str, dict[str, Key]] = {}
    for key, revision in context.fleet.active_revisions():
        if revision.url is not None:
            names = projects.setdefault(revision.template.project, {})
            names[specs.template_name_of(key)] = key
    lost = []
    for project, names in projects.items():
        listing = await context.compute.list_instance_templates(project)
        untracked.note_templates(context, NAME, project, listing)
        if isinstance(listing, CompleteListing):
            missing = names.keys() - {template.name for template in listing.items}
            lost += [names[name] for name in missing if await _is_lost(context, project, name)]
    return lost


async def _is_lost(context: Context, project: str, name: str) -> bool:
    """The second look."""
    try:
        await context.compute.get_instance_template(project, name)
    except NotFoundError:
        context.log.error("template.missing", job=NAME, name=name)
        return True
    return False


async def _create(context: Context, key: Key) -> Step:
    revision = context.fleet.revisions.get(key)
    if revision is None or revision.in_flight is None or revision.in_flight.action != "insert":
        return Step.NOTHING
    project = revision.template.project
    body = specs.template_body(context.settings.owner, key, revision.template)
    try:
        operation = await context.compute.insert_instance_template(
            project, body, request_id=revision.in_flight.request_id
        )
    except AlreadyExistsError:
        operation = None  # by an earlier try whose answer was lost, or somebody else's: read back
    except RemoteError as error:
        if not error.retryable:  # refused: nothing was begun
            await context.fleet.change([Change(key, _give_up)])
        raise
    if operation is not None and not await _ended(context, key, operation):
        return Step.WAITING
    found = await context.compute.get_instance_template(project, body["name"])
    if found.description != body["description"]:
        await context.fleet.change([Change(key, _give_up)])
        raise ForeignResourceError(
            f"instance template {body['name']} in {project} exists and is not ours: delete it, or "
            f"change the template's base_name (its description is {found.description!r})"
        )
    await context.fleet.change([Change(key, _created(ResourceLink.parse(found.self_link).url))])
    template = key.parent.name if key.parent else ""
    context.log.info("template.created", job=NAME, template=template, name=body["name"])
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


def _intend(context: Context) -> Apply:
    request_id, now = context.new_id(), context.clock.now()

    def apply(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
        if revision.url is not None or revision.in_flight is not None:
            return revision
        return replace(revision, in_flight=InFlight("insert", request_id, now))

    return when_present(apply)


@when_present
def _give_up(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
    """Ends an insert that failed; the next try is a new one, with an id of its own."""
    return replace(revision, in_flight=None)


@when_present
def _deleted(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
    return replace(revision, url=None, in_flight=None)


def _created(url: str) -> Apply:
    def apply(revision: InstanceTemplateRevision) -> InstanceTemplateRevision:
        return replace(revision, url=url, in_flight=None)

    return when_present(apply)


JOB = Job(name=NAME, run=run, timeout=120.0, wakes=("create-instance-group-managers",))
