"""Instance templates: their checks and their methods."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import (
    already_exists,
    fingerprint,
    in_use,
    invalid_field,
    not_found,
    not_ready,
    rfc3339,
)
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import Failure, OperationRow, TemplateRow
from gce_backend.localcloud.compute.store import ComputeStore

_METADATA_KEY = re.compile(r"[a-zA-Z0-9-_]{1,128}")
_METADATA_VALUE_BYTES = 256 * 1024
_METADATA_BYTES = 512 * 1024
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


class Templates:
    """instanceTemplates."""

    def __init__(self, cloud: Cloud, store: ComputeStore, operations: Operations) -> None:
        self._cloud = cloud
        self._store = store
        self._operations = operations
        operations.effects["compute.instanceTemplates.insert"] = self._inserted
        operations.effects["compute.instanceTemplates.delete"] = self._deleted

    def insert(self, call: Call) -> OperationRow:
        """The insert method: the template is visible when the operation is done."""
        project = call.path["project"]
        row = TemplateRow(
            project=project,
            name=links.check_name(call.body.get("name"), "resource.name"),
            id=self._store.numeric_id(self._store.serial()),
            description=call.body.get("description"),
            properties=checked_properties(call.body.get("properties"), project),
            created=self._cloud.clock.now(),
            phase="CREATING",
        )
        if self._store.templates.get(row.key) is not None:
            raise already_exists(row.path)
        operation = self._operations.start(call, "insert", row.path, row.id)
        if operation.failure is None:
            self._store.put_template(row)
        return operation

    def _inserted(self, operation: OperationRow) -> Failure | None:
        row = self._store.templates.get(operation.target_key)
        if row is not None:
            self._store.put_template(msgspec.structs.replace(row, phase="READY"))
        return None

    def delete(self, call: Call) -> OperationRow:
        """The delete method: refused while a group uses the template."""
        row = self._row(call)
        if row.phase == "DELETING":
            raise not_ready(row.path)
        for user in self._store.users[row.key]:
            group = self._store.groups.get(user)
            raise in_use(row.path, group.path if group else user)
        operation = self._operations.start(call, "delete", row.path, row.id)
        if operation.failure is None:
            self._store.put_template(msgspec.structs.replace(row, phase="DELETING"))
        return operation

    def _deleted(self, operation: OperationRow) -> Failure | None:
        row = self._store.templates.get(operation.target_key)
        if row is not None:
            self._store.drop_template(row)
        return None

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return _body(self._row(call))

    def list_page(self, call: Call) -> dict[str, Any]:
        """The list method."""
        project = call.path["project"]

        def render(name: str) -> dict[str, Any] | None:
            row = self._store.templates.get(f"{project}/{name}")
            return None if row is None or row.phase == "CREATING" else _body(row)

        found = listing.page(call, self._store.template_names[project].after, render)
        path = f"projects/{project}/global/instanceTemplates"
        return listing.resource_list("compute#instanceTemplateList", path, found)

    def _row(self, call: Call) -> TemplateRow:
        project, name = call.path["project"], call.path["instanceTemplate"]
        row = self._store.templates.get(f"{project}/{name}")
        if row is None or row.phase == "CREATING":
            raise not_found(links.global_path(project, "instanceTemplates", name))
        return row


def _body(row: TemplateRow) -> dict[str, Any]:
    body = {
        "kind": "compute#instanceTemplate",
        "id": row.id,
        "creationTimestamp": rfc3339(row.created),
        "name": row.name,
        "properties": row.properties,
        "selfLink": links.ROOT + row.path,
    }
    return body if row.description is None else body | {"description": row.description}


def checked_properties(
    asked: dict[str, Any] | None, project: str, place: str = "resource.properties"
) -> dict[str, Any]:
    """The properties of a VM as Compute stores them: with full links and its own additions.

    Args:
        asked: the properties in a request for a template or a VM.
        project: whose it is.
        place: their place in the request.

    Raises:
        ServiceError: 400 invalid, 404 notFound.
    """
    if not asked:
        raise invalid_field(place, "", "The properties must be specified.")
    properties = dict(asked)
    machine_type = properties.get("machineType", "")
    if inventory.machine_size(links.parse(machine_type, "machineTypes", place).name) is None:
        raise invalid_field(f"{place}.machineType", machine_type, "Unknown machine type.")
    properties["disks"] = _checked_disks(properties.get("disks"), project, f"{place}.disks")
    properties["networkInterfaces"] = _checked_interfaces(
        properties.get("networkInterfaces"), project, f"{place}.networkInterfaces"
    )
    items = properties.get("metadata", {}).get("items", [])
    check_metadata(items, f"{place}.metadata")
    properties["metadata"] = metadata_body(items)
    check_labels(properties.get("labels", {}), f"{place}.labels")
    for tag in properties.get("tags", {}).get("items", []):
        links.check_name(tag, f"{place}.tags.items")
    return properties


def _checked_disks(
    disks: list[dict[str, Any]] | None, project: str, place: str
) -> list[dict[str, Any]]:
    if not disks or not disks[0].get("boot"):
        raise invalid_field(place, "", "The first disk must be the boot disk.")
    checked = []
    for index, disk in enumerate(disks):
        parameters = dict(disk.get("initializeParams", {}))
        for field, collection in (("sourceImage", "images"), ("sourceSnapshot", "snapshots")):
            if field in parameters:
                parameters[field] = inventory.check_source(
                    parameters[field], collection, f"{place}.initializeParams.{field}", project
                )
        sources = {"sourceImage", "sourceSnapshot"} & parameters.keys()
        if len(sources) > 1:
            raise invalid_field(f"{place}.initializeParams", "", "More than one source.")
        if disk.get("boot") and not sources and "source" not in disk:
            raise invalid_field(f"{place}.initializeParams", "", "A boot disk needs a source.")
        size = {key: str(parameters[key]) for key in ("diskSizeGb",) if key in parameters}
        defaults = {"kind": "compute#attachedDisk", "type": "PERSISTENT", "mode": "READ_WRITE"}
        kept = {**defaults, **disk, "index": index, "initializeParams": parameters | size}
        if "diskSizeGb" in disk:
            kept["diskSizeGb"] = str(disk["diskSizeGb"])
        checked.append(kept)
    return checked


def _checked_interfaces(
    interfaces: list[dict[str, Any]] | None, project: str, place: str
) -> list[dict[str, Any]]:
    if not interfaces:
        raise invalid_field(place, "", "At least one network interface is required.")
    checked = []
    for index, interface in enumerate(interfaces):
        kept = {"kind": "compute#networkInterface", "name": f"nic{index}", **interface}
        if "network" in kept or "subnetwork" not in kept:
            reference = links.parse(kept.get("network", "default"), "networks", f"{place}.network")
            owner = reference.project or project
            kept["network"] = links.ROOT + links.global_path(owner, "networks", reference.name)
        if "accessConfigs" in kept:
            defaults = {"kind": "compute#accessConfig", "type": "ONE_TO_ONE_NAT"}
            kept["accessConfigs"] = [defaults | config for config in kept["accessConfigs"]]
        checked.append(kept)
    return checked


def check_labels(labels: dict[str, str], field: str) -> None:
    """Refuses invalid labels.

    Raises:
        ServiceError: 400 invalid.
    """
    for key, value in labels.items():
        if _LABEL_KEY.fullmatch(key) is None or _LABEL_VALUE.fullmatch(value) is None:
            raise invalid_field(field, f"{key}: {value}", "Not a label.")


def check_metadata(items: list[dict[str, str]], field: str) -> None:
    """Refuses invalid metadata items.

    Raises:
        ServiceError: 400 invalid.
    """
    seen = set()
    total = 0
    for item in items:
        key, size = item.get("key", ""), len(item.get("value", "").encode())
        if _METADATA_KEY.fullmatch(key) is None or key in seen:
            raise invalid_field(f"{field}.items", key, "Not a metadata key, or there twice.")
        if size > _METADATA_VALUE_BYTES:
            raise invalid_field(f"{field}.items", key, "The value is too large.")
        seen.add(key)
        total += len(key) + size
    if total > _METADATA_BYTES:
        raise invalid_field(field, total, "The metadata are too large.")


def metadata_body(items: list[dict[str, str]]) -> dict[str, Any]:
    """Metadata as in Compute's answers; `items` is absent when there are none."""
    body: dict[str, Any] = {"kind": "compute#metadata", "fingerprint": fingerprint(items)}
    return body | {"items": items} if items else body
