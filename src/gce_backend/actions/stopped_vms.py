"""Finds the groups of which a VM has stopped or was deleted: neither changes its group.

Once a minute and project this costs one page: of all VMs of ours where one page holds them, and
else of those that do not run, which are none in a quiet minute. A page of all VMs that shows
those that are known, and no others, makes the list of groups unnecessary for that minute.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from gce_backend.base.errors import BackendError, MissingEntityError
from gce_backend.clients.compute.types import CompleteListing, ComputeInstance, Listing
from gce_backend.engine.context import Context
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, MachineKey
from gce_backend.model.observed import STOPPED
from gce_backend.rules.ownership import OWNER_LABEL

LOOK = 50.0
"""Seconds after which a project is looked at again, by the next run."""
PAGE = 500
"""VMs of a page: so many are all listed at each look."""

_Vm: TypeAlias = tuple[str, str, int]
"""A VM's zone, name and numeric id."""


class Look(NamedTuple):
    """What a look at a project's VMs has found.

    Attributes:
        changed: the groups with a VM that has stopped or was deleted since it was listed.
        as_known: whether exactly the VMs are there that ran when their groups were listed, and run.
        all_vms: the list of all VMs of ours; None when not all were listed.
    """

    changed: list[GroupKey]
    as_known: bool = False
    all_vms: Listing[ComputeInstance] | None = None


async def look(context: Context, project: str, problems: list[str]) -> Look:
    """Looks at the VMs of a project, when it is time for that.

    Args:
        problems: takes why the VMs could not be listed.
    """
    now = context.clock.monotonic()
    subject = f"stopped instances of project {project}"
    if now < context.memory.seen.next_stopped_look.get(project, float("-inf")):
        return Look([])
    groups = [*_groups_of(context, project)]
    few = [*islice(_running_vms(context, groups), PAGE + 1)]
    if not few:  # an empty pool costs no list
        context.conditions.clear(subject)
    if not few or context.conditions.blocked(subject):
        return Look([])
    are_few = len(few) <= PAGE
    condition = f"labels.{OWNER_LABEL} = {context.settings.owner}"
    if not are_few:
        condition += " status != RUNNING"
    try:
        listing = await context.compute.list_instances(project, condition)
    except BackendError as error:
        context.conditions.fail(subject, error)
        problems.append(f"{subject}: {error}")
        return Look([])
    context.conditions.clear(subject)
    context.memory.seen.next_stopped_look[project] = now + LOOK
    shown = {(vm.zone_name, vm.name, vm.id): vm.status in STOPPED for vm in listing.items}
    proves_absence = are_few and isinstance(listing, CompleteListing)
    changed = {
        machine.group: None
        for vm, machine in (few if are_few else _machines_of(context, groups, shown))
        if shown.get(vm, proves_absence)
    }
    as_known = (
        proves_absence
        and shown.keys() == {vm for vm, _ in few}
        and all(vm.status == "RUNNING" for vm in listing.items)
    )
    return Look([*changed], as_known, listing if are_few else None)


def _groups_of(context: Context, project: str) -> Iterator[GroupKey]:
    """A project's groups that exist."""
    for group in context.memory.seen.groups:
        if group not in context.fleet.managers:
            continue
        try:
            template = context.fleet.revision_of(group).template
        except MissingEntityError:
            continue  # the jobs that need it report it
        if template.project == project:
            yield group


def _running_vms(context: Context, groups: Iterable[GroupKey]) -> Iterator[tuple[_Vm, MachineKey]]:
    """The VMs that ran when their groups were last listed."""
    for group in groups:
        for key, instance in context.fleet.instances_of(group):
            if (vm := _running_vm(key, instance)) is not None:
                yield vm, key


def _machines_of(
    context: Context, groups: Sequence[GroupKey], vms: Iterable[_Vm]
) -> Iterator[tuple[_Vm, MachineKey]]:
    """Those of these VMs that ran when their groups were last listed, with their machines."""
    zones: defaultdict[str, list[GroupKey]] = defaultdict(list)
    for group in groups:
        zones[group.zone].append(group)
    for vm in vms:
        zone, name, _ = vm
        for group in zones[zone]:
            key = group.child(name)
            instance = context.fleet.instances.get(key)
            if instance is not None and _running_vm(key, instance) == vm:
                yield vm, key


def _running_vm(key: MachineKey, instance: Instance) -> _Vm | None:
    """The VM of a machine; None if it had none that ran when its group was last listed."""
    if instance.gce_id is None or instance.is_tombstone:
        return None
    if instance.stopped_since is not None or instance.missing_since is not None:
        return None
    return key.zone, key.name, instance.gce_id
