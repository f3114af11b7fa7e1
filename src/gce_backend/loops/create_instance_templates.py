"""create-instance-templates: every active revision has its instance template at Compute."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from gce_backend.actions import identity, resources, strays, troubles, untracked
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.identity import is_meant, our_template
from gce_backend.actions.second_disk import find_snapshot
from gce_backend.base.errors import BackendError, NotFoundError, ReplacedResourceError
from gce_backend.clients.compute.types import CompleteListing
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.keys import Key, RevisionKey
from gce_backend.rules import compute_bodies
from gce_backend.rules.activation import is_active


async def run(context: Context) -> Outcome:
    """Creates missing templates: stores the intent, inserts, then reads back."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    problems: list[str] = []
    lost = await _find_lost(context, problems)
    await resources.forget(context, lost)
    keys = [
        key
        for key, revision in context.fleet.active_revisions()
        if revision.url is None and not strays.awaits(context, key)
    ]
    ready = [
        key for key in keys if not context.is_paused(key) and not context.conditions.blocked(key)
    ]
    await context.fleet.change(
        [Change(key, when_present(resources.beginning(context, "insert"))) for key in ready]
    )

    outcome = await act_on_each(context, keys, partial(_create, context))
    await troubles.note_failures(context, keys)
    return replace(outcome, problems=(*problems, *outcome.problems))


async def _find_lost(context: Context, problems: list[str]) -> dict[RevisionKey, int]:
    """The active revisions whose template somebody else deleted, with its generation.

    It checks from time to time in every project ever named, and reports what carries our mark.
    """
    untracked.forget_templates(context)
    now = context.clock.monotonic()
    if now < context.memory.seen.next_template_look or not context.fleet.projects:
        return {}  # the first look is as soon as there is a project to look at
    context.memory.seen.next_template_look = now + context.settings.fetch.resync_seconds
    projects: dict[str, list[RevisionKey]] = {name: [] for name in context.fleet.projects}
    for key, revision in context.fleet.active_revisions():
        if revision.url is not None:
            projects[revision.template.project].append(key)
    lost: dict[RevisionKey, int] = {}
    for project, keys in projects.items():
        subject = f"templates of project {project}"
        if context.conditions.blocked(subject):
            continue
        try:
            listing = await context.compute.list_instance_templates(project)
        except BackendError as error:  # it spoils only its own project
            context.conditions.fail(subject, error)
            problems.append(f"{subject}: {error}")
            continue
        context.conditions.clear(subject)
        if await strays.adopt_templates(context, project, listing):
            context.memory.seen.next_template_look = now + strays.SECOND_LOOK
        untracked.note_templates(context, project, listing)
        by_name = {template.name: template for template in listing.items}
        learnt = []
        for key in keys:
            revision = context.fleet.revisions[key]
            found = by_name.get(context.fleet.template_name(key))
            if found is not None and is_meant(context, found, revision.gce_id, key):
                if revision.gce_id is None:
                    learnt.append(Change(key, resources.learning(revision, found.id)))
                continue
            is_gone = found is not None or isinstance(listing, CompleteListing)
            if is_gone and await _is_lost(context, key):
                lost[key] = revision.generation
        await context.fleet.change(learnt)
    return lost


async def _is_lost(context: Context, key: RevisionKey) -> bool:
    """The second look."""
    try:
        await our_template(context, key)
    except NotFoundError:
        context.log.error("template.missing", name=context.fleet.template_name(key))
        return True
    except ReplacedResourceError as error:
        name = context.fleet.template_name(key)
        context.log.error("template.replaced", name=name, error=str(error))
        return True
    except BackendError as error:  # it is not known yet: other templates go on
        project = context.fleet.revisions[key].template.project
        context.conditions.fail(f"templates of project {project}", error)
    return False


async def _create(context: Context, key: RevisionKey) -> Result:
    revision = context.fleet.revisions.get(key)
    if revision is None or revision.in_flight is None or revision.in_flight.action != "insert":
        return Result.NOTHING
    project, request_id = revision.template.project, revision.in_flight.request_id
    snapshot = await find_snapshot(context, key, revision)
    mark = await identity.mark(context)
    body = compute_bodies.template_body(
        mark,
        key,
        revision.template,
        snapshot,
        generation=revision.generation,
    )
    compute, name = context.compute, body["name"]
    creation = resources.Creation(
        what=f"instance template {name} in {project}",
        mark=mark,
        revision=key,
        send=lambda: compute.insert_instance_template(project, body, request_id=request_id),
        read=lambda: compute.get_instance_template(project, name),
    )
    if not await resources.create(context, key, creation, revision):
        return Result.WAITING
    context.log.info("template.created", template=key.base_name, name=name)
    return Result.CHANGED


def _concerns(context: Context, key: Key) -> bool:
    if not isinstance(key, RevisionKey):
        return False
    revision = context.fleet.revisions.get(key)
    return revision is not None and revision.url is None and is_active(key, context.fleet.get)


def _topics(context: Context, topic: str) -> bool:
    what, _, project = topic.partition("project ")
    if what == "templates of ":
        return project in context.fleet.projects
    return untracked.is_suspect(context, topic)


JOB = Job(
    name="create-instance-templates",
    run=run,
    timeout=120.0,
    wakes=("create-instance-group-managers",),
    concerns=_concerns,
    topics=_topics,
)
