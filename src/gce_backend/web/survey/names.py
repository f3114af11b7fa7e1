"""Finds the entities that a typed name may mean."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import takewhile
from typing import TypeAlias

from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Fleet
from gce_backend.model.entities import Instance, InstanceGroupManager, InstanceTemplate
from gce_backend.model.keys import GroupKey, Key, MachineKey, TemplateKey, manager_key
from gce_backend.web.survey import states

SIMILAR = 8
"""Most similar names that are suggested."""
ALIKE = 4
"""Characters that similar names share at their beginning."""
Named: TypeAlias = TemplateKey | GroupKey | MachineKey
"""The keys of entities whose names people know."""

MAX_ID_DIGITS = 20
"""Most digits of a numeric id, which has 64 bits."""


def numeric_id(text: str) -> int | None:
    """The numeric id of a VM that a text may be; None when it cannot be one."""
    is_id = text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS
    return int(text) if is_id else None


def meant(context: Context, name: str) -> list[Named]:
    """Machines, groups and templates that a name may mean; more than one when it is ambiguous.

    Args:
        context: the picture.
        name: a VM's name or numeric id, a group's name, `template/zone` (of groups that are gone
            only when no other is there), a template's base_name, or a machine's or group's whole
            key.
    """
    fleet = context.fleet
    names = name.split("/")
    if len(names) == 2:
        groups = sorted(
            (key for key in fleet.managers if [key.base_name, key.zone] == names),
            key=lambda key: (not fleet.is_active(key), key.path),
        )
        existing = set(states.existing_groups(context))
        return [key for key in groups if key in existing] or [*groups]
    if len(names) > 1:
        key = _of_path(names)
        return [key] if key is not None and fleet.get(key) is not None else []
    gce_id = numeric_id(name)
    return [
        *(key for key in fleet.templates if key.name == name),
        *(key for key in fleet.managers if fleet.group_name(key) == name),
        *(
            key
            for key, instance in fleet.instances.items()
            if key.name == name or (gce_id is not None and instance.gce_id == gce_id)
        ),
    ]


def similar(context: Context, name: str) -> list[str]:
    """Names of machines, groups and templates that look like this one, the likeliest first."""
    templates = get_close_matches(name, [key.base_name for key in context.fleet.templates], n=3)
    alike = heapq.nlargest(
        SIMILAR - len(templates),
        (
            (name in other, _shared(name, other), other)
            for other in _names(context)
            if name and (name in other or other[:ALIKE] == name[:ALIKE])
        ),
    )
    return list(dict.fromkeys([*templates, *(other for *_, other in alike)]))


def _of_path(names: list[str]) -> GroupKey | MachineKey | None:
    if len(names) == 3:
        return manager_key(*names)
    return manager_key(*names[:3]).child(names[3]) if len(names) == 4 else None


def _shared(one: str, other: str) -> int:
    """Characters that two names have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _names(context: Context) -> Iterator[str]:
    for template in context.fleet.templates:
        yield template.base_name
    for group in context.fleet.managers:
        yield context.fleet.group_name(group)
        yield f"{group.base_name}/{group.zone}"
    for machine in context.fleet.instances:
        yield machine.name


def name_of(fleet: Fleet, key: Key) -> str:
    """The name by which people know an entity."""
    return fleet.group_name(key) if isinstance(key, GroupKey) else key.name


def kind_of(key: Key) -> str:
    """The kind in words: `template`, `group` or `machine`."""
    kinds = {
        InstanceTemplate.KIND: "template",
        InstanceGroupManager.KIND: "group",
        Instance.KIND: "machine",
    }
    return kinds[key.kind]
