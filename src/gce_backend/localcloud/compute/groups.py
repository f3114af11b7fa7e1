"""Managed instance groups: their methods and their JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links
from gce_backend.localcloud.compute.error_replies import (
    already_exists,
    fingerprint,
    invalid,
    invalid_field,
    not_found,
    not_ready,
    required,
    rfc3339,
    stale_fingerprint,
)
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import (
    Failure,
    GroupRow,
    OperationRow,
    TemplateRow,
)
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.zonal_lists import ZonalLists
from gce_backend.localcloud.statuses import ServiceError

MAX_DIGITS = 20
MAX_SIZE = 1000
MAX_PAGINATED_SIZE = 2000
_LONGEST_BASE_NAME = 58

_ACTIONS = (
    *("none", "creating", "creatingWithoutRetries", "recreating", "deleting", "abandoning"),
    *("restarting", "refreshing", "verifying", "suspending", "resuming", "starting", "stopping"),
)
_ECHOED = (
    *("description", "namedPorts", "targetPools", "autoHealingPolicies", "allInstancesConfig"),
    *("updatePolicy", "instanceLifecyclePolicy"),
)
_LIFECYCLE_POLICY = {"defaultActionOnFailure": "REPAIR", "forceUpdateOnRepair": "NO"}

changed = msgspec.structs.replace


class Groups:
    """instanceGroupManagers."""

    def __init__(
        self, cloud: Cloud, store: ComputeStore, operations: Operations, machines: Machines
    ) -> None:
        self._cloud = cloud
        self._store = store
        self.lists = ZonalLists(
            cloud, "instanceGroupManager", lambda _: (store.group_names, self._visible)
        )
        self._operations = operations
        self._machines = machines
        operations.effects["compute.instanceGroupManagers.insert"] = self._inserted
        operations.effects["compute.instanceGroupManagers.delete"] = self._deleted

    # Mutations

    def insert(self, call: Call) -> OperationRow:
        """The insert method: the group is visible, and creates VMs, when the operation is done."""
        project, zone = inventory.zone_of(call)
        row = self._checked(call.body, project, zone)
        if self._store.groups.get(row.key) is not None:
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
        paginated = listing_of == "PAGINATED"
        size = checked_size(body.get("targetSize"), "resource.targetSize", paginated)
        return GroupRow(
            project=project,
            zone=zone,
            name=name,
            id=self._store.numeric_id(self._store.serial()),
            template=self._usable_template(body, project).key,
            base_name=base_name,
            target_size=size,
            paginated=paginated,
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
        template = self._store.templates.get(f"{owner}/{reference.name}")
        if template is None or template.phase == "CREATING":
            raise not_found(links.global_path(owner, "instanceTemplates", reference.name))
        if template.phase == "DELETING":
            raise not_ready(template.path)
        return template

    def _inserted(self, operation: OperationRow) -> Failure | None:
        row = self._store.groups.get(operation.target_key)
        if row is not None:
            self._store.put_group(changed(row, phase="READY"))
            self._machines.create(row, row.target_size, operation.due)
        return None

    def resize(self, call: Call) -> OperationRow:
        """The resize method: a larger size creates VMs, a smaller one deletes arbitrary ones."""
        row = self.usable_row(call)
        if "size" not in call.query:
            raise required("size")
        size = checked_size(call.query["size"], "size", row.paginated)
        operation = self._operations.start(
            call, "compute.instanceGroupManagers.resize", row.path, row.id
        )
        if operation.failure is None:
            new = changed(row, target_size=size)
            self._store.put_group(new)
            self._grow_or_shrink(new, row.target_size)
        return operation

    def patch(self, call: Call) -> OperationRow:
        """The patch method: the given fields replace the present ones when the operation begins."""
        row = self.usable_row(call)
        body = call.body
        if body.get("fingerprint", _fingerprint(row)) != _fingerprint(row):
            raise stale_fingerprint()
        if body.get("name", row.name) != row.name:
            raise invalid_field("resource.name", body["name"], "A group cannot be renamed.")
        asked = {
            "name": row.name,
            "baseInstanceName": row.base_name,
            "targetSize": row.target_size,
            "listManagedInstancesResults": "PAGINATED" if row.paginated else "PAGELESS",
            **({} if _names_template(body) else {"instanceTemplate": template_link(row.template)}),
            **row.settings,
            **body,
        }
        policies = [part.get("instanceLifecyclePolicy", {}) for part in (row.settings, body)]
        asked["instanceLifecyclePolicy"] = policies[0] | policies[1]
        new = changed(self._checked(asked, row.project, row.zone), id=row.id, created=row.created)
        operation = self._operations.start(call, call.method, row.path, row.id)
        if operation.failure is None:
            self._replace(row, changed(new, phase=row.phase))
        return operation

    def set_instance_template(self, call: Call) -> OperationRow:
        """The setInstanceTemplate method: VMs that exist stay as they are."""
        row = self.usable_row(call)
        template = self._usable_template(call.body, row.project)
        operation = self._operations.start(call, call.method, row.path, row.id)
        if operation.failure is None:
            self._replace(row, changed(row, template=template.key))
        return operation

    def _replace(self, row: GroupRow, new: GroupRow) -> None:
        """Stores a changed group."""
        if new.template != row.template:
            self._machines.outdate(self._store.members_of(row))
        self._store.put_group(new)
        self._grow_or_shrink(new, row.target_size)

    def _grow_or_shrink(self, row: GroupRow, before: int) -> None:
        now = self._cloud.clock.now()
        if row.target_size > before:
            self._machines.create(row, row.target_size - before, now)
        else:
            self._machines.shrink(row, before - row.target_size, now)

    def delete(self, call: Call) -> OperationRow:
        """The delete method: deletes the VMs, then the group."""
        row = self.usable_row(call)
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
        row = self._store.groups.get(operation.target_key)
        if row is not None:
            for vm in list(self._store.members_of(row)):
                self._machines.remove(vm)
            self._store.drop_group(row)
        return None

    def row(self, call: Call) -> GroupRow:
        """The group that a call names, unless its insert is still in flight."""
        (project, zone), name = inventory.zone_of(call), call.path["instanceGroupManager"]
        row = self._store.groups.get(f"{project}/{zone}/{name}")
        if row is None or row.phase == "CREATING":
            raise not_found(links.zonal_path(project, zone, "instanceGroupManagers", name))
        return row

    def usable_row(self, call: Call) -> GroupRow:
        """The group that a call changes: 400 resourceNotReady while it is being deleted."""
        row = self.row(call)
        if row.phase == "DELETING":
            raise not_ready(row.path)
        return row

    # Reads

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return self._body(self.row(call))

    def _visible(self, key: str) -> dict[str, Any] | None:
        row = self._store.groups.get(key)
        return None if row is None or row.phase == "CREATING" else self._body(row)

    def _body(self, row: GroupRow) -> dict[str, Any]:
        template = template_link(row.template)
        actions = self._store.actions[row.key]
        current = dict.fromkeys(_ACTIONS, 0)
        for action, count in actions.items():
            current[action.lower()] = count
        outdated, stateful = self._store.outdated[row.key], self._store.stateful[row.key]
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
            "fingerprint": _fingerprint(row),
            "targetSize": row.target_size,
            "listManagedInstancesResults": "PAGINATED" if row.paginated else "PAGELESS",
            "currentActions": current,
            "status": {
                "isStable": is_stable,
                "stateful": {
                    "hasStatefulConfig": stateful > 0,
                    "perInstanceConfigs": {"allEffective": True},
                },
                "versionTarget": {"isReached": outdated == 0},
                "allInstancesConfig": {"effective": True},
            },
            "selfLink": links.ROOT + row.path,
            **row.settings,
        }


def _fingerprint(row: GroupRow) -> str:
    return fingerprint([row.target_size, row.template, row.phase])


def _names_template(body: dict[str, Any]) -> bool:
    return bool(body.get("instanceTemplate") or body.get("versions"))


def template_link(key: str) -> str:
    """The full link of the template with this key."""
    project, _, name = key.partition("/")
    return links.ROOT + links.global_path(project, "instanceTemplates", name)


def checked_size(value: Any, field: str, paginated: bool) -> int:
    """A valid size of a group.

    Raises:
        ServiceError: 400 invalid.
    """
    limit = MAX_PAGINATED_SIZE if paginated else MAX_SIZE
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise invalid_field(field, value, "Must be a number, and not negative.")
    if int(text) > limit:
        raise _too_large(field, text, limit)
    return int(text)


def _too_large(field: str, size: str, limit: int) -> ServiceError:
    return invalid(f"Invalid value for field '{field}': '{size}'. Must be at most {limit}.")
