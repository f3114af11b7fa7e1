"""Disk snapshots: those that were created, and any other on demand."""

from __future__ import annotations

from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import already_exists, fingerprint, rfc3339
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import Failure, OperationRow, SnapshotRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.templates import check_labels


class Snapshots:
    """snapshots."""

    def __init__(self, cloud: Cloud, store: ComputeStore, operations: Operations) -> None:
        self._cloud = cloud
        self._store = store
        self._operations = operations
        operations.effects["compute.snapshots.insert"] = self._inserted

    def insert(self, call: Call) -> OperationRow:
        """The insert method; a snapshot has no content."""
        body = dict(call.body)
        name = links.check_name(body.pop("name", None), "resource.name")
        check_labels(body.get("labels", {}), "resource.labels")
        row = SnapshotRow(
            project=call.path["project"],
            name=name,
            id=self._store.numeric_id(self._store.serial()),
            created=self._cloud.clock.now(),
            properties=body,
        )
        if row.key in self._store.snapshots:
            raise already_exists(row.path)
        operation = self._operations.start(call, "insert", row.path, row.id)
        if operation.failure is None:
            self._store.snapshots[row.key] = row
        return operation

    def _inserted(self, operation: OperationRow) -> Failure | None:
        row = self._store.snapshots.get(operation.target_key)
        if row is not None:
            self._store.snapshots[row.key] = msgspec.structs.replace(row, status="READY")
        return None

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        row = self._store.snapshots.get(f"{call.path['project']}/{call.path['snapshot']}")
        return inventory.get_snapshot(call) if row is None else _body(row)

    def list_page(self, call: Call) -> dict[str, Any]:
        """The list method: the snapshots that were created."""
        project = call.path["project"]
        rows = {row.name: row for row in self._store.snapshots.values() if row.project == project}
        found = listing.page(call, Names(rows).after, lambda name: _body(rows[name]))
        path = f"projects/{project}/global/snapshots"
        return listing.resource_list("compute#snapshotList", path, found)


def _body(row: SnapshotRow) -> dict[str, Any]:
    return {
        "diskSizeGb": "10",
        **row.properties,
        "kind": "compute#snapshot",
        "id": row.id,
        "creationTimestamp": rfc3339(row.created),
        "name": row.name,
        "status": row.status,
        "labelFingerprint": fingerprint(row.properties.get("labels", {})),
        "storageBytes": "1073741824",
        "storageBytesStatus": "UP_TO_DATE",
        "selfLink": links.ROOT + row.path,
    }
