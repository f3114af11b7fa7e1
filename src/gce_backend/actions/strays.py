"""Adopts templates and groups of this store that no entity has a link to (S2).

The store may have been restored from an older backup, or an entity removed by hand. What carries
the mark of this very store is tracked again, whatever generation its name says. If the
configuration does not name it, it drains. Two looks must agree, and a fresh read confirms it.
An entity that is missing is made only while the config service confirms the configuration.
Nothing is created in its place meanwhile, and no entity leaves while Compute lists a resource that
was made for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial

from gce_backend.actions.identity import Resource, known_mark
from gce_backend.base.errors import BackendError, CorruptEntityError, NotFoundError
from gce_backend.clients.compute.links import link_of
from gce_backend.clients.compute.types import (
    CompleteListing,
    ComputeGroup,
    ComputeTemplate,
    Listing,
)
from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey, Key, RevisionKey
from gce_backend.rules.strays import Marked, adopting, generation_of, marked

SECOND_LOOK = 30.0
"""Seconds between the two looks that must agree."""


async def adopt_groups(
    context: Context, project: str, listing: Listing[ComputeGroup]
) -> list[GroupKey]:
    """Remembers the groups with our mark in a project, just listed; adopts those without an entity.

    Returns:
        The keys of those adopted.

    Raises:
        RemoteError: Datastore could not be reached.
    """
    _note(context, _scope(GroupKey, project), listing)

    async def read(found: Marked) -> ComputeGroup:
        return await context.compute.get_group(project, found.key.zone, found.name)

    keys = await _adopt(context, _scope(GroupKey, project), read)
    return [key for key in keys if isinstance(key, GroupKey)]


async def adopt_templates(
    context: Context, project: str, listing: Listing[ComputeTemplate]
) -> bool:
    """The same for the instance templates of a project.

    Returns:
        Whether some wait for the second look.

    Raises:
        RemoteError: Datastore could not be reached.
    """
    _note(context, _scope(RevisionKey, project), listing)

    async def read(found: Marked) -> ComputeTemplate:
        return await context.compute.get_instance_template(project, found.name)

    scope = _scope(RevisionKey, project)
    await _adopt(context, scope, read)
    return any(_adoptable(context, scope))


async def look_first(context: Context, projects: Collection[str]) -> list[str]:
    """Lists the groups of projects whose groups this process has not seen yet.

    Returns:
        Why it could not look at some.
    """
    problems = []
    for project in sorted(projects):
        scope = _scope(GroupKey, project)
        if scope in context.memory.seen.marked:
            continue
        try:
            _note(context, scope, await context.compute.list_groups(project))
        except BackendError as error:
            problems.append(f"groups of project {project}: {error}")
            continue
        if any(_adoptable(context, scope)):
            due = context.memory.seen.next_full_look
            soon = context.clock.monotonic() + SECOND_LOOK
            due[project] = min(soon, due.get(project, soon))
    return problems


def awaits(context: Context, key: GroupKey | RevisionKey) -> bool:
    """Whether a creation waits: Compute may have its resource, under another name."""
    revision = context.fleet.revisions[key if isinstance(key, RevisionKey) else key.revision]
    listed = context.memory.seen.marked.get(_scope(type(key), revision.template.project))
    if listed is None:
        return isinstance(key, GroupKey)  # a second template costs nothing
    return any(_is_adoptable(context, found) for found in listed.get(key, {}).values())


def awaits_beside(context: Context, group: GroupKey) -> bool:
    """Whether another revision may have a group in a group's zone that no entity counts.

    Its VMs count for the maximum, and how many they are is not known: Compute lists it, and its
    entity is missing, cannot be understood, or is still to adopt it. Before the first list nothing
    is known.
    """
    seen, managers = context.memory.seen, context.fleet.managers
    if _scope(GroupKey, context.fleet.revision_of(group).template.project) not in seen.marked:
        return True
    return any(
        key not in managers or _is_adoptable(context, found)
        for scope, places in seen.marked_beside.items()
        for key in places.get((group.template, group.zone), ())
        if key != group
        for found in seen.marked[scope].get(key, {}).values()
    )


def is_unsettled(context: Context, key: GroupKey | RevisionKey) -> bool:
    """Whether an entity without a resource stays: Compute may list one that was made for it.

    That one was given up. An entity without that history would adopt it.
    """
    revision = context.fleet.revisions.get(key if isinstance(key, RevisionKey) else key.revision)
    if revision is None:
        return False
    project = revision.template.project
    listed = context.memory.seen.marked.get(_scope(type(key), project))
    if listed is not None:
        return bool(listed.get(key))
    what = "instances" if isinstance(key, GroupKey) else "templates"
    return context.conditions.reason(f"{what} of project {project}") is None


def _scope(kind: type[Key], project: str) -> str:
    return f"{'group' if kind is GroupKey else 'template'} {project}"


def _note(
    context: Context, scope: str, listing: Listing[ComputeGroup] | Listing[ComputeTemplate]
) -> None:
    project, ours = scope.partition(" ")[2], known_mark(context)
    seen = context.memory.seen
    is_complete, before = isinstance(listing, CompleteListing), seen.marked.get(scope, {})
    seen.marked[scope] = listed = {} if is_complete else before
    for one in listing.items:
        found = marked(
            one.name,
            one.description,
            ours,
            project=project,
            zone=one.zone_name if isinstance(one, ComputeGroup) else "",
            gce_id=one.id,
        )
        if found is not None:
            listed.setdefault(found.key, {})[found.gce_id] = found
    places = seen.marked_beside[scope] = defaultdict(list)
    for key in listed:
        if isinstance(key, GroupKey):
            places[key.template, key.zone].append(key)
    now, since = context.clock.monotonic(), seen.stray_since.get(scope, {})
    waiting = (found.gce_id for found in _adoptable(context, scope))
    seen.stray_since[scope] = {gce_id: since.get(gce_id, now) for gce_id in waiting}


def _adoptable(context: Context, scope: str) -> Iterable[Marked]:
    """What an entity can adopt: of several that were made for one, the earliest generation."""
    for several in tuple(context.memory.seen.marked.get(scope, {}).values()):
        found = [one for one in several.values() if _is_adoptable(context, one)]
        if found:
            yield min(found, key=lambda one: one.number)


def _is_adoptable(context: Context, found: Marked) -> bool:
    if not context.fleet.corrupt.keys().isdisjoint(found.key.lineage):
        return False
    return generation_of(found, context.fleet.get(found.key)) is not None


def _knows_what_is_left(context: Context) -> bool:
    """Whether what has no entity is what the configuration no longer names.

    While the config service does not confirm the configuration in force, an older one may be in
    force, with which the store was restored.
    """
    memory, revision = context.memory, context.fleet.configuration.revision
    return revision != "" and revision == memory.confirmed_revision == memory.processed_revision


async def _adopt(
    context: Context, scope: str, read: Callable[[Marked], Awaitable[Resource]]
) -> list[Key]:
    seen, now = context.memory.seen, context.clock.monotonic()
    since, adopted = seen.stray_since[scope], list[Key]()
    for gce_id, found in {found.gce_id: found for found in _adoptable(context, scope)}.items():
        if now - since.get(gce_id, now) < SECOND_LOOK:
            continue
        if context.fleet.get(found.key) is None and not _knows_what_is_left(context):
            continue
        try:
            fresh = await read(found)
            url = link_of(fresh.self_link).url
            if fresh.id != gce_id:
                continue
        except NotFoundError:
            seen.forget_marked(found.key, gce_id)
            continue
        except BackendError:
            continue  # it is reported as untracked, and tried again
        try:
            written = await context.fleet.transact(found.key.lineage, partial(adopting, found, url))
        except CorruptEntityError:
            continue
        if written:
            adopted.append(found.key)
            _tell(context, found)
    return adopted


def _tell(context: Context, found: Marked) -> None:
    key = found.key
    if isinstance(key, GroupKey):
        context.log.warning("group.adopted", template=key.base_name, zone=key.zone, name=found.name)
    else:
        context.log.warning("template.adopted", template=key.base_name, name=found.name)
