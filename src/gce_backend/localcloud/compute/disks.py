"""Disks: those of VMs, and those that outlived their VMs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import fingerprint, in_use, not_found, rfc3339
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import DiskRow, Failure, OperationRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.vm_disks import disks_of
from gce_backend.localcloud.compute.vm_properties import Blueprints


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
        self._cloud = cloud
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
        disk = self._store.disk(operation.target_key)
        if disk is not None and disk.id == operation.target_id:
            self._machines.drop_disk(disk)
        return None

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        project, zone, name = (call.path[part] for part in ("project", "zone", "disk"))
        inventory.check_zone(project, zone)
        found = self._of(project).get(f"zones/{zone}/{name}")
        if found is None:
            raise not_found(links.zonal_path(project, zone, "disks", name))
        return found

    def list_page(self, call: Call) -> dict[str, Any]:
        """The list method."""
        project, zone = call.path["project"], call.path["zone"]
        inventory.check_zone(project, zone)
        disks = self._of(project)
        return listing.zonal_list(
            "compute#diskList",
            "disks",
            call,
            _names_by_scope(disks)[f"zones/{zone}"],
            lambda name: disks[f"zones/{zone}/{name}"],
        )

    def aggregated_list(self, call: Call) -> dict[str, Any]:
        """The aggregatedList method."""
        disks = self._of(call.path["project"])
        names = _names_by_scope(disks)
        return listing.aggregated_list(
            "compute#diskAggregatedList",
            "disks",
            call,
            {f"zones/{zone}": names[f"zones/{zone}"] for zone in inventory.ZONES},
            disks.__getitem__,
            [f"zones/{zone}" for zone in self._cloud.faults.outages(inventory.ZONES)],
        )

    def _of(self, project: str) -> dict[str, dict[str, Any]]:
        """A project's disks, by `zones/zone/name`."""
        found = {
            f"zones/{disk.zone}/{disk.name}": _body(disk)
            for disk in self._store.disks()
            if disk.project == project
        }
        for vm in self._store.vms():
            if vm.project == project and vm.status:
                for disk, properties in disks_of(vm, self._blueprints.properties(vm)):
                    use = {
                        "lastAttachTimestamp": rfc3339(vm.created),
                        "users": [links.ROOT + vm.path],
                        **_sources(properties.get("initializeParams", {})),
                    }
                    found[f"zones/{disk.zone}/{disk.name}"] = _body(disk) | use
        return found


def _names_by_scope(places: dict[str, dict[str, Any]]) -> defaultdict[str, Names]:
    names: defaultdict[str, Names] = defaultdict(Names)
    for place in places:
        scope, _, name = place.rpartition("/")
        names[scope].add(name)
    return names


def _sources(made_from: dict[str, Any]) -> dict[str, str]:
    """The source of a disk; for an image family, its newest image."""
    if "sourceImage" in made_from:
        named = links.parse(made_from["sourceImage"], "images", "sourceImage")
        image = inventory.image(str(named.project), named.name)
        return {"sourceImage": image["selfLink"], "sourceImageId": image["id"]}
    return {key: made_from[key] for key in ("sourceSnapshot",) if key in made_from}


def _body(disk: DiskRow) -> dict[str, Any]:
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
        "labelFingerprint": fingerprint({}),
        "selfLink": links.ROOT + disk.path,
    }
