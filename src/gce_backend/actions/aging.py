"""Marks machines that are too old, and machines that do not come up, so that they drain.

Nothing is removed or deleted here: the jobs that do so have their own checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from gce_backend.actions.deletion_budget import free_deletions
from gce_backend.actions.places import groups_at, limits_at, place_of
from gce_backend.actions.resources import beside, pace, use_of
from gce_backend.actions.rollouts import needed_at, staying
from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Instance, InstanceGroupManager, Permit
from gce_backend.model.keys import GroupKey, MachineKey
from gce_backend.rules.aging import (
    does_not_run,
    in_turn,
    is_aged,
    marked_as_aged,
    marked_as_not_up,
    replaced_for_age,
)
from gce_backend.rules.facets import Facet
from gce_backend.rules.group_sizes import needed_size, room


class Marked(NamedTuple):
    """What a look at all machines has led to.

    Attributes:
        number: of machines that it marked.
        wait: seconds until the next look; None when nothing is due.
    """

    number: int
    wait: float | None


async def replace_old(context: Context) -> Marked:
    """Marks machines that do not come up, and old ones as far as the caps on deletions go.

    Raises:
        RemoteError: the store could not be reached.
    """
    changes: list[Change[Any]] = []
    waits: list[float] = []
    left = free_deletions(context, Permit.REMOVED)
    for key, manager in context.fleet.active_managers():
        if manager.url is None or context.is_paused(key):
            continue
        late, wait = _not_up(context, key, manager)
        changes += late
        waits += [wait] if wait is not None else []
        if not manager.max_age_seconds:
            continue
        oldest = tuple(_oldest(context, key, manager))
        aged = _aged(context, key, manager, oldest)[: max(0, left)]
        left -= len(aged)
        changes += aged
        ages = (context.clock.elapsed(one.listed_since or 0.0) for _, one in oldest)
        waits += (manager.max_age_seconds - age for age in ages if age < manager.max_age_seconds)
    number = await context.fleet.change(changes)
    return Marked(number, min(waits, default=None))


def _coming(context: Context, key: GroupKey) -> dict[MachineKey, Instance]:
    """The machines of a group that come up: they are not cataloged, or wait for their agent."""
    instances, waiting = context.fleet.instances, context.memory.catalog.agents.waiting(key)
    found = dict(context.fleet.having(Facet.UNCATALOGED, group=key))
    return found | {machine: instances[machine] for machine in waiting if machine in instances}


def _oldest(
    context: Context, key: GroupKey, manager: InstanceGroupManager
) -> Iterator[tuple[MachineKey, Instance]]:
    """The machines of a group that are too old, and the next one; the others are not looked at.

    What was listed in the future, because the clock was set back, may have any age: it is among
    them.
    """
    now = context.clock.now()
    for machine, instance in context.fleet.by_age(key):
        since = instance.listed_since or 0.0
        yield machine, instance
        if since <= now and context.clock.elapsed(since) < manager.max_age_seconds:
            break
    for machine, instance in context.fleet.by_age(key, newest_first=True):
        if (instance.listed_since or 0.0) <= now:
            break
        yield machine, instance


def _aged(
    context: Context,
    key: GroupKey,
    manager: InstanceGroupManager,
    oldest: Iterable[tuple[MachineKey, Instance]],
) -> list[Change[Instance]]:
    """Marks those whose turn has come; none while the group cannot make others.

    Args:
        oldest: the machines of the group that are too old, and perhaps others.
    """
    group, now = context.memory.seen.groups.get(key), context.clock.now()
    others = beside(context, key, manager)
    if group is None or others is None or not group.stable or pace(context, key).most is not None:
        return []
    aged = [it for it in oldest if is_aged(it[1], manager, context.clock.elapsed, now)]
    needed = needed_size(manager, use_of(context, key))
    leaving = context.fleet.having(Facet.LEAVING, group=key)
    going = sum(replaced_for_age(instance) for _, instance in leaving)
    free = _has_room(context, key)
    aged.sort(key=lambda it: (it[1].listed_since or 0.0, it[0].name))
    apply: Apply[Instance] = when_present(
        lambda instance: marked_as_aged(instance, manager, now, room=free)
    )
    return [Change(machine, apply) for machine, _ in aged[: in_turn(needed, going)]]


def _has_room(context: Context, key: GroupKey) -> bool:
    """Whether there may be one more machine than is needed where a group is."""
    place = place_of(context, key)
    groups = groups_at(context, place)
    limits = limits_at(context, place)
    limit = room(limits.maximum_size, staying(context, groups)) if limits is not None else None
    return limit is None or limit > needed_at(context, place, groups)


def _not_up(
    context: Context, key: GroupKey, manager: InstanceGroupManager
) -> tuple[list[Change[Instance]], float | None]:
    """Marks machines whose VM does not come to run, or whose agent does not report.

    Many are requested at one moment, whose age is looked up once.

    Returns:
        The changes, and the seconds until the next machine is late; None when none comes up.
    """
    if manager.boot_seconds <= 0:
        return [], None
    elapsed, now = context.clock.elapsed, context.clock.now()
    apply: Apply[Instance] = when_present(lambda instance: marked_as_not_up(instance, manager, now))
    agents, found = context.memory.catalog.agents, list[Change[Instance]]()
    left: dict[UnixSeconds, float] = {}
    for machine, instance in _coming(context, key).items():
        waits = agents.waits(machine)
        since = instance.adding_since if waits else instance.rising_since
        if since is None:
            continue
        if since not in left:
            left[since] = manager.boot_seconds - elapsed(since)
        if left[since] > 0:
            continue
        member = context.memory.seen.member(machine)
        if waits or does_not_run(instance, member, manager, elapsed):
            found.append(Change(machine, apply))
    return found, min((seconds for seconds in left.values() if seconds > 0), default=None)
