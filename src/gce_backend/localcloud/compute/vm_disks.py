"""The disks of a VM, as its template's properties describe them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gce_backend.localcloud.compute import links
from gce_backend.localcloud.compute.error_replies import constant_id
from gce_backend.localcloud.compute.rows import DiskRow, VmRow

STANDARD = "pd-standard"
_DEFAULT_SIZE_GB = "10"


class VmDisk(NamedTuple):
    """A disk of a VM: the resource, and its part of the VM's properties."""

    row: DiskRow
    properties: dict[str, Any]


def disks_of(vm: VmRow, properties: Mapping[str, Any]) -> Iterator[VmDisk]:
    """The disks of a VM; the boot disk has the VM's name. Local SSDs are no resources."""
    for index, disk in enumerate(properties["disks"]):
        if disk.get("type") == "SCRATCH":
            continue
        name = vm.name if index == 0 else f"{vm.name}-{index}"
        row = DiskRow(
            project=vm.project,
            zone=vm.zone,
            name=name,
            size_gb=size_gb(disk),
            kind=kind(disk),
            created=vm.created,
            id=constant_id(f"{vm.id}/{name}"),
            labels=disk.get("initializeParams", {}).get("labels", {}),
        )
        yield VmDisk(row, disk)


def kind(disk: Mapping[str, Any]) -> str:
    """The type of a disk, e.g. `pd-ssd`."""
    asked = disk.get("initializeParams", {}).get("diskType", STANDARD)
    return links.parse(asked, "diskTypes", "diskType").name


def size_gb(disk: Mapping[str, Any]) -> str:
    """The size of a disk in GB, as an int64 in JSON."""
    asked = disk.get("initializeParams", {}).get("diskSizeGb") or disk.get("diskSizeGb")
    return str(asked or _DEFAULT_SIZE_GB)
