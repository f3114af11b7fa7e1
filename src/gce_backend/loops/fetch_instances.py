"""fetch-instances: every VM of every group has an Instance entity, and its state is known.

A quiet minute costs one list per project: of its VMs, and of its groups where it has none, where
one page does not hold them, or where something is under way or due for its slow resync. The members
of a group are listed only when the group changed, is in transition, or is due for its slow resync.
An incomplete list adds the VMs in it and proves nothing about VMs that are not in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator

import msgspec

from gce_backend.actions import (
    preemptions,
    resources,
    stopped_vms,
    strays,
    troubles,
    untracked,
)
from gce_backend.actions.deletion import ABANDONED, abandoned_message
from gce_backend.actions.fan_out import ENOUGH_SECONDS, Result, act_in_slices
from gce_backend.actions.identity import is_meant, our_group
from gce_backend.actions.resources import learning
from gce_backend.actions.vm_looks import ListedVms, find_vm, list_vms
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    BackendError,
    MissingEntityError,
    NotFoundError,
    ReplacedResourceError,
)
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.clients.compute.types import (
    CompleteListing,
    ComputeGroup,
    ComputeInstance,
    Listing,
    ManagedInstance,
    PartialListing,
)
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import error_code_reason, reason_of
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance, InstanceGroupManager
from gce_backend.model.keys import GroupKey, Key, MachineKey
from gce_backend.model.observed import Group, Member
from gce_backend.rules.aging import IN_A_ROW, NOT_UP, not_up_message
from gce_backend.rules.facets import Facet
from gce_backend.rules.melt_down import MELT_DOWN, melt_down_message
from gce_backend.rules.permits import revived
from gce_backend.rules.sightings import (
    DROP_SECONDS,
    NOT_RUNNING,
    OUTDATED_SECONDS,
    START_SECONDS,
    WITHOUT_VM,
    abandoned_instance,
    emptied_instance,
    has_gone_missing,
    is_empty,
    not_running_message,
    seen_instance,
    trouble_of,
    unseen_instance,
    without_vm_message,
)

SECOND_LOOK = 5.0
"""Seconds between the two checks that prove a group gone."""
ABANDONED_LOOK = 5.0
LONGEST_ABANDONED_LOOK = 600.0
"""Seconds between two checks of a VM that its group does not list: first and longest pause."""
SPOT_LOOK = 50.0
"""Seconds after which the members of a group of Spot VMs are listed again, by the next run."""
LONGEST_POLL = 60.0
"""Seconds: a group in which something never ends costs one list a minute."""


async def run(context: Context) -> Outcome:
    """Lists all groups, then the members of the groups that need it."""
    problems: list[str] = []
    projects = _by_project(context, problems)
    untracked.forget_members(context)
    due: list[GroupKey] = []
    for project, keys in projects.items():
        vms = await stopped_vms.look(context, project, problems)
        if not (vms.as_known and _is_at_rest(context, project, keys)):
            due += await _look_at_groups(context, project, keys, problems, vms.all_vms)
        due += [key for key in vms.changed if key not in due]
    elsewhere = context.fleet.projects - projects.keys()
    problems += await untracked.look_elsewhere(context, elsewhere)
    adopted = _by_project(context, []) if elsewhere else {}
    for project in adopted.keys() & elsewhere:
        projects[project] = adopted[project]
        due += await _look_at_groups(context, project, adopted[project], problems)
    due += _doubted(context, set(due))
    due += _slow_turns(context, set(due))
    changed, failures, left = await _list_members(context, due)
    changed += await _note_orphans(context)
    changed += await preemptions.look(context)
    changed += await _look_for_abandoned(context)
    context.memory.seen.forget(context.fleet.managers)
    polls = [
        _poll_seconds(context, context.memory.seen.groups[key])
        for project, keys in projects.items()
        for key in keys
        if key in context.memory.seen.groups
        and not _is_settled(context, key)
        and not context.conditions.blocked(f"project {project}")
    ]
    waits = [context.conditions.wait(f"project {project}") for project in projects]
    polls += [wait for wait in waits if wait]
    if context.memory.seen.unlisted.keys() - context.memory.seen.gone:
        polls.append(SECOND_LOOK)
    if left:
        polls.append(0.0)
    return Outcome(
        changed=changed,
        again_after=min(polls, default=None),
        facts={"groups": sum(map(len, projects.values())), "listed": len(due) - left}
        if due
        else {},
        problems=(*problems, *failures),
    )


def _by_project(context: Context, problems: list[str]) -> dict[str, list[GroupKey]]:
    """The groups by project; a missing revision affects only its own groups."""
    projects: dict[str, list[GroupKey]] = {}
    for key, manager in context.fleet.managers.items():
        if manager.url is None:
            continue
        try:
            project = context.fleet.revision_of(key).template.project
        except MissingEntityError as error:
            context.conditions.note(key, reason_of(error), str(error))
            problems.append(f"{key}: {error}")
            continue
        projects.setdefault(project, []).append(key)
    return projects


def _is_at_rest(context: Context, project: str, keys: Iterable[GroupKey]) -> bool:
    """Whether nothing is under way in a project's groups, and it is not time for its full look."""
    seen = context.memory.seen
    if context.clock.monotonic() >= seen.next_full_look.get(project, float("-inf")):
        return False
    if context.conditions.reason(f"project {project}"):
        return False
    groups = set(keys)
    for key in groups:
        manager = context.fleet.managers[key]
        if manager.in_flight is not None or manager.resize is not None:
            return False
        if key in seen.unlisted or key in seen.gone or not _is_settled(context, key):
            return False
    leaving = context.fleet.having(Facet.LEAVING)
    return not any(one.deletion is not None and key.group in groups for key, one in leaving)


async def _look_at_groups(
    context: Context,
    project: str,
    keys: list[GroupKey],
    problems: list[str],
    all_vms: Listing[ComputeInstance] | None = None,
) -> list[GroupKey]:
    """Stores the state of the groups.

    Args:
        all_vms: the project's VMs, if they have just been listed.

    Returns:
        The groups whose members must be listed.
    """
    conditions = context.conditions
    if conditions.blocked(f"project {project}"):
        problems.append(f"project {project}: backing off")
        return []
    try:
        listing = await context.compute.list_groups(project)
    except BackendError as error:
        conditions.fail(f"project {project}", error)
        problems.append(f"project {project}: {error}")
        return []
    if isinstance(listing, CompleteListing):
        conditions.clear(f"project {project}")
    else:
        message = f"The list of groups is incomplete: {'; '.join(listing.reasons)}"
        conditions.note(f"project {project}", "IncompleteList", message)
        problems.append(f"project {project}: {message}")
    by_name = {(group.zone_name, group.name): group for group in listing.items}
    adopted = await strays.adopt_groups(context, project, listing)
    keys += adopted
    due = []
    learnt: list[Change[InstanceGroupManager]] = []
    for key in keys:
        manager = context.fleet.managers.get(key)
        if manager is None:
            continue  # it has left the store while Compute Engine answered
        group = by_name.get((key.name, context.fleet.group_name(key)))
        if group is not None and is_meant(context, group, manager.gce_id, key.revision):
            context.memory.seen.unlisted.pop(key, None)
            context.memory.seen.gone.discard(key)
            if manager.gce_id is None:
                learnt.append(Change(key, learning(manager, group.id)))
            if _note_group(context, key, group):
                due.append(key)
        elif group is not None or isinstance(listing, CompleteListing):
            await _note_unlisted(context, key)
    await context.fleet.change(learnt)
    if adopted:
        return due  # their machines get their entities first
    if problem := await untracked.look(context, project, listing, all_vms):
        problems.append(problem)
    return due


def _doubted(context: Context, due: Collection[GroupKey]) -> list[GroupKey]:
    """The groups with a VM that some job did not find."""
    doubted = context.memory.seen.doubted & context.memory.seen.groups.keys()
    context.memory.seen.doubted -= doubted
    return [key for key in doubted if key not in due]


def _slow_turns(context: Context, due: Collection[GroupKey]) -> list[GroupKey]:
    """The groups that are listed although they did not change: each in its turn, spread evenly."""
    groups = context.memory.seen.groups
    quiet = len(groups.keys() - due)
    return context.listing_turns.take(
        quiet,
        lambda: groups,
        lambda key: key in groups and key not in due,
        pace=quiet / context.settings.fetch.resync_seconds,
        now=context.clock.monotonic(),
    )


async def _note_unlisted(context: Context, key: GroupKey) -> None:
    """An unlisted group is gone when a second check, some seconds later, confirms it.

    It is also gone when another group has its name: the VMs in that one are not ours.
    """
    now, seen = context.clock.monotonic(), context.memory.seen
    first = seen.unlisted.setdefault(key, now)
    if key in seen.gone:
        return
    context.conditions.note(key, "GroupMissing", "Compute does not list this group.")
    if now - first < SECOND_LOOK:
        return
    name = context.fleet.group_name(key)
    try:
        await our_group(context, key)
    except NotFoundError:
        context.log.error("group.missing", template=key.base_name, zone=key.name, name=name)
    except ReplacedResourceError as error:
        context.conditions.note(key, reason_of(error), str(error))
        context.log.error(
            "group.replaced",
            template=key.base_name,
            zone=key.name,
            name=name,
            error=str(error),
        )
    except BackendError as error:  # it is not known yet: other groups go on
        context.conditions.fail(key, error)
        return
    else:
        seen.unlisted.pop(key, None)
        return
    seen.gone.add(key)
    seen.groups.pop(key, None)


def _note_group(context: Context, key: GroupKey, group: ComputeGroup) -> bool:
    """Remembers the state of a group; returns whether its members must be listed."""
    now = context.clock.monotonic()
    signature = f"{group.id} {group.target_size} {group.current_actions}"
    before = context.memory.seen.groups.get(key)
    stable = group.status.is_stable
    context.memory.seen.groups[key] = Group(
        target_size=group.target_size,
        stable=stable,
        signature=signature,
        changed=before.changed if before and before.signature == signature else now,
        members=before.members if before else {},
        listed=before.listed if before else None,
        complete=before.complete if before else False,
        running=before.running if before else False,
    )
    if before is None or before.listed is None or not before.complete:
        return True
    if signature != before.signature:
        return True
    age = now - before.listed
    if age >= SPOT_LOOK and context.fleet.revision_of(key).template.is_spot:
        return True  # a VM that is taken back changes nothing in the list of groups
    return not _is_settled(context, key) and age >= _poll_seconds(context, before)


def _poll_seconds(context: Context, group: Group) -> float:
    """When to check a group in transition again: later, the longer nothing changes."""
    still = context.clock.monotonic() - group.changed
    return min(max(context.settings.fetch.poll_seconds, still / 8), LONGEST_POLL)


async def _note_orphans(context: Context) -> int:
    """The VMs of a group that is gone are not listed by anyone."""
    now = context.clock.now()
    gone = [key for key in context.memory.seen.gone if key in context.fleet.managers]
    return await context.fleet.change(
        [
            Change(instance, _unseen(now))
            for key in gone
            for instance, entity in context.fleet.instances_of(key)
            if unseen_instance(entity, now) is not entity
        ]
    )


async def _look_for_abandoned(context: Context) -> int:
    """Distinguishes abandoned VMs from those that somebody deleted.

    A wrong list shows fewer members than the target size; a list without an abandoned VM does not.
    Each VM is checked less and less often.
    """
    looks, vanished = context.memory.seen.next_abandoned_look, context.memory.seen.vanished
    now, moment = context.clock.now(), context.clock.monotonic()
    due = []
    instances = context.fleet.instances
    for key in [*looks, *vanished]:
        known = instances.get(key)
        if known is None or known.missing_since is None or known.is_tombstone:
            vanished.discard(key)
            if looks.pop(key, None) is not None:
                context.conditions.clear(key)
    for key, instance in context.fleet.having(Facet.TROUBLED):
        if instance.missing_since is None or instance.is_tombstone:
            continue
        aged = has_gone_missing(instance, context.clock.elapsed)
        if aged and _has_left_its_group(context, key) and moment >= looks.get(key, (0.0, 0.0))[0]:
            due.append(key)

    changed = 0

    async def tell(key: MachineKey, *, exists: bool) -> None:
        nonlocal changed
        changed += await context.fleet.change([Change(key, _left(now, exists=exists))])

    async def look(key: MachineKey, listed: ListedVms) -> Result:
        pause = min(2 * looks[key][1], LONGEST_ABANDONED_LOOK) if key in looks else ABANDONED_LOOK
        looks[key] = (moment + pause, pause)
        found = await find_vm(context, key, listed)
        if found is None or found.status == "STOPPING":
            await tell(key, exists=False)
            if found is None:
                vanished.add(key)
            return Result.NOTHING
        await tell(key, exists=True)
        vanished.discard(key)
        context.conditions.note(key, ABANDONED, abandoned_message(context, key))
        return Result.HELD

    await act_in_slices(context, due, list_vms, look, observing=True)
    return changed


def _has_left_its_group(context: Context, key: MachineKey) -> bool:
    """Whether a complete list with the expected number of members does not show a VM.

    No list shows it when its group is gone.
    """
    if key.group in context.memory.seen.gone:
        return True
    group = context.memory.seen.groups.get(key.group)
    if group is None or not group.complete or key.name in group.members:
        return False
    return len(group.members) >= group.target_size


def _left(now: UnixSeconds, *, exists: bool) -> Apply[Instance]:
    return when_present(lambda instance: abandoned_instance(instance, now, exists=exists))


async def _list_members(context: Context, keys: list[GroupKey]) -> tuple[int, list[str], int]:
    """Lists the members of groups, and stores what is new.

    A run that takes long begins no more lists, so that the next jobs hear of what it has found.

    Returns:
        How many things have changed, the problems, and how many groups are left for the next run.
    """
    enough, left = context.clock.monotonic() + ENOUGH_SECONDS, 0
    slots = asyncio.Semaphore(context.settings.compute.max_concurrency)
    problems: list[str] = []
    trouble: list[BackendError] = []
    changed = 0

    async def list_one(key: GroupKey) -> None:
        nonlocal changed, left
        async with slots:
            if context.clock.monotonic() >= enough:
                left += 1
                return
            try:
                project = context.fleet.revision_of(key).template.project
                listing = await context.compute.list_managed_instances(
                    project, key.name, context.fleet.group_name(key)
                )
                if _has_news(context, key, listing.items):  # not those of another group of its name
                    await our_group(context, key)
            except BackendError as error:
                context.conditions.fail(key, error)
                problems.append(f"{key}: {error}")
                return
        complete = isinstance(listing, CompleteListing)
        if isinstance(listing, PartialListing):
            problems.append(f"{key}: incomplete list of members: {'; '.join(listing.reasons)}")
        try:
            # Stored before it is remembered, so that a run that is cut short is repeated.
            changes = list(_changes(context, key, listing.items, complete=complete))
            changed += await context.fleet.change(changes)
        except BackendError as error:  # the store's trouble, not the group's
            trouble.append(error)
            return
        changed += _note_members(context, key, listing.items, complete=complete)
        _note_trouble(context, key)
        if complete:
            changed += await _store_trouble(context, key)

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(list_one(key), name=f"{context.job}: {key}")
    if trouble:
        raise trouble[0]
    return changed, problems, left


def _has_news(context: Context, key: GroupKey, items: Iterable[ManagedInstance]) -> bool:
    """Whether a list of members shows a VM that has no entity."""
    for item in items:
        known = context.fleet.instances.get(key.child(item.instance.rpartition("/")[2]))
        if known is None or item.id not in {None, known.gce_id}:
            return True
    return False


def _note_members(
    context: Context, key: GroupKey, items: Iterable[ManagedInstance], *, complete: bool
) -> int:
    """Remembers the members; returns how many have started or stopped."""
    group = context.memory.seen.groups.get(key)
    if group is None:  # deleted while it was listed
        return 0
    listed = {member.name: member for member in map(_member, items)}
    before = group.members
    members = listed if complete else {**before, **listed}
    context.memory.seen.groups[key] = msgspec.structs.replace(
        group,
        members=members,
        complete=complete,
        running=all(member.is_running for member in members.values()),
        changed=group.changed if members == before else context.clock.monotonic(),
        listed=context.clock.monotonic() if complete else group.listed,
    )
    names = before.keys() | members.keys()
    return sum(
        (name in before and before[name].is_running)
        != (name in members and members[name].is_running)
        for name in names
    )


def _note_trouble(context: Context, key: GroupKey) -> None:
    """Reports why a group cannot create its VMs, or that it loses them repeatedly."""
    group = context.memory.seen.groups.get(key)
    if group is None or key not in context.fleet.managers:
        return
    failing = [member for member in group.members.values() if member.error_code]
    melting = resources.pace(context, key)
    if failing:
        reason, message = error_code_reason(failing[0].error_code), trouble_of(failing)
    elif kept := _kept_without_vm(context, key, group):
        reason, message = WITHOUT_VM, without_vm_message(kept)
    elif len(late := resources.not_up(context, key)) >= IN_A_ROW:
        seconds = context.fleet.managers[key].boot_seconds
        reason, message = NOT_UP, not_up_message(len(late), seconds)
    elif slow := _slow_starters(context, key, group):
        reason, message = NOT_RUNNING, not_running_message(slow)
    elif melting.is_melting:
        reason, message = MELT_DOWN, melt_down_message(melting.lost)
    else:
        context.conditions.clear(key)
        return
    known = context.conditions.reason(key)
    if context.conditions.note(key, reason, message) and (reason, known) != (MELT_DOWN, MELT_DOWN):
        context.log.warning(
            "group.failing",
            template=key.base_name,
            zone=key.zone,
            name=context.fleet.group_name(key),
            reason=reason,
            error=message,
        )


async def _store_trouble(context: Context, key: GroupKey) -> int:
    """Stores why a group cannot create its VMs; returns how many entities were written."""
    group = context.memory.seen.groups.get(key)
    failing = [member for member in group.members.values() if member.error_code] if group else []
    by_reason: dict[str, list[Member]] = {}
    for member in failing:
        by_reason.setdefault(error_code_reason(member.error_code), []).append(member)
    found = {reason: trouble_of(members) for reason, members in by_reason.items()}
    return await troubles.store(context, key, found)


def _kept_without_vm(context: Context, key: GroupKey, group: Group) -> list[str]:
    """The members without a VM that the group has been asked to delete for long, by name."""
    return sorted(
        machine.name
        for machine, instance in context.fleet.instances_of(key)
        if (member := group.members.get(machine.name)) is not None
        and is_empty(member, instance)
        and (deletion := instance.deletion) is not None
        and deletion.confirmed is None
        and context.clock.elapsed(deletion.requested) >= DROP_SECONDS
    )


def _slow_starters(context: Context, key: GroupKey, group: Group) -> list[Member]:
    """The VMs that exist and have not run since long after their group first listed them."""
    return [
        member
        for name, member in group.members.items()
        if member.is_starting
        and (instance := context.fleet.instances.get(key.child(name))) is not None
        and instance.rising_since is not None
        and context.clock.elapsed(instance.rising_since) >= START_SECONDS
    ]


def _changes(
    context: Context, key: GroupKey, items: Iterable[ManagedInstance], *, complete: bool
) -> Iterator[Change[Instance]]:
    now = context.clock.now()
    listed: set[MachineKey] = set()
    for item in items:
        link = ResourceLink.parse(item.instance)
        instance = key.child(link.name)
        known, member = context.fleet.instances.get(instance), _member(item)
        listed.add(instance)
        if is_empty(member, known):
            seen = _emptied(context, link.url)
        else:
            seen = _seen(item.id, link.url, now, stopped=member.is_stopped)
        if known is None or seen(known) is not known:
            yield Change(instance, seen)
    if complete:
        for instance, entity in context.fleet.instances_of(key):
            if instance not in listed and unseen_instance(entity, now) is not entity:
                yield Change(instance, _unseen(now))


def _emptied(context: Context, url: str) -> Apply[Instance]:
    """The change when a group counts a member without a VM.

    One that is taken to be deleted is deleted again, unless the list may be an old one.
    """
    now, elapsed = context.clock.now(), context.clock.elapsed

    def apply(instance: Instance | None) -> Instance:
        deletion = instance.deletion if instance is not None else None
        if instance is not None and deletion is not None and deletion.confirmed is not None:
            again = elapsed(deletion.confirmed) >= OUTDATED_SECONDS
            return revived(instance) if again else instance
        return emptied_instance(instance, url, now)

    return apply


def _seen(gce_id: int | None, url: str, now: UnixSeconds, *, stopped: bool) -> Apply[Instance]:
    return lambda instance: seen_instance(instance, gce_id, url, now, stopped=stopped)


def _unseen(now: UnixSeconds) -> Apply[Instance]:
    return lambda instance: None if instance is None else unseen_instance(instance, now)


def _is_settled(context: Context, key: GroupKey) -> bool:
    """Whether nothing is expected to change in a group by itself."""
    group = context.memory.seen.groups.get(key)
    if group is None:
        return False
    return (
        group.stable
        and group.complete
        and group.running
        and len(group.members) == group.target_size
    )


def _member(item: ManagedInstance) -> Member:
    errors = item.last_attempt.errors.errors
    return Member(
        name=item.instance.rpartition("/")[2],
        gce_id=item.id,
        status=item.instance_status,
        action=item.current_action,
        error=errors[0].message if errors else "",
        error_code=errors[0].code if errors else "",
    )


def _concerns(context: Context, key: Key) -> bool:
    if isinstance(key, MachineKey):  # an abandoned one
        instance = context.fleet.instances.get(key)
        return instance is not None and instance.abandoned_since is not None
    manager = context.fleet.managers.get(key) if isinstance(key, GroupKey) else None
    return manager is not None and manager.url is not None


def _topics(context: Context, topic: str) -> bool:
    if untracked.is_suspect(context, topic):
        return True
    what, _, project = topic.partition("project ")
    if what == "instances of ":
        return project in context.fleet.projects
    revisions = {key.revision for key in context.fleet.managers if _concerns(context, key)}
    found = (context.fleet.revisions.get(key) for key in revisions)
    return any(one is not None and one.template.project == project for one in found)


JOB = Job(
    name="fetch-instances",
    run=run,
    timeout=120.0,
    wakes=(
        "catalog-instances",
        "resize-instance-groups",
        "create-instance-group-managers",
        "delete-instances-pending-deletion",
        "remove-cataloged-instances",
        "delete-drained-instances",
        "delete-instance-group-managers",
        "cleanup-entities",
    ),
    concerns=_concerns,
    topics=_topics,
)
