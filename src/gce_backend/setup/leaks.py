"""`gce-backend leaks`: what carries this store's mark at Compute Engine and belongs to nothing.

The mark names the store, and no entity of the store stands for the resource: nobody manages it, and
it costs money. Listing changes nothing. A deletion is ordered by a person, for one resource, and is
refused while the Machine Provider has a machine of that name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from gce_backend.base.errors import OrderError, UnknownNameError
from gce_backend.clients.compute.types import (
    CompleteListing,
    ComputeGroup,
    ComputeInstance,
    ComputeTemplate,
    Listing,
)
from gce_backend.clients.machine_provider import MachineProviderClient, NotCataloged
from gce_backend.fleet.picture import Fleet
from gce_backend.gce_client import ComputeClient
from gce_backend.rules.cost import HOURS_A_DAY
from gce_backend.rules.ownership import OWNER_LABEL, Mark, mark_of, mark_of_labels

OPERATION_SECONDS = 60.0
"""Seconds for which a deletion is waited for."""

Price = Callable[[str, str, str], Awaitable[float | None]]
"""Returns about what a machine costs in an hour, from its project, zone and machine type."""


class Leak(msgspec.Struct, frozen=True):
    """A resource that belongs to nothing.

    Attributes:
        kind: `VM`, `group` or `instance template`.
        project: where it is.
        zone: its zone; "" for a template.
        name: its name.
        gce_id: its numeric id, as text.
        machine_type: of a VM; "" otherwise.
        machines: VMs that a group has or is to have; they are listed, too.
        cost_per_day: about what a VM costs in a day; None when no price is known.
    """

    kind: str
    project: str
    zone: str
    name: str
    gce_id: str
    machine_type: str = ""
    machines: int = 0
    cost_per_day: float | None = None


class Audit(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        leaks: the VMs first.
        unsure: why the list may be incomplete.
    """

    leaks: tuple[Leak, ...]
    unsure: tuple[str, ...] = ()

    @property
    def cost_per_day(self) -> float:
        """About what all of them cost in a day, as far as prices are known."""
        return sum(leak.cost_per_day or 0.0 for leak in self.leaks)


async def find(fleet: Fleet, compute: ComputeClient, owner: str, price: Price) -> Audit:
    """What belongs to nothing, in all projects that the configuration has ever named.

    Args:
        fleet: the entities, loaded before.
        compute: lists what there is.
        owner: the owner of the settings.
        price: of a machine.

    Raises:
        RemoteError: Compute could not be asked.
    """
    mark = Mark(owner, fleet.identity)
    vms: list[Leak] = []
    others: list[Leak] = []
    unsure: list[str] = []
    for project in sorted(fleet.projects):
        condition = f"labels.{OWNER_LABEL} = {owner}"
        instances = await compute.list_instances(project, condition, whole=True)
        groups = await compute.list_groups(project)
        templates = await compute.list_instance_templates(project)
        unsure += [*_reasons(instances), *_reasons(groups), *_reasons(templates)]
        members = await _members(fleet, compute, project)
        for vm in _vms(fleet, project, instances.items, mark):
            if (vm.zone, vm.name) not in members:
                hourly = await price(project, vm.zone, vm.machine_type)
                cost = None if hourly is None else hourly * HOURS_A_DAY
                vms.append(msgspec.structs.replace(vm, cost_per_day=cost))
        others += _groups(fleet, project, groups.items, mark)
        others += _templates(fleet, project, templates.items, mark)
    return Audit((*vms, *others), tuple(unsure))


def the_leak(audit: Audit, name: str) -> Leak:
    """The leak of this name.

    Raises:
        UnknownNameError: there is none.
        OrderError: there are several; `zone/name` names one.
    """
    found = [leak for leak in audit.leaks if name in {leak.name, f"{leak.zone}/{leak.name}"}]
    if not found:
        raise UnknownNameError(f"no leak is called {name!r}: `gce-backend leaks` lists them")
    if len(found) > 1:
        places = ", ".join(f"{leak.zone}/{leak.name}" for leak in found)
        raise OrderError(f"{len(found)} leaks are called {name!r}: give one of {places}")
    return found[0]


async def delete(
    compute: ComputeClient, broker: MachineProviderClient, leak: Leak, request_id: str
) -> None:
    """Deletes a leak, and waits for the end.

    Raises:
        OrderError: the Machine Provider has a machine of that name, or it is another resource now.
        RemoteError: something could not be asked, or Compute refused.
    """
    place = leak.project, leak.zone, leak.name
    machines = [leak.name] if leak.kind == "VM" else []
    if leak.kind == "group":
        listing = await compute.list_managed_instances(*place)
        machines = [member.instance.rpartition("/")[2] for member in listing.items]
        if not isinstance(listing, CompleteListing):
            raise OrderError(f"the machines of {leak.name} could not all be listed")
    for name in machines:
        if not isinstance(await broker.get(name), NotCataloged):
            raise OrderError(
                f"the Machine Provider has a machine {name}, or does not say that it has none: "
                "somebody may hold it"
            )
    found: Any
    if leak.kind == "VM":
        found = await compute.get_instance(*place)
    elif leak.kind == "group":
        found = await compute.get_group(*place)
    else:
        found = await compute.get_instance_template(leak.project, leak.name)
    if str(found.id) != leak.gce_id:
        raise OrderError(f"{leak.name} is another {leak.kind} by now")
    if leak.kind == "VM":
        operation = await compute.delete_instance(*place, request_id=request_id)
    elif leak.kind == "group":
        operation = await compute.delete_group(*place, request_id=request_id)
    else:
        operation = await compute.delete_instance_template(
            leak.project, leak.name, request_id=request_id
        )
    await compute.await_operation(operation, timeout=OPERATION_SECONDS)


async def _members(
    fleet: Fleet, compute: ComputeClient, project: str
) -> frozenset[tuple[str, str]]:
    """The zone and name of each VM that a group of ours has and no entity stands for yet."""
    known = {(key.zone, key.name) for key in fleet.instances}
    found: set[tuple[str, str]] = set()
    for key, manager in fleet.managers.items():
        if manager.url is None or fleet.revision_of(key).template.project != project:
            continue
        listing = await compute.list_managed_instances(project, key.zone, fleet.group_name(key))
        found |= {(key.zone, item.instance.rpartition("/")[2]) for item in listing.items}
    return frozenset(found - known)


def _vms(
    fleet: Fleet, project: str, items: tuple[ComputeInstance, ...], mark: Mark
) -> Iterator[Leak]:
    machines = {(key.zone, key.name): one.gce_id for key, one in fleet.instances.items()}
    for vm in items:
        known = machines.get((vm.zone_name, vm.name), 0)
        if mark_of_labels(vm.labels) == mark and known not in {None, vm.id}:
            kind, type_ = vm.machine_type.rpartition("/")[2], str(vm.id)
            yield Leak("VM", project, vm.zone_name, vm.name, type_, kind)


def _groups(
    fleet: Fleet, project: str, items: tuple[ComputeGroup, ...], mark: Mark
) -> Iterator[Leak]:
    tracked = {(key.zone, fleet.group_name(key)) for key in fleet.managers}
    for group in items:
        if mark_of(group.description) == mark and (group.zone_name, group.name) not in tracked:
            where = project, group.zone_name, group.name
            yield Leak("group", *where, str(group.id), machines=group.target_size)


def _templates(
    fleet: Fleet, project: str, items: tuple[ComputeTemplate, ...], mark: Mark
) -> Iterator[Leak]:
    tracked = {fleet.template_name(key) for key in fleet.revisions}
    for one in items:
        if mark_of(one.description) == mark and one.name not in tracked:
            yield Leak("instance template", project, "", one.name, str(one.id))


def _reasons(listing: Listing[Any]) -> tuple[str, ...]:
    return () if isinstance(listing, CompleteListing) else listing.reasons
