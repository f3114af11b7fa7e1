"""Which groups stand in for each other: all of a pool, or the revisions of a template in a zone.

What is needed, what there is room for and what may leave is counted over all of them.
"""

from __future__ import annotations

from typing import NamedTuple

from gce_backend.engine.context import Context
from gce_backend.model.entities import InstanceGroupManager, Pool
from gce_backend.model.keys import GroupKey, template_key


class Place(NamedTuple):
    """A pool, or a template in a zone.

    Attributes:
        names: base_names of the template and its alternatives, in order of preference.
        zones: its zones.
    """

    names: tuple[str, ...]
    zones: tuple[str, ...]


def place_of(context: Context, group: GroupKey) -> Place:
    """The place of a group: the pool that the configuration names for its template and zone."""
    named = _named(context, group.base_name, group.zone)
    pool = context.fleet.managers[named].pool if named is not None else None
    if pool is None:
        return Place((group.base_name,), (group.zone,))
    return place_of_pool(group, pool)


def place_of_pool(group: GroupKey, pool: Pool) -> Place:
    """The place of a pool that a group belongs to."""
    return Place(pool.kinds or (group.base_name,), pool.zones)


def groups_at(context: Context, place: Place) -> list[GroupKey]:
    """All groups of a place, of every revision, also of one that is missing from the store."""
    return [
        group
        for name in place.names
        for zone in place.zones
        for group in context.fleet.groups_in(template_key(name), zone)
    ]


def limits_at(context: Context, place: Place) -> InstanceGroupManager | Pool | None:
    """The sizes that the configuration names for a place; None when it names none.

    While a new configuration is taken up, those of the preferred template hold.
    """
    for name in place.names:
        for zone in place.zones:
            if (named := _named(context, name, zone)) is not None:
                manager = context.fleet.managers[named]
                return manager.pool if manager.pool is not None else manager
    return None


def _named(context: Context, base_name: str, zone: str) -> GroupKey | None:
    """The group that the configuration names for a template in a zone, once it has an entity."""
    root = template_key(base_name)
    template = context.fleet.templates.get(root)
    if template is None or template.active is None:
        return None
    group = root.child(template.active).child(zone)
    known = group in context.fleet.managers and context.fleet.is_named(group)
    return group if known else None
