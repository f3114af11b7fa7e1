"""VMs: their methods."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links
from gce_backend.localcloud.compute.error_replies import (
    already_exists,
    fingerprint,
    invalid_field,
    not_found,
    not_ready,
    required,
    stale_fingerprint,
)
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import HALTED, Failure, OperationRow, VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.templates import (
    check_labels,
    check_metadata,
    checked_properties,
)
from gce_backend.localcloud.compute.vm_properties import Blueprints
from gce_backend.localcloud.compute.vm_views import vm_body
from gce_backend.localcloud.compute.zonal_lists import ZonalLists

_AWAKE = frozenset({"PROVISIONING", "STAGING", "RUNNING", "REPAIRING"})
_OWN = frozenset({"name", "id", "kind", "zone", "selfLink", "status", "creationTimestamp"})
"""Members of a VM that do not come from its template's properties."""

_STALE = Failure(
    "CONDITION_NOT_MET", "Supplied fingerprint does not match current fingerprint.", 412
)

changed = msgspec.structs.replace


class Instances:
    """instances."""

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
        self.lists = ZonalLists(cloud, "instance", lambda _: (store.vm_names, self._visible))
        self._operations = operations
        self._machines = machines
        self._blueprints = blueprints
        for method, new in (
            ("setMetadata", self._metadata_set),
            ("setLabels", self._labels_set),
            ("setMachineType", self._machine_type_set),
        ):
            operations.effects[f"compute.instances.{method}"] = partial(self._change, new)
        operations.effects["compute.instances.delete"] = self._deleted

    # Mutations

    def insert(self, call: Call) -> OperationRow:
        """The insert method: a VM of no group, which is running when the operation is done."""
        project, zone = inventory.zone_of(call)
        name = links.check_name(call.body.get("name"), "resource.name")
        asked = self._template_properties(call) | {
            key: value for key, value in call.body.items() if key not in _OWN
        }
        properties = checked_properties(asked, project, "resource")
        vm = VmRow(
            project=project,
            zone=zone,
            name=name,
            group="",
            properties=properties,
            metadata=properties["metadata"].get("items", []),
        )
        if self._store.vms.get(vm.key) is not None:
            raise already_exists(vm.path)
        operation = self._operations.start(
            call,
            "insert",
            vm.path,
            "",
            seconds=self._cloud.options.boot_seconds,
            failure=self._machines.obstacle(vm),
        )
        if operation.failure is None:
            self._machines.insert(vm, self._cloud.clock.now())
        return operation

    def _template_properties(self, call: Call) -> dict[str, Any]:
        """The properties of the template that `sourceInstanceTemplate` names."""
        link = call.query.get("sourceInstanceTemplate")
        if link is None:
            return {}
        reference = links.parse(link, "instanceTemplates", "sourceInstanceTemplate")
        owner = reference.project or call.path["project"]
        template = self._store.templates.get(f"{owner}/{reference.name}")
        if template is None or template.phase != "READY":
            raise not_found(links.global_path(owner, "instanceTemplates", reference.name))
        return template.properties

    def start(self, call: Call) -> OperationRow:
        """The start method: starts a stopped VM; does nothing to a running one."""
        return self._wake(call, "start", "TERMINATED")

    def resume(self, call: Call) -> OperationRow:
        """The resume method: starts a suspended VM; does nothing to a running one."""
        return self._wake(call, "resume", "SUSPENDED")

    def _wake(self, call: Call, kind: str, rests: str) -> OperationRow:
        vm = self._row(call)
        if vm.status not in {rests, *_AWAKE}:
            raise not_ready(vm.path)
        if vm.status != rests:
            return self._operations.start(call, kind, vm.path, vm.id)
        seconds, failure = self._cloud.options.boot_seconds, self._machines.obstacle(vm)
        operation = self._operations.start(
            call, kind, vm.path, vm.id, seconds=seconds, failure=failure
        )
        if operation.failure is None:
            self._machines.start(vm, self._cloud.clock.now())
        return operation

    def stop(self, call: Call) -> OperationRow:
        """The stop method: the VM keeps its disks; does nothing to a stopped one."""
        return self._halt(call, "stop", _AWAKE, "TERMINATED", self._machines.stop)

    def suspend(self, call: Call) -> OperationRow:
        """The suspend method: suspends a running VM; does nothing to a suspended one."""
        return self._halt(call, "suspend", {"RUNNING"}, "SUSPENDED", self._machines.suspend)

    def _halt(
        self,
        call: Call,
        kind: str,
        awake: Collection[str],
        rests: str,
        halt: Callable[[VmRow, float], None],
    ) -> OperationRow:
        vm = self._row(call)
        if vm.status not in {rests, *awake} or vm.is_leaving:
            raise not_ready(vm.path)
        seconds = self._cloud.options.delete_seconds if vm.status in awake else 0.0
        operation = self._operations.start(call, kind, vm.path, vm.id, seconds=seconds)
        if operation.failure is None and vm.status in awake:
            halt(vm, self._cloud.clock.now())
        return operation

    def set_machine_type(self, call: Call) -> OperationRow:
        """The setMachineType method: of a stopped VM."""
        vm = self._row(call)
        asked = call.body.get("machineType", "")
        name = links.parse(asked, "machineTypes", "machineType").name if asked else ""
        if inventory.machine_size(name) is None:
            raise invalid_field("machineType", asked, "Unknown machine type.")
        if vm.status != "TERMINATED":
            raise not_ready(vm.path)
        payload = {"machineType": name}
        return self._operations.start(call, "setMachineType", vm.path, vm.id, payload=payload)

    def _machine_type_set(self, vm: VmRow, payload: dict[str, Any]) -> VmRow | Failure:
        if vm.status not in HALTED:
            message = f"The resource '{vm.path}' is not ready"
            return Failure("RESOURCE_NOT_READY", message, status=400)
        return changed(vm, properties=self._blueprints.properties(vm) | payload)

    def set_labels(self, call: Call) -> OperationRow:
        """The setLabels method: replaces all labels when the operation is done."""
        vm = self._row(call)
        labels = call.body.get("labels", {})
        check_labels(labels, "labels")
        if "labelFingerprint" not in call.body:
            raise required("labelFingerprint")
        if call.body["labelFingerprint"] != fingerprint(self._blueprints.labels(vm)):
            raise stale_fingerprint()
        payload = {"fingerprint": call.body["labelFingerprint"], "labels": labels}
        return self._operations.start(call, "setLabels", vm.path, vm.id, payload=payload)

    def _labels_set(self, vm: VmRow, payload: dict[str, Any]) -> VmRow | Failure:
        if payload["fingerprint"] != fingerprint(self._blueprints.labels(vm)):
            return _STALE
        return changed(vm, labels=payload["labels"])

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

    def _metadata_set(self, vm: VmRow, payload: dict[str, Any]) -> VmRow | Failure:
        if payload["fingerprint"] != fingerprint(self._blueprints.metadata(vm)):
            return _STALE
        return changed(vm, metadata=payload["items"])

    def _change(
        self, new: Callable[[VmRow, dict[str, Any]], VmRow | Failure], operation: OperationRow
    ) -> Failure | None:
        """Stores the VM as an operation changes it, unless it is gone or cannot be changed."""
        vm = self._store.vms.get(operation.target_key)
        if vm is None or vm.id != operation.target_id or not vm.status:
            message = f"The resource '{operation.target}' was not found"
            return Failure("RESOURCE_NOT_FOUND", message, 404)
        found = new(vm, operation.payload or {})
        if isinstance(found, Failure):
            return found
        self._machines.keep(found)
        return None

    def delete(self, call: Call) -> OperationRow:
        """The delete method: deletes a VM without its group."""
        vm = self._row(call)
        operation = self._operations.start(
            call, "delete", vm.path, vm.id, seconds=self._cloud.options.delete_seconds
        )
        if operation.failure is None and vm.action != "DELETING":
            self._machines.doom(vm)
        return operation

    def _deleted(self, operation: OperationRow) -> Failure | None:
        vm = self._store.vms.get(operation.target_key)
        if vm is not None and vm.id == operation.target_id and vm.status:
            self._machines.lose(vm, operation.due)
        return None

    def _row(self, call: Call) -> VmRow:
        (project, zone), name = inventory.zone_of(call), call.path["instance"]
        vm = self._store.vms.get(f"{project}/{zone}/{name}")
        if vm is None or not vm.status:
            raise not_found(links.zonal_path(project, zone, "instances", name))
        return vm

    # Reads

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return vm_body(self._row(call), self._blueprints)

    def _visible(self, key: str) -> dict[str, Any] | None:
        vm = self._store.vms.get(key)
        return None if vm is None else vm_body(vm, self._blueprints)
