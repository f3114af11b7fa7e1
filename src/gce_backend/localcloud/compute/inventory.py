"""What always exists: zones, machine types, image families, and every image that is named.

`inventory.json` lists what Google offered in November 2026 and where that is documented. An image,
image family or snapshot exists in every project unless its name begins with `missing`.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from gce_backend.localcloud.cloud import Call
from gce_backend.localcloud.compute import links, listing
from gce_backend.localcloud.compute.error_replies import (
    constant_id,
    invalid_field,
    not_found,
    rfc3339,
)
from gce_backend.localcloud.compute.listing import Names

CREATED = rfc3339(1_500_000_000.0)
"""When everything that always exists was made."""
_ABSENT = "missing"
_IMAGE_VERSION = "v20261110"
_IMAGE_GB = "10"
_WINDOWS_IMAGE_GB = "50"


class _Inventory(msgspec.Struct, frozen=True):
    """What `inventory.json` holds.

    Attributes:
        sources: where this is documented, by Google or by users of its API.
        zones: the last letters of the zones, by region.
        memory_gb_by_cpus: GB of memory by virtual CPUs, by machine types' names with `*` for these.
        others: virtual CPUs and GB of memory of machine types whose names do not state their CPUs.
        shared_core: virtual CPUs and MiB of memory of machine types with a shared core.
        image_families: by project.
    """

    sources: list[str]
    zones: dict[str, str]
    memory_gb_by_cpus: dict[str, dict[int, float]]
    others: dict[str, tuple[int, float]]
    shared_core: dict[str, tuple[int, int]]
    image_families: dict[str, list[str]]


_DATA = msgspec.json.decode(
    resources.files(__package__).joinpath("inventory.json").read_bytes(), type=_Inventory
)

ZONES = {
    f"{region}-{letter}": region for region, letters in _DATA.zones.items() for letter in letters
}
"""Every zone, in order of name, with its region."""

REGIONS = tuple(_DATA.zones)
"""Every region, in order of name."""

_MB = 1024
_CUSTOM = re.compile(r"(?:(?:n1|n2|n2d|n4|n4a|n4d|e2|g2)-)?custom-(\d+)-(\d+)(?:-ext)?")
_MEMORY_STEP_MB = 256


class Size(NamedTuple):
    """The size of a machine type: virtual CPUs, memory in MiB, and whether its core is shared."""

    cpus: int
    memory_mb: int
    is_shared: bool = False


_SIZES = {
    **{name: Size(cpus, int(gb * _MB)) for name, (cpus, gb) in _DATA.others.items()},
    **{
        series.replace("*", str(cpus)): Size(cpus, int(gb * _MB))
        for series, memory in _DATA.memory_gb_by_cpus.items()
        for cpus, gb in memory.items()
    },
    **{name: Size(*size, is_shared=True) for name, size in _DATA.shared_core.items()},
}
"""The predefined machine types, by name."""


def machine_size(name: str) -> Size | None:
    """The size of a machine type; None when there is no such type."""
    custom = _CUSTOM.fullmatch(name)
    if custom is None:
        return _SIZES.get(name)
    cpus, memory = int(custom[1]), int(custom[2])
    possible = cpus == 1 or (cpus > 0 and cpus % 2 == 0)
    return Size(cpus, memory) if possible and memory and memory % _MEMORY_STEP_MB == 0 else None


_PREDEFINED_NAMES = Names(_SIZES)


def zone_of(call: Call) -> tuple[str, str]:
    """The project and the zone that a call names.

    Raises:
        ServiceError: 400 invalid, as Google answers: the zone is unknown.
    """
    project, zone = call.path["project"], call.path["zone"]
    if zone not in ZONES:
        raise invalid_field("zone", zone, f"Unknown zone in project '{project}'.")
    return project, zone


def check_source(link: str, collection: str, field: str, project: str) -> str:
    """The full link of an image or snapshot that a disk is made from.

    Args:
        link: as in the request.
        collection: `images` or `snapshots`.
        field: the field of the request that has the link.
        project: the project of a link that names none.

    Raises:
        ServiceError: 400 invalid, 404 notFound.
    """
    reference = links.parse(link, collection, field)
    path = links.global_path(reference.project or project, collection, reference.name)
    if is_absent(reference.name.removeprefix("family/")):
        raise not_found(path)
    return links.ROOT + path


def is_absent(name: str) -> bool:
    """Whether nothing has such a name."""
    return name.startswith(_ABSENT)


def get_zone(call: Call) -> dict[str, Any]:
    """zones.get."""
    project, zone = call.path["project"], call.path["zone"]
    if zone not in ZONES:
        raise not_found(f"projects/{project}/zones/{zone}")
    return _zone(project, zone)


def list_zones(call: Call) -> dict[str, Any]:
    """zones.list."""
    project = call.path["project"]
    found = listing.page(call, Names(ZONES).after, lambda zone: _zone(project, zone))
    return listing.resource_list("compute#zoneList", f"projects/{project}/zones", found)


def _zone(project: str, zone: str) -> dict[str, Any]:
    path = f"projects/{project}/zones/{zone}"
    return {
        "kind": "compute#zone",
        "id": constant_id(zone),
        "creationTimestamp": CREATED,
        "name": zone,
        "description": zone,
        "status": "UP",
        "region": f"{links.ROOT}projects/{project}/regions/{ZONES[zone]}",
        "selfLink": links.ROOT + path,
    }


def get_machine_type(call: Call) -> dict[str, Any]:
    """machineTypes.get."""
    (project, zone), name = zone_of(call), call.path["machineType"]
    found = _machine_type(project, zone, name)
    if found is None:
        raise not_found(links.zonal_path(project, zone, "machineTypes", name))
    return found


def list_machine_types(call: Call) -> dict[str, Any]:
    """machineTypes.list: the predefined ones."""
    project, zone = zone_of(call)
    return listing.zonal_list(
        "compute#machineTypeList",
        "machineTypes",
        call,
        _PREDEFINED_NAMES,
        lambda name: _machine_type(project, zone, name),
    )


def aggregated_machine_types(call: Call) -> dict[str, Any]:
    """machineTypes.aggregatedList: the predefined ones of every zone."""
    project = call.path["project"]

    def render(place: str) -> dict[str, Any] | None:
        scope, _, name = place.rpartition("/")
        return _machine_type(project, scope.removeprefix("zones/"), name)

    return listing.aggregated_list(
        "compute#machineTypeAggregatedList",
        "machineTypes",
        call,
        {f"zones/{zone}": _PREDEFINED_NAMES for zone in ZONES},
        render,
    )


def _machine_type(project: str, zone: str, name: str) -> dict[str, Any] | None:
    path = links.zonal_path(project, zone, "machineTypes", name)
    size = machine_size(name)
    if size is None:
        return None
    return {
        "kind": "compute#machineType",
        "id": constant_id(f"{zone}/{name}"),
        "creationTimestamp": CREATED,
        "name": name,
        "description": f"{size.cpus} vCPUs, {size.memory_mb / _MB:g} GB RAM",
        "guestCpus": size.cpus,
        "memoryMb": size.memory_mb,
        "imageSpaceGb": 0,
        "maximumPersistentDisks": 128,
        "maximumPersistentDisksSizeGb": "263168",
        "isSharedCpu": size.is_shared,
        "zone": zone,
        "selfLink": links.ROOT + path,
    }


def get_image(call: Call) -> dict[str, Any]:
    """images.get."""
    return image(call.path["project"], call.path["image"])


def image(project: str, reference: str) -> dict[str, Any]:
    """An image.

    Args:
        reference: its name, or `family/F` for the newest one of a family.

    Raises:
        ServiceError: 404 notFound.
    """
    family = reference.removeprefix("family/") if reference.startswith("family/") else None
    name = reference if family is None else f"{family[:53]}-{_IMAGE_VERSION}"
    path = links.global_path(project, "images", name)
    if is_absent(name):
        raise not_found(
            path if family is None else f"projects/{project}/global/images/family/{family}"
        )
    body = {
        "kind": "compute#image",
        "id": constant_id(path),
        "creationTimestamp": CREATED,
        "name": name,
        "status": "READY",
        "sourceType": "RAW",
        "architecture": "ARM64" if "arm64" in name else "X86_64",
        "diskSizeGb": _WINDOWS_IMAGE_GB if project == "windows-cloud" else _IMAGE_GB,
        "archiveSizeBytes": "1073741824",
        "selfLink": links.ROOT + path,
    }
    return body if family is None else body | {"family": family}


def image_families(project: str) -> list[str]:
    """The image families that Google offers in one of its own projects."""
    return _DATA.image_families.get(project, [])


def get_snapshot(call: Call) -> dict[str, Any]:
    """snapshots.get."""
    project, name = call.path["project"], call.path["snapshot"]
    path = links.global_path(project, "snapshots", name)
    if is_absent(name):
        raise not_found(path)
    return {
        "kind": "compute#snapshot",
        "id": constant_id(path),
        "creationTimestamp": CREATED,
        "name": name,
        "status": "READY",
        "diskSizeGb": "10",
        "storageBytes": "1073741824",
        "storageBytesStatus": "UP_TO_DATE",
        "selfLink": links.ROOT + path,
    }
