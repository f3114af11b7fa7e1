"""Holds a new revision at a few machines until these can be leased: a bad one costs no more.

While it has not proved itself, no old machine leaves the catalog for it.
"""

from __future__ import annotations

from gce_backend.actions.resources import beside, use_of
from gce_backend.engine.context import Context
from gce_backend.model.entities import InstanceTemplate
from gce_backend.model.keys import GroupKey, template_key
from gce_backend.rules.facets import Facet
from gce_backend.rules.group_sizes import wanted_size
from gce_backend.rules.rollout import stays_apart


def canaries(context: Context, key: GroupKey) -> int | None:
    """The most machines that an active group may have until its revision has proved itself.

    One group has all canaries, of the template or, where it has any, of its alternatives: they
    change together. Machines that are kept though they cannot be leased take no canary's place.

    Returns:
        None when the revision has proved itself, or when no older one has machines to lease.
    """
    fleet = context.fleet
    canary = fleet.revision_of(key).template.canary
    canary = context.settings.rollout.canary if canary is None else canary
    if not canary:
        return None
    pool = fleet.managers[key].pool
    names = pool.kinds if pool is not None and pool.kinds else (key.base_name,)
    every = [
        group
        for name in names
        for revision, _ in fleet.revisions_of(template_key(name))
        for group, _ in fleet.managers_of(revision)
    ]
    active = {name: fleet.templates.get(template_key(name)) for name in names}
    groups = [group for group in every if _is_newest(active[group.base_name], group)]
    if not any(_offered(context, group) for group in every if group not in groups):
        return None
    groups = [group for group in groups if fleet.is_active(group)]
    proved = sum(_offered(context, group) for group in groups)
    wanted = {group: _wanted(context, group) for group in groups}
    needed = min(canary, sum(wanted.values()))
    if proved >= needed:
        return None
    able = [group for group in groups if wanted[group] and _may_grow(context, group)] or groups
    first = min(able, key=lambda group: (names.index(group.base_name), str(group)))
    return (needed if key == first else 0) + _apart(context, key)


def _is_newest(template: InstanceTemplate | None, group: GroupKey) -> bool:
    """Whether a group is of its template's active revision."""
    return template is not None and template.active == group.revision.checksum


def _offered(context: Context, group: GroupKey) -> int:
    """How many machines of a group are leased or can be."""
    return context.fleet.size(group) - context.fleet.count(Facet.NOT_OFFERED, group)


def _apart(context: Context, group: GroupKey) -> int:
    """How many machines of a group are kept though they cannot be leased."""
    now = context.clock.now()
    kept = context.fleet.having(Facet.LEASED, Facet.LEAVING, group=group)
    return sum(stays_apart(instance, now) for _, instance in kept)


def _wanted(context: Context, group: GroupKey) -> int:
    manager = context.fleet.managers[group]
    others = beside(context, group, manager)
    return wanted_size(manager, others or 0, use_of(context, group)) or min(1, manager.minimum_size)


def _may_grow(context: Context, group: GroupKey) -> bool:
    seen = context.memory.seen.groups.get(group)
    fails = seen is not None and any(member.error_code for member in seen.members.values())
    failed = any(condition.failures for condition in context.conditions.of(group))
    return not fails and not failed and not context.is_paused(group)
