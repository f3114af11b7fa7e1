"""`gce-backend leaks`: what carries this store's mark at Compute Engine and belongs to nothing.

The mark names the store, and no entity of the store stands for the resource: nobody manages it, and
it costs money. Listing changes nothing. A deletion is ordered by a person, for one resource: its
machines leave the catalog, and while somebody holds one of them nothing is deleted. A disk that is
attached to no VM is only listed: whoever may delete disks does so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from gce_backend.base.errors import (
    MissingEntityError,
    NotFoundError,
    OrderError,
    PermissionDeniedError,
    UnknownNameError,
)
from gce_backend.clients.compute.types import (
    CompleteListing,
    ComputeGroup,
    ComputeInstance,
    ComputeTemplate,
    Listing,
)
from gce_backend.clients.machine_provider import CatalogError, MachineProviderClient
from gce_backend.configuration.naming import short_zone
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
        kind: `VM`, `disk`, `group` or `instance template`.
        project: where it is.
        zone: its zone; "" for a template.
        name: its name.
        gce_id: its numeric id, as text.
        machine_type: of a VM, or the type of a disk; "" otherwise.
        machines: VMs that a group has or is to have; they are listed, too.
        cost_per_day: about what a VM or a disk costs in a day; None when no price is known.
        size_gb: of a disk.
        command: the shell command that deletes it.
    """

    kind: str
    project: str
    zone: str
    name: str
    gce_id: str
    machine_type: str = ""
    machines: int = 0
    cost_per_day: float | None = None
    size_gb: int = 0
    command: str = ""


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
        price: of a machine, or of a GB of a disk.

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
        members, unlisted = await _members(fleet, compute, project)
        unsure += unlisted
        for vm in _vms(fleet, project, instances.items, mark):
            if (vm.zone, vm.name) not in members:
                hourly = await price(project, vm.zone, vm.machine_type)
                cost = None if hourly is None else hourly * HOURS_A_DAY
                vms.append(msgspec.structs.replace(vm, cost_per_day=cost))
        disks, doubts = await _disks(fleet, compute, project, mark)
        unsure += doubts
        for disk in disks:
            hourly = await price(project, "", disk.machine_type)
            cost = None if hourly is None else hourly * disk.size_gb * HOURS_A_DAY
            others.append(msgspec.structs.replace(disk, cost_per_day=cost))
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
    if any(leak.kind == "VM" for leak in found):  # a disk of the same name is only listed
        found = [leak for leak in found if leak.kind != "disk"]
    if not found:
        raise UnknownNameError(f"no leak is called {name!r}: `gce-backend leaks` lists them")
    if len(found) > 1:
        places = ", ".join(f"{leak.zone}/{leak.name}" for leak in found)
        raise OrderError(f"{len(found)} leaks are called {name!r}: give one of {places}")
    if found[0].kind == "disk":
        raise OrderError(f"the daemon deletes no disk: `{found[0].command}` does")
    return found[0]


async def delete(
    compute: ComputeClient, broker: MachineProviderClient, leak: Leak, request_id: str
) -> None:
    """Takes a leak's machines out of the catalog, deletes it, and waits for the end.

    Raises:
        OrderError: somebody holds one of its machines, or it is another resource now.
        RemoteError: something could not be asked, or Compute refused.
    """
    place = leak.project, leak.zone, leak.name
    machines = [leak.name] if leak.kind == "VM" else []
    if leak.kind == "group":
        listing = await compute.list_managed_instances(*place)
        machines = [member.instance.rpartition("/")[2] for member in listing.items]
        if not isinstance(listing, CompleteListing):
            raise OrderError(f"the machines of {leak.name} could not all be listed")
    found: Any
    if leak.kind == "VM":
        found = await compute.get_instance(*place)
    elif leak.kind == "group":
        found = await compute.get_group(*place)
    else:
        found = await compute.get_instance_template(leak.project, leak.name)
    if str(found.id) != leak.gce_id:
        raise OrderError(f"{leak.name} is another {leak.kind} by now")
    await _take_out(broker, machines)
    if leak.kind == "VM":
        operation = await compute.delete_instance(*place, request_id=request_id)
    elif leak.kind == "group":
        operation = await compute.delete_group(*place, request_id=request_id)
    else:
        operation = await compute.delete_instance_template(
            leak.project, leak.name, request_id=request_id
        )
    await compute.await_operation(operation, timeout=OPERATION_SECONDS)


async def _take_out(broker: MachineProviderClient, machines: Sequence[str]) -> None:
    """Takes machines out of the catalog: nobody can lease them any longer.

    Raises:
        OrderError: not all of them are out.
        RemoteError: the Machine Provider could not be asked.
    """
    removals = await asyncio.gather(*map(broker.delete_machine, machines))
    kept = {
        removal.hostname: removal.error
        for removal in removals
        if removal.error not in {None, CatalogError.ENTRY_NOT_FOUND}
    }
    held = sorted(name for name, error in kept.items() if error == CatalogError.LEASED)
    if held:
        others = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise OrderError(
            f"somebody holds {held[0]}{others}: nothing was deleted. What nobody holds has left "
            "the catalog; run the command again when the leases have ended"
        )
    if kept:
        name, error = min(kept.items())
        raise OrderError(f"the Machine Provider keeps {name} in its catalog: {error}")


async def _members(
    fleet: Fleet, compute: ComputeClient, project: str
) -> tuple[frozenset[tuple[str, str]], list[str]]:
    """The zone and name of each VM that a group of ours has and no entity stands for yet.

    And which groups' VMs may be missing among them, and why.
    """
    known = {(key.zone, key.name) for key in fleet.instances}
    found: set[tuple[str, str]] = set()
    doubts: list[str] = []
    for key, manager in fleet.managers.items():
        if manager.url is None:
            continue
        try:
            if fleet.revision_of(key).template.project != project:
                continue
            listing = await compute.list_managed_instances(project, key.zone, fleet.group_name(key))
        except NotFoundError:
            continue  # somebody has deleted it
        except MissingEntityError as error:
            doubts.append(str(error))
        else:
            found |= {(key.zone, item.instance.rpartition("/")[2]) for item in listing.items}
    return frozenset(found - known), doubts


def _vms(
    fleet: Fleet, project: str, items: tuple[ComputeInstance, ...], mark: Mark
) -> Iterator[Leak]:
    machines = {(key.zone, key.name): one.gce_id for key, one in fleet.instances.items()}
    for vm in items:
        known = machines.get((vm.zone_name, vm.name), 0)
        if mark_of_labels(vm.labels) == mark and known not in {None, vm.id}:
            kind, place = vm.machine_type.rpartition("/")[2], (project, vm.zone_name, vm.name)
            command = _deletion(f"{vm.zone_name}/{vm.name}")
            yield Leak("VM", *place, str(vm.id), kind, command=command)


async def _disks(
    fleet: Fleet, compute: ComputeClient, project: str, mark: Mark
) -> tuple[list[Leak], tuple[str, ...]]:
    """The disks of ours that no VM uses; and why some may be missing."""
    try:
        listing = await compute.list_disks(project)
    except PermissionDeniedError as error:
        return [], (f"{error}: listing disks needs compute.disks.list",)
    known = {(key.zone, key.name) for key, one in fleet.instances.items() if not one.is_tombstone}
    names = [re.escape(key.base_name) for key in fleet.templates]
    found = []
    for disk in listing.items:
        zone, name = disk.zone_name, disk.name
        # Those of earlier releases have no labels: their names are those of our machines.
        form = rf"({'|'.join(names)})-[0-9a-f]{{8}}-{short_zone(zone)}-[a-z0-9]{{4}}(-[0-9]+)?"
        ours = mark_of_labels(disk.labels) == mark or (
            not disk.labels and bool(names) and re.fullmatch(form, name)
        )
        # What a machine is being made with, or may still use; its other disks have numbers.
        machines = {(zone, name), (zone, re.sub(r"-[0-9]+$", "", name))}
        if disk.users or not zone or not ours or machines & known:
            continue
        command = f"gcloud compute disks delete {name} --zone={zone} --project={project}"
        kind = disk.type.rpartition("/")[2]
        place = project, zone, name, str(disk.id)
        found.append(Leak("disk", *place, kind, size_gb=disk.size_gb, command=command))
    return found, _reasons(listing)


def _deletion(name: str) -> str:
    return f"gce-backend leaks --delete {name}"


def _groups(
    fleet: Fleet, project: str, items: tuple[ComputeGroup, ...], mark: Mark
) -> Iterator[Leak]:
    tracked = {(key.zone, fleet.group_name(key)) for key in fleet.managers}
    for group in items:
        if mark_of(group.description) == mark and (group.zone_name, group.name) not in tracked:
            where = project, group.zone_name, group.name, str(group.id)
            command = _deletion(f"{group.zone_name}/{group.name}")
            yield Leak("group", *where, machines=group.target_size, command=command)


def _templates(
    fleet: Fleet, project: str, items: tuple[ComputeTemplate, ...], mark: Mark
) -> Iterator[Leak]:
    tracked = {fleet.template_name(key) for key in fleet.revisions}
    for one in items:
        if mark_of(one.description) == mark and one.name not in tracked:
            place = project, "", one.name, str(one.id)
            yield Leak("instance template", *place, command=_deletion(one.name))


def _reasons(listing: Listing[Any]) -> tuple[str, ...]:
    return () if isinstance(listing, CompleteListing) else listing.reasons
