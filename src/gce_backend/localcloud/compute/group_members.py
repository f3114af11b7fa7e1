"""The members of managed instance groups: their methods and their JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import links, listing
from gce_backend.localcloud.compute.error_replies import already_exists, invalid_field, rfc3339
from gce_backend.localcloud.compute.groups import Groups, checked_size, template_link
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import ErrorRow, GroupRow, OperationRow, VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.templates import check_metadata

MAX_NAMED_AT_ONCE = 1000
_TARGETS = {"DELETING": "DELETED", "ABANDONING": "ABANDONED"}

changed = msgspec.structs.replace


class Members:
    """What instanceGroupManagers does with single members."""

    def __init__(
        self,
        cloud: Cloud,
        store: ComputeStore,
        operations: Operations,
        machines: Machines,
        groups: Groups,
    ) -> None:
        self._cloud = cloud
        self._store = store
        self._operations = operations
        self._machines = machines
        self._groups = groups

    def create_instances(self, call: Call) -> OperationRow:
        """The createInstances method: members with names, and metadata, that the caller chooses."""
        row = self._groups.usable_row(call)
        wanted = self._named_newcomers(row, call.body)
        size = checked_size(row.target_size + len(wanted), "resource.targetSize", row.paginated)
        operation = self._operations.start(call, call.method, row.path, row.id)
        if operation.failure is None:
            now = self._cloud.clock.now()
            self._store.put_group(changed(row, target_size=size))
            for name, preserved in wanted.items():
                self._machines.create_named(row, name, preserved, now)
        return operation

    def _named_newcomers(self, row: GroupRow, body: dict[str, Any]) -> dict[str, dict[str, str]]:
        """The metadata to preserve, by name.

        Raises:
            ServiceError: 400 invalid; 409 alreadyExists, also when the name is another VM's.
        """
        asked = body.get("instances", [])
        if not 1 <= len(asked) <= MAX_NAMED_AT_ONCE:
            why = f"Between 1 and {MAX_NAMED_AT_ONCE} instances must be named."
            raise invalid_field("instances", len(asked), why)
        wanted: dict[str, dict[str, str]] = {}
        for index, config in enumerate(asked):
            place = f"instances[{index}]"
            name = links.check_name(config.get("name"), f"{place}.name")
            if name in wanted:
                raise invalid_field(f"{place}.name", name, "It is there twice.")
            state = config.get("preservedState", {})
            for part in ("disks", "internalIPs", "externalIPs"):
                if state.get(part):
                    why = "The embedded cloud preserves metadata alone."
                    raise invalid_field(f"{place}.preservedState.{part}", "", why)
            metadata = state.get("metadata", {})
            items = [{"key": key, "value": value} for key, value in metadata.items()]
            check_metadata(items, f"{place}.preservedState.metadata")
            vm = self._store.vms.get(f"{row.scope}/{name}")
            if vm is not None:
                raise already_exists(vm.path)
            wanted[name] = metadata
        return wanted

    def delete_instances(self, call: Call) -> OperationRow:
        """The deleteInstances method: the operation's end means that deletion is scheduled."""
        row = self._groups.usable_row(call)
        operation, vms = self._start_for_members(call, row)
        for vm in vms:
            self._machines.delete(vm, self._cloud.clock.now())
        self._store.put_group(changed(row, target_size=row.target_size - len(vms)))
        return operation

    def abandon_instances(self, call: Call) -> OperationRow:
        """The abandonInstances method: the members leave the group, and their VMs stay."""
        row = self._groups.usable_row(call)
        operation, vms = self._start_for_members(call, row)
        for vm in vms:
            self._machines.abandon(vm, self._cloud.clock.now())
        self._store.put_group(changed(row, target_size=row.target_size - len(vms)))
        return operation

    def recreate_instances(self, call: Call) -> OperationRow:
        """The recreateInstances method: the VMs are deleted and made again under their names."""
        row = self._groups.usable_row(call)
        operation, vms = self._start_for_members(call, row)
        for vm in vms:
            self._machines.recreate(vm, self._cloud.clock.now())
        return operation

    def _start_for_members(self, call: Call, row: GroupRow) -> tuple[OperationRow, list[VmRow]]:
        """The operation, and the named members that it changes; none if the operation fails."""
        vms = self._named_members(row, call.body)
        operation = self._operations.start(call, call.method, row.path, row.id)
        return operation, vms if operation.failure is None else []

    def _named_members(self, row: GroupRow, body: dict[str, Any]) -> list[VmRow]:
        asked = body.get("instances", [])
        if not 1 <= len(asked) <= MAX_NAMED_AT_ONCE:
            why = f"Between 1 and {MAX_NAMED_AT_ONCE} instances must be named."
            raise invalid_field("instances", len(asked), why)
        found = {}
        for link in asked:
            reference = links.parse(link, "instances", "instances")
            if (reference.project or row.project, reference.zone or row.zone) != (
                row.project,
                row.zone,
            ):
                raise invalid_field("instances", link, "It is not in the group's zone.")
            vm = self._store.vms.get(f"{row.scope}/{reference.name}")
            if vm is not None and vm.group == row.key and not vm.is_leaving:
                found[vm.key] = vm
            elif not body.get("skipInstancesOnValidationError", False):
                raise invalid_field(
                    "instances", link, f"It is not a member of '{row.path}', or leaving it."
                )
        return list(found.values())

    # Reads

    def list_managed_instances(self, call: Call) -> dict[str, Any]:
        """The listManagedInstances method: in pages only if the group was made PAGINATED."""
        listing.refuse(call, "orderBy")
        row = self._groups.row(call)
        scope = row.scope
        current = template_link(row.template)

        def render(name: str) -> dict[str, Any] | None:
            vm = self._store.vms.get(f"{scope}/{name}")
            if vm is None:
                return None
            return _managed_instance(vm, template_link(vm.template) if vm.template else current)

        names = self._store.members[row.key]
        list_of = listing.page if row.paginated else listing.everything
        found = list_of(call, names.after, render)
        answer: dict[str, Any] = {}
        if found.items:
            answer["managedInstances"] = found.items
        if found.token is not None:
            answer["nextPageToken"] = found.token
        return answer

    def list_errors(self, call: Call) -> dict[str, Any]:
        """The listErrors method: recent errors, oldest first."""
        listing.refuse(call, "filter", "orderBy")
        row = self._groups.row(call)
        now = self._cloud.clock.now()

        def after(place: str, _: Collection[str]) -> list[str]:
            return self._store.errors_after(row.key, place, now)

        found = listing.page(call, after, lambda place: _error(self._store.error(row.key, place)))
        answer: dict[str, Any] = {"items": found.items} if found.items else {}
        return answer if found.token is None else answer | {"nextPageToken": found.token}


def _error(row: ErrorRow) -> dict[str, Any]:
    return {
        "error": {"code": row.failure.code, "message": row.failure.message},
        "instanceActionDetails": {
            "action": row.action,
            "instance": links.ROOT + row.instance,
            "version": {"instanceTemplate": template_link(row.template)},
        },
        "timestamp": rfc3339(row.failure.at),
    }


def _managed_instance(vm: VmRow, template: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "instance": links.ROOT + vm.path,
        "name": vm.name,
        "currentAction": vm.action,
        "targetStatus": _TARGETS.get(vm.action, "RUNNING"),
        "version": {"instanceTemplate": template},
    }
    if vm.status:  # both fields are empty while there is no VM
        body |= {"id": vm.id, "instanceStatus": vm.status}
    if vm.preserved is not None:
        body["preservedStateFromConfig"] = {"metadata": vm.preserved} if vm.preserved else {}
    if vm.attempts and vm.failure is not None:
        error: dict[str, Any] = {"code": vm.failure.code, "message": vm.failure.message}
        if vm.failure.details is not None:
            error["errorDetails"] = vm.failure.details
        body["lastAttempt"] = {"errors": {"errors": [error]}}
    return body
