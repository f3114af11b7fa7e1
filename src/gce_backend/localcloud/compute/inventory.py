"""What always exists: zones, machine types by rule, and any image or snapshot that is named.

An image, image family or snapshot exists in every project unless its name begins with `missing`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

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

_ZONES_OF_REGIONS = {
    "asia-east1": "abc",
    "asia-northeast1": "abc",
    "europe-north1": "abc",
    "europe-west1": "bcd",
    "europe-west4": "abc",
    "us-central1": "abcf",
    "us-east1": "bcd",
    "us-east4": "abc",
    "us-south1": "abc",
    "us-west1": "abc",
    "us-west2": "abc",
}
ZONES = {
    f"{region}-{letter}": region
    for region, letters in _ZONES_OF_REGIONS.items()
    for letter in letters
}
"""Every zone, in order of name, with its region."""

REGIONS = tuple(_ZONES_OF_REGIONS)
"""Every region, in order of name."""

_MB = 1024
_TO_32 = (2, 4, 8, 16, 32)
_TO_128 = (*_TO_32, 48, 64, 80, 96, 128)
_C3 = (4, 8, 22, 44, 88, 176)
_MB_PER_CPU: dict[str, dict[str, float]] = {
    "n1": {"standard": 3.75 * _MB, "highmem": 6.5 * _MB, "highcpu": 0.9 * _MB},
    "c3": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "c4": {"standard": 3.75 * _MB, "highmem": 7.75 * _MB, "highcpu": 2 * _MB},
    "n4": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "c2": {"standard": 4 * _MB},
    "c2d": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "t2d": {"standard": 4 * _MB},
    "t2a": {"standard": 4 * _MB},
    "c3d": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "c4a": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "n4a": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "n4d": {"standard": 4 * _MB, "highmem": 8 * _MB, "highcpu": 2 * _MB},
    "g2": {"standard": 4 * _MB},
    "g4": {"standard": 3.75 * _MB},
    "h3": {"standard": 4 * _MB},
    "z3": {"highmem": 8 * _MB},
}
_USUAL_MB_PER_CPU: dict[str, float] = {
    "standard": 4 * _MB,
    "highmem": 8 * _MB,
    "highcpu": 1 * _MB,
}
_CPUS = {
    "n1": (1, 2, 4, 8, 16, 32, 64, 96),
    "n2": _TO_128,
    "n2d": (*_TO_128, 224),
    "e2": _TO_32,
    "c2": (4, 8, 16, 30, 60),
    "c2d": (2, 4, 8, 16, 32, 56, 112),
    "c3": _C3,
    "c4": (2, 4, 8, 16, 24, 32, 48, 96, 144, 192, 288),
    "n4": (*_TO_32, 48, 64, 80),
    "t2d": (1, 2, 4, 8, 16, 32, 48, 60),
    "t2a": (1, 2, 4, 8, 16, 32, 48),
    "c3d": (4, 8, 16, 30, 60, 90, 180, 360),
    "c4a": (1, 2, 4, 8, 16, 32, 48, 64, 72),
    "n4a": (1, 2, 4, 8, 16, 32, 48, 64),
    "n4d": (*_TO_32, 48, 64, 80, 96),
    "g2": (4, 8, 12, 16, 24, 32, 48, 96),
    "g4": (48, 96, 192, 384),
    "h3": (88,),
    "z3": (88, 176),
}
_GB_OF_OTHERS: dict[str, dict[int, int]] = {
    "m1-ultramem": {40: 961, 80: 1922, 160: 3844},
    "m2-ultramem": {208: 5888, 416: 11776},
    "m2-megamem": {416: 5888},
    "m3-ultramem": {32: 976, 64: 1952, 128: 3904},
    "m3-megamem": {64: 976, 128: 1952},
}
"""GB by virtual CPUs, where memory does not follow from them."""
_ACCELERATED = {
    **{f"a2-highgpu-{n}g": (12 * n, 85 * n * _MB) for n in (1, 2, 4, 8)},
    **{f"a2-ultragpu-{n}g": (12 * n, 170 * n * _MB) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": (26 * n, 234 * n * _MB) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": (96, 1360 * _MB),
    "a3-megagpu-8g": (208, 1872 * _MB),
    "a3-ultragpu-8g": (224, 2952 * _MB),
    "a4-highgpu-8g": (224, 3968 * _MB),
}
_FIXED = _ACCELERATED | {
    f"{name}-{cpus}": (cpus, gb * _MB)
    for name, sizes in _GB_OF_OTHERS.items()
    for cpus, gb in sizes.items()
}
_SHARED_CORE = {
    "e2-micro": (2, 1024),
    "e2-small": (2, 2048),
    "e2-medium": (2, 4096),
    "f1-micro": (1, 614),
    "g1-small": (1, 1740),
}
_PREDEFINED = re.compile(r"([a-z]\d[a-z]?)-(standard|highmem|highcpu)-(\d+)")
_CUSTOM = re.compile(r"(?:(?:n1|n2|n2d|n4|e2)-)?custom-(\d+)-(\d+)(?:-ext)?")
_MEMORY_STEP_MB = 256


class Size(NamedTuple):
    """What a machine type has: virtual CPUs, memory in MiB, and whether its core is shared."""

    cpus: int
    memory_mb: int
    is_shared: bool = False


def machine_size(name: str) -> Size | None:
    """The size of a machine type; None when there is no such type."""
    if name in _SHARED_CORE:
        return Size(*_SHARED_CORE[name], is_shared=True)
    if name in _FIXED:
        return Size(*_FIXED[name])
    custom = _CUSTOM.fullmatch(name)
    if custom is not None:
        cpus, memory = int(custom[1]), int(custom[2])
        possible = cpus == 1 or (cpus > 0 and cpus % 2 == 0)
        return Size(cpus, memory) if possible and memory and memory % _MEMORY_STEP_MB == 0 else None
    found = _PREDEFINED.fullmatch(name)
    if found is None or int(found[3]) not in _CPUS.get(found[1], ()):
        return None
    per_cpu = _MB_PER_CPU.get(found[1], _USUAL_MB_PER_CPU).get(found[2])
    cpus = int(found[3])
    return Size(cpus, int(cpus * per_cpu)) if per_cpu else None


def _predefined_names() -> Names:
    """The names of all machine types but the custom ones."""
    names = Names()
    for name in _SHARED_CORE:
        names.add(name)
    for name in _FIXED:
        names.add(name)
    for family, sizes in _CPUS.items():
        for kind in _MB_PER_CPU.get(family, _USUAL_MB_PER_CPU):
            for cpus in sizes:
                names.add(f"{family}-{kind}-{cpus}")
    return names


_PREDEFINED_NAMES = _predefined_names()


def check_zone(project: str, zone: str) -> None:
    """Refuses an unknown zone.

    Raises:
        ServiceError: 400 invalid, as Google answers.
    """
    if zone not in ZONES:
        raise invalid_field("zone", zone, f"Unknown zone in project '{project}'.")


def check_source(link: str, collection: str, field: str, project: str) -> str:
    """The full link of an image or snapshot that a disk is made from.

    Args:
        link: as in the request.
        collection: `images` or `snapshots`.
        field: where it stood.
        project: whose it is when the link does not say.

    Raises:
        ServiceError: 400 invalid, 404 notFound.
    """
    reference = links.parse(link, collection, field)
    path = links.global_path(reference.project or project, collection, reference.name)
    if reference.name.removeprefix("family/").startswith(_ABSENT):
        raise not_found(path)
    return links.ROOT + path


def get_zone(call: Call) -> dict[str, Any]:
    """zones.get."""
    project, zone = call.path["project"], call.path["zone"]
    if zone not in ZONES:
        raise not_found(f"projects/{project}/zones/{zone}")
    return _zone(project, zone)


def list_zones(call: Call) -> dict[str, Any]:
    """zones.list."""
    project = call.path["project"]
    names = Names()
    for zone in ZONES:
        names.add(zone)
    found = listing.page(call, names.after, lambda zone: _zone(project, zone))
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
    project, zone, name = (call.path[part] for part in ("project", "zone", "machineType"))
    check_zone(project, zone)
    found = _machine_type(project, zone, name)
    if found is None:
        raise not_found(links.zonal_path(project, zone, "machineTypes", name))
    return found


def list_machine_types(call: Call) -> dict[str, Any]:
    """machineTypes.list: the predefined ones."""
    project, zone = call.path["project"], call.path["zone"]
    check_zone(project, zone)
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


def get_image_from_family(call: Call) -> dict[str, Any]:
    """images.getFromFamily: the family's newest image."""
    return image(call.path["project"], f"family/{call.path['family']}")


def image(project: str, reference: str) -> dict[str, Any]:
    """An image.

    Args:
        project: whose it is.
        reference: its name, or `family/F` for the newest one of a family.

    Raises:
        ServiceError: 404 notFound.
    """
    family = reference.removeprefix("family/") if reference.startswith("family/") else None
    name = reference if family is None else f"{family[:53]}-v20240101"
    path = links.global_path(project, "images", name)
    if name.startswith(_ABSENT):
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
        "architecture": "X86_64",
        "diskSizeGb": "10",
        "archiveSizeBytes": "1073741824",
        "selfLink": links.ROOT + path,
    }
    return body if family is None else body | {"family": family}


def get_snapshot(call: Call) -> dict[str, Any]:
    """snapshots.get."""
    project, name = call.path["project"], call.path["snapshot"]
    path = links.global_path(project, "snapshots", name)
    if name.startswith(_ABSENT):
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
