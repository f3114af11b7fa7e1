"""What a configuration names at Compute Engine, so that it can be looked up before it is needed.

That something exists does not mean that it may be used: of networks and service accounts only their
owners can see that. Service accounts are not Compute Engine's, and are not looked up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

from gce_backend.configuration.types import Configuration, TemplateConfig
from gce_backend.configuration.values import NetworkLink, network_link, zone_region
from gce_backend.gce_client import ComputeClient

LOCAL_SSD = "local-ssd"
"""The disk type of local SSDs."""


class Lookup(NamedTuple):
    """How to see whether something exists.

    Attributes:
        ask: looks it up; raises NotFoundError when it does not exist.
        permission: what only this look needs, and the daemon itself does not; "" for none.
    """

    ask: Callable[[], Awaitable[object]]
    permission: str = ""


def named_resources(compute: ComputeClient, configuration: Configuration) -> Mapping[str, Lookup]:
    """All that the templates name, and what they name in each of their zones, each once, in words.

    Images, image families, snapshots, networks, subnetworks; by zone machine types, disk types,
    accelerators and reservations; by region resource policies.
    """
    wanted: dict[str, Lookup] = {}
    zones: dict[str, list[str]] = {}
    for manager in configuration.managers:
        zones.setdefault(manager.template_base_name, []).append(manager.zone)
    for template in configuration.templates:
        wanted |= _sources(compute, template)
        wanted |= _network(compute, template)
        for zone in zones.get(template.base_name, ()):
            wanted |= _in_zone(compute, template, zone)
    return wanted


def _in_zone(
    compute: ComputeClient, template: TemplateConfig, zone: str
) -> Iterator[tuple[str, Lookup]]:
    project = template.project
    for name in (template.machine_type, *template.alternative_machine_types):
        ask = _asking(compute.get_machine_type, project, zone, name)
        yield f"machine type {name} in {zone} of {project}", Lookup(ask)
    disks = {template.disk_type, *(disk.disk_type for disk in template.additional_disks)} - {""}
    for name in sorted(disks | ({LOCAL_SSD} if template.local_ssds else set())):
        ask = _asking(compute.get_disk_type, project, zone, name)
        yield f"disk type {name} in {zone} of {project}", Lookup(ask, "compute.diskTypes.get")
    for name, _ in template.guest_accelerators:
        ask = _asking(compute.get_accelerator_type, project, zone, name)
        permission = "compute.acceleratorTypes.get"
        yield f"accelerator {name} in {zone} of {project}", Lookup(ask, permission)
    if name := template.reservation:
        ask = _asking(compute.get_reservation, project, zone, name)
        yield f"reservation {name} in {zone} of {project}", Lookup(ask, "compute.reservations.get")
    region = zone_region(zone)
    for name in template.resource_policies:
        ask = _asking(compute.get_resource_policy, project, region, name)
        permission = "compute.resourcePolicies.get"
        yield f"resource policy {name} in {region} of {project}", Lookup(ask, permission)


def _network(compute: ComputeClient, template: TemplateConfig) -> Iterator[tuple[str, Lookup]]:
    link = network_link(template.network_url) or NetworkLink(None, None, "default")
    project = link.project or template.project
    if link.region is None:
        ask = _asking(compute.get_network, project, link.name)
        yield f"network {link.name} of {project}", Lookup(ask, "compute.networks.get")
    else:
        ask = _asking(compute.get_subnetwork, project, link.region, link.name)
        what = f"subnetwork {link.name} in {link.region} of {project}"
        yield what, Lookup(ask, "compute.subnetworks.get")


def _sources(compute: ComputeClient, template: TemplateConfig) -> Iterator[tuple[str, Lookup]]:
    project = template.source_project
    snapshots = {(project, template.boot_snapshot), (template.project, template.second_snapshot)}
    for owner, name in snapshots:
        if name:
            yield f"snapshot {name} of {owner}", Lookup(_asking(compute.get_snapshot, owner, name))
    if template.image_family:
        ask = _asking(compute.get_image_from_family, project, template.image_family)
        yield f"image family {template.image_family} of {project}", Lookup(ask)
    elif not template.boot_snapshot:
        ask = _asking(compute.get_image, project, template.image_name)
        yield f"image {template.image_name} of {project}", Lookup(ask)


def _asking(
    ask: Callable[..., Awaitable[object]], *arguments: str
) -> Callable[[], Awaitable[object]]:
    return lambda: ask(*arguments)
