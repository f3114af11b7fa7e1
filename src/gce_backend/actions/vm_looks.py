"""How VMs and operations are at Compute now: each by a call of its own, or many by one list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from gce_backend.base.errors import MissingEntityError, NotFoundError, RemoteError
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.clients.compute.name_filters import name_filters
from gce_backend.clients.compute.types import CompleteListing, ComputeInstance, Operation
from gce_backend.engine.context import Context
from gce_backend.model.keys import MachineKey

MANY: Final = 10
"""From this number on, they are listed together."""
PAGE: Final = 500
"""Operations of a page."""


ListedVms: TypeAlias = Mapping[MachineKey, ComputeInstance | None]
"""By machine: the VM of its name that a list shows, or None where a complete list shows none.

A machine that is not in it must be asked for alone.
"""
NOT_LISTED: Final[ListedVms] = MappingProxyType({})


async def list_vms(context: Context, keys: Iterable[MachineKey]) -> ListedVms:
    """The VMs of machines with their metadata, where a project has many of them."""
    projects: defaultdict[str, list[MachineKey]] = defaultdict(list)
    for key in keys:
        try:
            project = context.fleet.revision_of(key.group).template.project
        except MissingEntityError:
            continue  # asked for alone, it is a failure of its own
        projects[project].append(key)
    found: dict[MachineKey, ComputeInstance | None] = {}
    for project, wanted in projects.items():
        if len(wanted) < MANY:
            continue
        for condition in name_filters(key.name for key in wanted):
            asked = [key for key in wanted if key.name in condition.names]
            try:
                listing = await context.compute.list_instances(project, condition.text, whole=True)
            except RemoteError:
                continue
            shown = {(item.zone_name, item.name): item for item in listing.items}
            complete = isinstance(listing, CompleteListing)
            for key in asked:
                item = shown.get((key.zone, key.name))
                if item is not None or complete:
                    found[key] = item
    return found


async def list_operations(
    context: Context, operations: Iterable[ResourceLink]
) -> Mapping[ResourceLink, Operation]:
    """Operations as they are now, where a zone has many of them; others must be asked for alone."""
    zones: defaultdict[tuple[str, str], dict[str, ResourceLink]] = defaultdict(dict)
    for link in operations:
        if link.zone is not None:
            zones[link.project, link.zone][link.name] = link
    found: dict[ResourceLink, Operation] = {}
    for (project, zone), wanted in zones.items():
        if len(wanted) < MANY:
            continue
        # No filter: a zone keeps the operations of two weeks, and Google counts what is filtered.
        # Among the newest are also those that groups start for VMs: twice as many are listed.
        pages = 1 + 2 * len(wanted) // PAGE
        try:
            listing = await context.compute.list_operations(project, zone, pages=pages)
        except RemoteError:
            continue
        found |= {wanted[one.name]: one for one in listing.items if one.name in wanted}
    return found


async def find_vm(
    context: Context, key: MachineKey, listed: ListedVms = NOT_LISTED
) -> ComputeInstance | None:
    """An entity's own VM, as Compute has it; None when it no longer exists.

    Args:
        listed: what `list_vms` has just found; others are asked for.

    Raises:
        RemoteError: Compute could not be asked.
    """
    found: ComputeInstance | None
    if key in listed:
        found = listed[key]
    else:
        project = context.fleet.revision_of(key.group).template.project
        try:
            found = await context.compute.get_instance(project, key.zone, key.name)
        except NotFoundError:
            return None
    gce_id = context.fleet.instances[key].gce_id
    return found if found is not None and gce_id in {None, found.id} else None


async def is_gone(context: Context, key: MachineKey, listed: ListedVms = NOT_LISTED) -> bool:
    """Whether Compute says that it has no such VM, or another one of that name.

    A complete list of its group did not show the VM; this is the second check.
    """
    return await find_vm(context, key, listed) is None
