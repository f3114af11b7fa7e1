"""The full look: reports resources at Compute with our mark and without an entity (S2).

A resource with the mark of another store is another daemon's, and is skipped. It costs one list of
VMs per project and slow resync, where none has just been made; groups and templates are taken from
the lists that are made anyway. Every project that the configuration has ever named is looked
through, also when no group of ours is left there.
What was created a moment ago may not have its entity yet, so two looks must agree, with a list of
the VM's group between them. The daemon does not change what it finds: an operator adopts it,
deletes it, or removes the mark.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from gce_backend.actions import strays
from gce_backend.actions.identity import known_mark
from gce_backend.base.errors import BackendError
from gce_backend.clients.compute.types import (
    CompleteListing,
    ComputeGroup,
    ComputeInstance,
    ComputeTemplate,
    Listing,
)
from gce_backend.engine.context import Context
from gce_backend.fleet.conditions import reason_of
from gce_backend.fleet.memory import Suspect
from gce_backend.model.keys import GroupKey
from gce_backend.rules.compute_bodies import base_instance_name_of
from gce_backend.rules.ownership import OWNER_LABEL, Mark, mark_of, mark_of_labels, may_be_ours

REASON = "Untracked"
FORMER = (
    "The daemon knows no group of its own there. If nothing of its own is left in that project, "
    "remove the project from `projects` of the entity StoreIdentity, and restart the daemon"
)
SECOND_LOOK = 60.0
"""Seconds between the two looks that must agree."""


class _Sighting(NamedTuple):
    """A resource without an entity.

    Attributes:
        mark: its mark, which may name no store.
        gce_id: a VM's numeric id.
        group: the group that a VM seems to be of; None when it seems to be of none.
    """

    mark: Mark
    gce_id: int | None = None
    group: GroupKey | None = None


async def look(
    context: Context,
    project: str,
    groups: Listing[ComputeGroup],
    vms: Listing[ComputeInstance] | None = None,
) -> str | None:
    """Looks at a project's VMs and groups, when it is time for that.

    Args:
        project: a project with groups of ours.
        groups: its groups, just listed.
        vms: all VMs with our label, if they have just been listed.

    Returns:
        Why it could not look; None when it could, or it was not time.
    """
    now = context.clock.monotonic()
    if now < context.memory.seen.next_full_look.get(project, float("-inf")):
        return None
    subject = f"instances of project {project}"
    if context.conditions.blocked(subject):
        return None
    condition = f"labels.{OWNER_LABEL} = {context.settings.owner}"
    try:
        instances = vms or await context.compute.list_instances(project, condition)
    except BackendError as error:
        context.conditions.fail(subject, error)
        return f"{subject}: {error}"
    context.conditions.clear(subject)
    unsure = _note(context, f"group {project}", _groups(context, groups), groups)
    unsure += _note(context, f"instance {project}", _instances(context, instances), instances)
    pause = SECOND_LOOK if unsure else context.settings.fetch.resync_seconds
    context.memory.seen.next_full_look[project] = now + pause
    return None


async def look_elsewhere(context: Context, projects: Collection[str]) -> list[str]:
    """Looks at the VMs and groups of projects without a group of ours, when it is time for that.

    Args:
        projects: those that were named at some time.

    Returns:
        Why it could not look at some.
    """
    found = [await _look_elsewhere(context, project) for project in sorted(projects)]
    return [problem for problem in found if problem is not None]


async def _look_elsewhere(context: Context, project: str) -> str | None:
    subject = f"instances of project {project}"
    due = context.memory.seen.next_full_look.get(project, float("-inf"))
    if context.clock.monotonic() < due or context.conditions.blocked(subject):
        return None
    try:
        groups = await context.compute.list_groups(project)
    except BackendError as error:
        message = f"{error}. {FORMER}"
        context.conditions.back_off(subject, reason_of(error), message)
        return f"{subject}: {error}"
    if await strays.adopt_groups(context, project, groups):  # its machines get entities first
        soon = context.clock.monotonic() + SECOND_LOOK
        context.memory.seen.next_full_look[project] = soon
        return None
    return await look(context, project, groups)


def note_templates(context: Context, project: str, templates: Listing[ComputeTemplate]) -> None:
    """Looks at a project's instance templates, just listed."""
    tracked = {context.fleet.template_name(key) for key in context.fleet.revisions}
    ours = known_mark(context)
    found = {
        template.name: _Sighting(mark)
        for template in templates.items
        if template.name not in tracked
        and (mark := mark_of(template.description)) is not None
        and may_be_ours(mark, ours)
    }
    _note(context, f"template {project}", found, templates)


def forget_templates(context: Context) -> None:
    """Forgets what was found in projects whose instance templates are no longer listed."""
    _forget(context, {"template"}, context.fleet.projects)


def forget_members(context: Context) -> None:
    """Forgets what was found in projects whose groups are no longer listed."""
    _forget(context, {"group", "instance"}, context.fleet.projects)


def is_suspect(context: Context, topic: str) -> bool:
    """Whether a look at Compute has found what a condition names, and none has missed it since."""
    scope, _, name = topic.partition("/")
    return name in context.memory.seen.suspects.get(scope, {})


def _forget(context: Context, kinds: Collection[str], projects: Collection[str]) -> None:
    suspects = context.memory.seen.suspects
    for scope in tuple(suspects):
        kind, _, project = scope.partition(" ")
        if kind in kinds and project not in projects:
            del suspects[scope]
            _count(context, kind)


def _groups(context: Context, listing: Listing[ComputeGroup]) -> dict[str, _Sighting]:
    tracked = {(key.name, context.fleet.group_name(key)) for key in context.fleet.managers}
    ours = known_mark(context)
    return {
        f"{group.zone_name}/{group.name}": _Sighting(mark)
        for group in listing.items
        if (group.zone_name, group.name) not in tracked
        and (mark := mark_of(group.description)) is not None
        and may_be_ours(mark, ours)
    }


def _instances(context: Context, listing: Listing[ComputeInstance]) -> dict[str, _Sighting]:
    """The VMs without an entity, by zone and name."""
    untracked: dict[str, _Sighting] = {}
    seen, groups = context.memory.seen, _by_first_names(context)
    machines = {(key.zone, key.name): key for key in context.fleet.instances}
    ours = known_mark(context)
    for found in listing.items:
        key = machines.get((found.zone_name, found.name))
        if key is not None:
            member = seen.member(key)
            if context.fleet.instances[key].gce_id in {None, found.id}:
                continue
            if member is not None and member.gce_id == found.id:
                continue  # its group has made it again, and the machine before it is to end first
            seen.doubted.add(key.group)
        mark = mark_of_labels(found.labels)
        if mark is not None and may_be_ours(mark, ours):
            group = groups.get((found.zone_name, found.name.rpartition("-")[0]))
            untracked[f"{found.zone_name}/{found.name}"] = _Sighting(mark, found.id, group)
    return untracked


def _by_first_names(context: Context) -> dict[tuple[str, str], GroupKey]:
    """The groups that exist, by their zone and by how the names of their VMs begin."""
    gone = context.memory.seen.gone
    return {
        (key.zone, base_instance_name_of(key)): key
        for key, manager in context.fleet.managers.items()
        if manager.url is not None and key not in gone
    }


def _was_listed(context: Context, group: GroupKey | None, since: float) -> bool:
    """Whether the group that a VM seems to be of was listed since a time; if not, it will be soon.

    A list gives each VM its entity. It may come late: where many rise at once, or lists fail.
    """
    if group is None:
        return True
    seen = context.memory.seen.groups.get(group)
    if seen is not None and seen.complete and seen.listed is not None and seen.listed >= since:
        return True
    context.memory.seen.doubted.add(group)
    return False


def _note(
    context: Context,
    scope: str,
    found: Mapping[str, _Sighting],
    listing: Listing[ComputeGroup] | Listing[ComputeInstance] | Listing[ComputeTemplate],
) -> int:
    """Reports what an earlier look found too; returns how many wait for a second look."""
    now = context.clock.monotonic()
    suspects = context.memory.seen.suspects.setdefault(scope, {})
    if isinstance(listing, CompleteListing):
        for name in suspects.keys() - found.keys():
            del suspects[name]
            context.conditions.clear(f"{scope}/{name}")
    unsure = 0
    for name, (mark, gce_id, group) in sorted(found.items()):
        if name not in suspects or suspects[name].gce_id != gce_id:  # another one of that name
            suspects[name] = Suspect(now, gce_id)
        since = suspects[name].since
        if now - since < SECOND_LOOK / 2 or not _was_listed(context, group, since):
            unsure += 1
            continue
        if context.conditions.note(f"{scope}/{name}", REASON, _message(name, mark)):
            context.log.error("resource.untracked", resource=f"{scope}/{name}")
    _count(context, scope.partition(" ")[0])
    return unsure


def _message(name: str, mark: Mark) -> str:
    found = "It carries this daemon's mark at Compute Engine and has no entity: nobody manages it, "
    if not mark.store:
        return (
            f"{found}and it may cost money. The mark names no store: `gce-backend adopt` shows "
            "whether this store can have it. If not, delete it, or remove the mark to keep it."
        )
    return (
        f"{found}and it may cost money. `gce-backend leaks` says how much, and `gce-backend leaks "
        f"--delete {name}` deletes it. To keep it, remove the mark."
    )


def _count(context: Context, kind: str) -> None:
    reported = (
        context.conditions.reason(f"{scope}/{name}") == REASON
        for scope, names in context.memory.seen.suspects.items()
        if scope.partition(" ")[0] == kind
        for name in names
    )
    context.metrics.untracked(kind, sum(reported))
