"""Managed instance groups: their methods and how they look."""

from __future__ import annotations

from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud, ServiceError
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import (
    already_exists,
    fingerprint,
    invalid,
    invalid_field,
    not_found,
    not_ready,
    required,
    rfc3339,
)
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import (
    ErrorRow,
    Failure,
    GroupRow,
    OperationRow,
    TemplateRow,
    VmRow,
)
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.zonal_lists import ZonalLists

MAX_SIZE = 1000
MAX_PAGINATED_SIZE = 2000
MAX_NAMED_AT_ONCE = 1000
_LONGEST_BASE_NAME = 58

_ACTIONS = (
    *("none", "creating", "creatingWithoutRetries", "recreating", "deleting", "abandoning"),
    *("restarting", "refreshing", "verifying", "suspending", "resuming", "starting", "stopping"),
)
_ECHOED = (
    *("description", "namedPorts", "targetPools", "autoHealingPolicies", "allInstancesConfig"),
    *("updatePolicy", "instanceLifecyclePolicy"),
)
_TARGETS = {"DELETING": "DELETED", "ABANDONING": "ABANDONED"}
_LIFECYCLE_POLICY = {"defaultActionOnFailure": "REPAIR", "forceUpdateOnRepair": "NO"}

changed = msgspec.structs.replace


class Groups:
    """instanceGroupManagers.

    Attributes:
        lists: its lists.
    """

    def __init__(
        self, cloud: Cloud, store: ComputeStore, operations: Operations, machines: Machines
    ) -> None:
        self._cloud = cloud
        self._store = store
        self.lists = ZonalLists(cloud, "instanceGroupManager", store.group_names, self._visible)
        self._operations = operations
        self._machines = machines
        operations.effects["compute.instanceGroupManagers.insert"] = self._inserted
        operations.effects["compute.instanceGroupManagers.delete"] = self._deleted

    # Mutations

    def insert(self, call: Call) -> OperationRow:
        """The insert method: the group can be seen, and makes VMs, when the operation is done."""
        project, zone = call.path["project"], call.path["zone"]
        inventory.check_zone(project, zone)
        row = self._checked(call.body, project, zone)
        if self._store.group(row.key) is not None:
            raise already_exists(row.path)
        operation = self._operations.start(
            call, "compute.instanceGroupManagers.insert", row.path, row.id
        )
        if operation.failure is None:
            self._store.put_group(row)
        return operation

    def _checked(self, body: dict[str, Any], project: str, zone: str) -> GroupRow:
        name = links.check_name(body.get("name"), "resource.name")
        base_name = links.check_name(
            body.get("baseInstanceName", name[:_LONGEST_BASE_NAME].rstrip("-")),
            "resource.baseInstanceName",
            _LONGEST_BASE_NAME,
        )
        listing_of = body.get("listManagedInstancesResults", "PAGELESS")
        if listing_of not in {"PAGELESS", "PAGINATED"}:
            raise invalid_field("resource.listManagedInstancesResults", listing_of, "Unknown.")
        policy = _LIFECYCLE_POLICY | body.get("instanceLifecyclePolicy", {})
        if policy["defaultActionOnFailure"] not in {"REPAIR", "DO_NOTHING"}:
            field = "resource.instanceLifecyclePolicy.defaultActionOnFailure"
            raise invalid_field(field, policy["defaultActionOnFailure"], "Unknown.")
        size = _size(body.get("targetSize"), "resource.targetSize", listing_of == "PAGINATED")
        return GroupRow(
            project=project,
            zone=zone,
            name=name,
            id=self._store.numeric_id(self._store.serial()),
            template=self._usable_template(body, project).key,
            base_name=base_name,
            target_size=size,
            paginated=listing_of == "PAGINATED",
            repairs=policy["defaultActionOnFailure"] == "REPAIR",
            settings={key: body[key] for key in _ECHOED if key in body}
            | {"instanceLifecyclePolicy": policy},
            created=self._cloud.clock.now(),
            phase="CREATING",
        )

    def _usable_template(self, body: dict[str, Any], project: str) -> TemplateRow:
        versions = [version.get("instanceTemplate") for version in body.get("versions", [])]
        named = {body.get("instanceTemplate"), *versions} - {None}
        field = "resource.instanceTemplate"
        if len(named) != 1:
            raise invalid_field(field, sorted(named), "Exactly one template must be named.")
        reference = links.parse(named.pop(), "instanceTemplates", field)
        owner = reference.project or project
        template = self._store.template(f"{owner}/{reference.name}")
        if template is None or template.phase == "CREATING":
            raise not_found(links.global_path(owner, "instanceTemplates", reference.name))
        if template.phase == "DELETING":
            raise not_ready(template.path)
        return template

    def _inserted(self, operation: OperationRow) -> Failure | None:
        row = self._store.group(operation.target_key)
        if row is not None:
            self._store.put_group(changed(row, phase="READY"))
            self._machines.create(row, row.target_size, operation.due)
        return None

    def resize(self, call: Call) -> OperationRow:
        """The resize method: up makes VMs, down deletes whichever."""
        row = self._usable_row(call)
        if "size" not in call.query:
            raise required("size")
        size = _size(call.query["size"], "size", row.paginated)
        operation = self._operations.start(
            call, "compute.instanceGroupManagers.resize", row.path, row.id
        )
        if operation.failure is None:
            now = self._cloud.clock.now()
            self._store.put_group(changed(row, target_size=size))
            if size > row.target_size:
                self._machines.create(row, size - row.target_size, now)
            else:
                self._machines.shrink(row, row.target_size - size, now)
        return operation

    def delete_instances(self, call: Call) -> OperationRow:
        """The deleteInstances method: the operation's end means that deletion is scheduled."""
        row = self._usable_row(call)
        operation, vms = self._start_for_members(call, row)
        for vm in vms:
            self._machines.delete(vm, self._cloud.clock.now())
        self._store.put_group(changed(row, target_size=row.target_size - len(vms)))
        return operation

    def abandon_instances(self, call: Call) -> OperationRow:
        """The abandonInstances method: the members leave the group, and their VMs stay."""
        row = self._usable_row(call)
        operation, vms = self._start_for_members(call, row)
        for vm in vms:
            self._machines.abandon(vm, self._cloud.clock.now())
        self._store.put_group(changed(row, target_size=row.target_size - len(vms)))
        return operation

    def recreate_instances(self, call: Call) -> OperationRow:
        """The recreateInstances method: the VMs are deleted and made again under their names."""
        row = self._usable_row(call)
        operation, vms = self._start_for_members(call, row)
        for vm in vms:
            self._machines.recreate(vm, self._cloud.clock.now())
        return operation

    def _start_for_members(self, call: Call, row: GroupRow) -> tuple[OperationRow, list[VmRow]]:
        """The operation, and the named members that it may change: none when it is to fail."""
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
            vm = self._store.vm(f"{row.project}/{row.zone}/{reference.name}")
            if vm is not None and vm.group == row.key and not vm.is_leaving:
                found[vm.key] = vm
            elif not body.get("skipInstancesOnValidationError", False):
                raise invalid_field(
                    "instances", link, f"It is not a member of '{row.path}', or leaving it."
                )
        return list(found.values())

    def delete(self, call: Call) -> OperationRow:
        """The delete method: the VMs go, then the group."""
        row = self._usable_row(call)
        operation = self._operations.start(
            call,
            "compute.instanceGroupManagers.delete",
            row.path,
            row.id,
            seconds=self._cloud.options.delete_seconds,
        )
        if operation.failure is None:
            self._store.put_group(changed(row, phase="DELETING", target_size=0))
            for vm in list(self._store.members_of(row)):
                if not vm.is_leaving:
                    self._machines.delete(vm, self._cloud.clock.now())
        return operation

    def _deleted(self, operation: OperationRow) -> Failure | None:
        row = self._store.group(operation.target_key)
        if row is not None:
            for vm in list(self._store.members_of(row)):
                self._machines.remove(vm)
            self._store.drop_group(row)
        return None

    def _row(self, call: Call) -> GroupRow:
        project, zone = call.path["project"], call.path["zone"]
        inventory.check_zone(project, zone)
        name = call.path["instanceGroupManager"]
        row = self._store.group(f"{project}/{zone}/{name}")
        if row is None or row.phase == "CREATING":
            raise not_found(links.zonal_path(project, zone, "instanceGroupManagers", name))
        return row

    def _usable_row(self, call: Call) -> GroupRow:
        row = self._row(call)
        if row.phase == "DELETING":
            raise not_ready(row.path)
        return row

    # Reads

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return self._body(self._row(call))

    def list_managed_instances(self, call: Call) -> dict[str, Any]:
        """The listManagedInstances method: in pages only if the group was made PAGINATED."""
        listing.refuse(call, "orderBy")
        row = self._row(call)
        scope = f"{row.project}/{row.zone}"
        template = _template_link(row.template)

        def render(name: str) -> dict[str, Any] | None:
            vm = self._store.vm(f"{scope}/{name}")
            return None if vm is None else _managed_instance(vm, template)

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
        """The listErrors method: what went wrong lately, oldest first."""
        listing.refuse(call, "filter", "orderBy")
        row = self._row(call)
        now = self._cloud.clock.now()

        def after(place: str) -> list[str]:
            return self._store.errors_after(row.key, place, now)

        found = listing.page(call, after, lambda place: _error(self._store.error(row.key, place)))
        answer: dict[str, Any] = {"items": found.items} if found.items else {}
        return answer if found.token is None else answer | {"nextPageToken": found.token}

    def _visible(self, key: str) -> dict[str, Any] | None:
        row = self._store.group(key)
        return None if row is None or row.phase == "CREATING" else self._body(row)

    def _body(self, row: GroupRow) -> dict[str, Any]:
        template = _template_link(row.template)
        actions = self._store.actions[row.key]
        current = dict.fromkeys(_ACTIONS, 0)
        for action, count in actions.items():
            current[action.lower()] = count
        is_stable = row.phase == "READY" and sum(current.values()) == current["none"]
        group_path = links.zonal_path(row.project, row.zone, "instanceGroups", row.name)
        return {
            "kind": "compute#instanceGroupManager",
            "id": row.id,
            "creationTimestamp": rfc3339(row.created),
            "name": row.name,
            "zone": links.zone_link(row.project, row.zone),
            "instanceTemplate": template,
            "versions": [
                {"instanceTemplate": template, "targetSize": {"calculated": row.target_size}}
            ],
            "instanceGroup": links.ROOT + group_path,
            "baseInstanceName": row.base_name,
            "fingerprint": fingerprint([row.target_size, row.template, row.phase]),
            "targetSize": row.target_size,
            "listManagedInstancesResults": "PAGINATED" if row.paginated else "PAGELESS",
            "currentActions": current,
            "status": {
                "isStable": is_stable,
                "stateful": {
                    "hasStatefulConfig": False,
                    "perInstanceConfigs": {"allEffective": True},
                },
                "versionTarget": {"isReached": True},
                "allInstancesConfig": {"effective": True},
            },
            "selfLink": links.ROOT + row.path,
            **row.settings,
        }


def _template_link(key: str) -> str:
    project, _, name = key.partition("/")
    return links.ROOT + links.global_path(project, "instanceTemplates", name)


def _error(row: ErrorRow) -> dict[str, Any]:
    return {
        "error": {"code": row.failure.code, "message": row.failure.message},
        "instanceActionDetails": {
            "action": row.action,
            "instance": links.ROOT + row.instance,
            "version": {"instanceTemplate": _template_link(row.template)},
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
    if vm.id:
        body["id"] = vm.id
    if vm.status:
        body["instanceStatus"] = vm.status
    if vm.attempts and vm.failure is not None:
        error: dict[str, Any] = {"code": vm.failure.code, "message": vm.failure.message}
        if vm.failure.details is not None:
            error["errorDetails"] = vm.failure.details
        body["lastAttempt"] = {"errors": {"errors": [error]}}
    return body


def _size(value: Any, field: str, paginated: bool) -> int:
    limit = MAX_PAGINATED_SIZE if paginated else MAX_SIZE
    text = str(value)
    if not text.isdecimal():
        raise invalid_field(field, value, "Must be a number, and not negative.")
    if int(text) > limit:
        raise _too_large(field, text, limit)
    return int(text)


def _too_large(field: str, size: str, limit: int) -> ServiceError:
    return invalid(f"Invalid value for field '{field}': '{size}'. Must be at most {limit}.")
