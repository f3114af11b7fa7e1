"""Marks the machines that a group has too many, so that they drain; unmarks those it needs again.

Nothing is removed or deleted here: a marked machine leaves the catalog by
remove-cataloged-instances and is deleted by delete-drained-instances, with all their checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from gce_backend.actions.deletion_budget import free_deletions
from gce_backend.actions.resources import beside, leaving_of, use_of
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import Excess, Instance, InstanceGroupManager, Permit
from gce_backend.model.keys import GroupKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.group_sizes import wanted_size
from gce_backend.rules.surplus import (
    Now,
    excess_of,
    first_to_leave,
    is_idle,
    is_worth_storing,
    marked,
    noted,
    remembered,
    surplus,
    to_keep,
    unmarked,
)

LEASED = "Leased"
"""The condition of a machine whose removal the Machine Provider refused."""


async def balance(context: Context) -> int:
    """Marks surplus machines, and unmarks those that are needed or leased.

    It marks no more than the caps on deletions leave: the others stay in the catalog.

    Returns:
        How many machines it marked or unmarked.

    Raises:
        RemoteError: the store could not be reached.
    """
    changes: list[Change[Any]] = []
    notes: list[Change[Any]] = []
    left, now = free_deletions(context, Permit.REMOVED), context.clock.now()
    stay: Apply[Instance] = when_present(unmarked)
    leave: Apply[Instance] = when_present(lambda instance: marked(instance, now))
    for key, manager in context.fleet.active_managers():
        if manager.url is None or key not in context.memory.seen.groups:
            continue
        marks, unmarks, excess = _of_group(context, key, manager)
        if context.is_paused(key):
            continue
        age = context.clock.elapsed(manager.excess.since) if manager.excess is not None else 0.0
        if is_worth_storing(manager.excess, excess, age, manager.surplus_seconds):
            notes.append(Change(key, when_present(_noting(excess))))
        changes += [Change(key.child(name), stay) for name in unmarks]
        changes += [Change(key.child(name), leave) for name in marks[: max(0, left)]]
        left -= len(marks)
    await context.fleet.change(notes)
    return await context.fleet.change(changes)


def _noting(excess: Excess | None) -> Callable[[InstanceGroupManager], InstanceGroupManager]:
    return lambda manager: replace(manager, excess=excess)


def _of_group(
    context: Context, key: GroupKey, manager: InstanceGroupManager
) -> tuple[tuple[str, ...], tuple[str, ...], Excess | None]:
    """The names of machines to mark and of machines to unmark, and the group's excess."""
    seen, now, moment = context.memory.seen, context.clock.now(), context.clock.monotonic()
    group = seen.groups[key]
    drained = [
        (machine.name, instance)
        for machine, instance in context.fleet.having(Facet.LEAVING, group=key)
        if instance.drain is not None and instance.drain.surplus and instance.deletion is None
    ]
    use = use_of(context, key)._replace(ageing=0)  # those are among the leaving ones
    size = group.target_size - leaving_of(context, key)
    known = seen.sizes.get(key)
    if known is None and manager.excess is not None:
        known = remembered(manager.excess, manager, moment, context.clock.elapsed)
    history = seen.sizes[key] = noted(known, manager, size, use, moment)
    excess = excess_of(history, manager, size, use, Now(now, moment))
    others = beside(context, key, manager)
    lacking = wanted_size(manager, others, use) - size if others is not None else 0
    unmarks = to_keep(drained, lacking, now)
    if not group.complete or manager.resize is not None or manager.in_flight is not None:
        return (), unmarks, excess
    count = surplus(history, manager, size, use, moment)
    if count <= 0:
        return (), unmarks, excess
    idle = [
        (machine.name, instance)
        for machine, instance in context.fleet.instances_of(key)
        if machine.name in group.members
        and is_idle(instance, now)
        and context.conditions.reason(machine) != LEASED
    ]
    return first_to_leave(idle, count), unmarks, excess
