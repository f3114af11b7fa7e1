"""VMs: their methods and how they look."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from gce_backend.localcloud.cloud import Call, Cloud, CloudControl
from gce_backend.localcloud.compute import inventory, links
from gce_backend.localcloud.compute.error_replies import (
    fingerprint,
    not_found,
    not_ready,
    rfc3339,
    stale_fingerprint,
)
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import Failure, OperationRow, VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.templates import check_metadata, metadata_body
from gce_backend.localcloud.compute.vm_disks import disks_of
from gce_backend.localcloud.compute.vm_properties import Blueprints
from gce_backend.localcloud.compute.zonal_lists import ZonalLists

_ECHOED = (
    *("canIpForward", "description", "guestAccelerators", "minCpuPlatform"),
    *("serviceAccounts", "shieldedInstanceConfig"),
)
_STOPPED = frozenset({"STOPPING", "TERMINATED"})
_SCHEDULING = {"onHostMaintenance": "MIGRATE", "automaticRestart": True, "preemptible": False}


class Instances:
    """instances.

    Attributes:
        lists: its lists.
    """

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
        self.lists = ZonalLists(cloud, "instance", store.vm_names, self._visible)
        self._operations = operations
        self._machines = machines
        self._blueprints = blueprints
        operations.effects["compute.instances.setMetadata"] = self._metadata_set
        operations.effects["compute.instances.delete"] = self._deleted
        path = "/_localcloud/vms/{instance}/{event:power-off|preempt|host-error}"
        cloud.add_controls(CloudControl("POST", path, self._strike))

    # Mutations

    def set_metadata(self, call: Call) -> OperationRow:
        """The setMetadata method: replaces all items when the operation is done."""
        vm = self._row(call)
        items = call.body.get("items", [])
        check_metadata(items, "metadata")
        if call.body.get("fingerprint") != fingerprint(self._blueprints.metadata(vm)):
            raise stale_fingerprint()
        if vm.status == "STOPPING":
            raise not_ready(vm.path)
        payload = {"fingerprint": call.body["fingerprint"], "items": items}
        return self._operations.start(call, "setMetadata", vm.path, vm.id, payload=payload)

    def _metadata_set(self, operation: OperationRow) -> Failure | None:
        vm = self._store.vm(operation.target_key)
        payload = operation.payload or {}
        if vm is None or vm.id != operation.target_id or not vm.status:
            message = f"The resource '{operation.target}' was not found"
            return Failure("RESOURCE_NOT_FOUND", message, status=404)
        if payload["fingerprint"] != fingerprint(self._blueprints.metadata(vm)):
            message = "Supplied fingerprint does not match current metadata fingerprint."
            return Failure("CONDITION_NOT_MET", message, status=412)
        self._store.put_vm(msgspec.structs.replace(vm, metadata=payload["items"]))
        return None

    def delete(self, call: Call) -> OperationRow:
        """The delete method: somebody deletes a VM behind its group's back."""
        vm = self._row(call)
        operation = self._operations.start(
            call, "delete", vm.path, vm.id, seconds=self._cloud.options.delete_seconds
        )
        if operation.failure is None and vm.action != "DELETING":
            self._machines.doom(vm)
        return operation

    def stop(self, call: Call) -> OperationRow:
        """The stop method: STOPPING, then TERMINATED; one that is stopped stays so."""
        vm = self._row(call)
        if vm.status not in {"RUNNING", "SUSPENDED", *_STOPPED}:
            raise not_ready(vm.path)
        seconds = self._cloud.options.delete_seconds
        operation = self._operations.start(call, "stop", vm.path, vm.id, seconds=seconds)
        if operation.failure is None and vm.status not in _STOPPED:
            self._machines.stop(vm, seconds, operation.inserted)
        return operation

    def start(self, call: Call) -> OperationRow:
        """The start method: a stopped VM boots; one that runs goes on."""
        vm = self._row(call)
        if vm.status not in {"RUNNING", "TERMINATED"}:
            raise not_ready(vm.path)
        operation = self._operations.start(call, "start", vm.path, vm.id)
        if operation.failure is None and vm.status == "TERMINATED":
            self._machines.start(vm, operation.inserted)
        return operation

    def suspend(self, call: Call) -> OperationRow:
        """The suspend method: SUSPENDING, then SUSPENDED; only of a VM that runs."""
        vm = self._row(call)
        if vm.status != "RUNNING":
            raise not_ready(vm.path)
        operation = self._operations.start(call, "suspend", vm.path, vm.id)
        if operation.failure is None:
            self._machines.suspend(vm, operation.inserted)
        return operation

    def resume(self, call: Call) -> OperationRow:
        """The resume method: only of a VM that is suspended."""
        vm = self._row(call)
        if vm.status != "SUSPENDED":
            raise not_ready(vm.path)
        operation = self._operations.start(call, "resume", vm.path, vm.id)
        if operation.failure is None:
            self._machines.start(vm, operation.inserted)
        return operation

    # What happens to a VM by itself, as people and tests ask for it

    async def _strike(self, request: web.Request) -> web.Response:
        event, name = request.match_info["event"], request.match_info["instance"]
        project = request.query.get("project", self._cloud.options.project)
        now = self._cloud.clock.now()
        found = [
            vm
            for vm in self._store.vms()
            if (vm.project, vm.name, vm.status) == (project, name, "RUNNING")
        ]
        if not found:
            message = f"no VM {name} runs in project {project}"
            return web.json_response({"error": message}, status=404)
        for vm in found:
            if event == "preempt":
                self._machines.preempt(vm, now)
            elif event == "host-error":
                self._machines.break_host(vm, now)
            else:
                self._machines.stop(vm, 0.0, now)
        self._cloud.tables.commit()
        return web.json_response({})

    def _deleted(self, operation: OperationRow) -> Failure | None:
        vm = self._store.vm(operation.target_key)
        if vm is not None and vm.id == operation.target_id and vm.status:
            self._machines.lose(vm, operation.due)
        return None

    def _row(self, call: Call) -> VmRow:
        project, zone, name = (call.path[part] for part in ("project", "zone", "instance"))
        inventory.check_zone(project, zone)
        vm = self._store.vm(f"{project}/{zone}/{name}")
        if vm is None or not vm.status:
            raise not_found(links.zonal_path(project, zone, "instances", name))
        return vm

    # Reads

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return self._body(self._row(call))

    def _visible(self, key: str) -> dict[str, Any] | None:
        vm = self._store.vm(key)
        return None if vm is None else self._body(vm)

    def _body(self, vm: VmRow) -> dict[str, Any]:
        properties = self._blueprints.properties(vm)
        machine_type = links.parse(properties["machineType"], "machineTypes", "machineType").name
        machine_path = links.zonal_path(vm.project, vm.zone, "machineTypes", machine_type)
        labels = self._blueprints.labels(vm)
        tags = properties.get("tags", {}).get("items", [])
        created = rfc3339(vm.created)
        body = {
            "kind": "compute#instance",
            "id": vm.id,
            "creationTimestamp": created,
            "lastStartTimestamp": created,
            "name": vm.name,
            "zone": links.zone_link(vm.project, vm.zone),
            "machineType": links.ROOT + machine_path,
            "cpuPlatform": "Intel Cascade Lake",
            "status": vm.status,
            "disks": _disks(vm, properties),
            "networkInterfaces": _interfaces(vm, properties["networkInterfaces"]),
            "metadata": metadata_body(self._blueprints.metadata(vm)),
            "labelFingerprint": fingerprint(labels),
            "tags": {"fingerprint": fingerprint(tags)} | ({"items": tags} if tags else {}),
            "scheduling": _SCHEDULING | properties.get("scheduling", {}),
            "deletionProtection": False,
            "startRestricted": False,
            "fingerprint": fingerprint([vm.id, vm.status]),
            "selfLink": links.ROOT + vm.path,
        }
        body |= {key: properties[key] for key in _ECHOED if key in properties}
        return body | {"labels": labels} if labels else body


def _disks(vm: VmRow, properties: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "kind": "compute#attachedDisk",
            "index": index,
            "type": disk["type"],
            "mode": disk["mode"],
            "interface": disk.get("interface", "SCSI"),
            "deviceName": disk.get("deviceName", f"persistent-disk-{index}"),
            "boot": bool(disk.get("boot")),
            "autoDelete": bool(disk.get("autoDelete")),
            "diskSizeGb": row.size_gb,
            "source": links.ROOT + row.path,
        }
        for index, (row, disk) in enumerate(disks_of(vm, properties))
    ]


def _interfaces(vm: VmRow, interfaces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    high, middle, low = vm.serial >> 16 & 0x3F, vm.serial >> 8 & 0xFF, vm.serial & 0xFF
    return [
        {
            **interface,
            "networkIP": f"10.{128 + high}.{middle}.{low}",
            "fingerprint": fingerprint([vm.id, interface["name"]]),
            **(
                {
                    "accessConfigs": [
                        {"natIP": f"203.{high}.{middle}.{low}", **config}
                        for config in interface["accessConfigs"]
                    ]
                }
                if interface.get("accessConfigs")
                else {}
            ),
        }
        for interface in interfaces
    ]
