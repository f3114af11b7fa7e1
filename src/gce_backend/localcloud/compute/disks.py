"""Disks: those of VMs, and those that outlived their VMs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links
from gce_backend.localcloud.compute.error_replies import fingerprint, in_use, not_found, rfc3339
from gce_backend.localcloud.compute.listing import Names, Render
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import DiskRow, Failure, OperationRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.vm_disks import disks_of
from gce_backend.localcloud.compute.vm_properties import Blueprints
from gce_backend.localcloud.compute.zonal_lists import ZonalLists


class Disks:
    """The disks resource. A fleet's disks are created and usually deleted with its VMs."""

    def __init__(
        self,
        cloud: Cloud,
        store: ComputeStore,
        operations: Operations,
        machines: Machines,
        blueprints: Blueprints,
    ) -> None:
        self.lists = ZonalLists(cloud, "disk", self._of)
        self._store = store
        self._operations = operations
        self._machines = machines
        self._blueprints = blueprints
        operations.effects["compute.disks.delete"] = self._deleted

    def delete(self, call: Call) -> OperationRow:
        """The delete method: refused while a VM uses the disk."""
        disk = self.get(call)
        path = disk["selfLink"].removeprefix(links.ROOT)
        for user in disk.get("users", ()):
            raise in_use(path, user.removeprefix(links.ROOT))
        return self._operations.start(call, "delete", path, disk["id"])

    def _deleted(self, operation: OperationRow) -> Failure | None:
        disk = self._store.disks.get(operation.target_key)
        if disk is not None and disk.id == operation.target_id:
            self._machines.drop_disk(disk)
        return None

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        (project, zone), name = inventory.zone_of(call), call.path["disk"]
        found = self._found(project).get(f"{project}/{zone}/{name}")
        if found is None:
            raise not_found(links.zonal_path(project, zone, "disks", name))
        return found

    def _of(self, project: str) -> tuple[Mapping[str, Names], Render]:
        """The names of a project's disks by zone, and the disks."""
        disks = self._found(project)
        names: defaultdict[str, Names] = defaultdict(Names)
        for key in disks:
            scope, _, name = key.rpartition("/")
            names[scope].add(name)
        return names, disks.get

    def _found(self, project: str) -> dict[str, dict[str, Any]]:
        """A project's disks, by their keys."""
        found = {
            disk.key: _body(disk) for disk in self._store.disks.values() if disk.project == project
        }
        for vm in self._store.vms.values():
            if vm.project == project and vm.status:
                for disk, properties in disks_of(vm, self._blueprints.properties(vm)):
                    use = {
                        "lastAttachTimestamp": rfc3339(vm.created),
                        "users": [links.ROOT + vm.path],
                        **_sources(properties.get("initializeParams", {})),
                    }
                    found[disk.key] = _body(disk) | use
        return found


def _sources(made_from: dict[str, Any]) -> dict[str, str]:
    """The source of a disk; for an image family, its newest image."""
    if "sourceImage" in made_from:
        named = links.parse(made_from["sourceImage"], "images", "sourceImage")
        image = inventory.image(str(named.project), named.name)
        return {"sourceImage": image["selfLink"], "sourceImageId": image["id"]}
    return {key: made_from[key] for key in ("sourceSnapshot",) if key in made_from}


def _body(disk: DiskRow) -> dict[str, Any]:
    labels = {"labels": disk.labels} if disk.labels else {}
    kind = links.zonal_path(disk.project, disk.zone, "diskTypes", disk.kind)
    return {
        "kind": "compute#disk",
        "id": disk.id,
        "creationTimestamp": rfc3339(disk.created),
        "name": disk.name,
        "sizeGb": disk.size_gb,
        "zone": links.zone_link(disk.project, disk.zone),
        "status": "READY",
        "type": links.ROOT + kind,
        "physicalBlockSizeBytes": "4096",
        "labelFingerprint": fingerprint(disk.labels),
        "selfLink": links.ROOT + disk.path,
        **labels,
    }
