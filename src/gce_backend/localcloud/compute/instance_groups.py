"""Instance groups: the view of managed instance groups for load balancers and lists of VMs."""

from __future__ import annotations

from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import (
    fingerprint,
    invalid_field,
    not_found,
    rfc3339,
)
from gce_backend.localcloud.compute.rows import GroupRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.zonal_lists import ZonalLists


class InstanceGroups:
    """The instanceGroups resource: a read-only one for each managed group."""

    def __init__(self, cloud: Cloud, store: ComputeStore) -> None:
        self._store = store
        self.lists = ZonalLists(
            cloud, "instanceGroup", lambda _: (store.group_names, self._visible)
        )

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return self._body(self._row(call))

    def list_instances(self, call: Call) -> dict[str, Any]:
        """The listInstances method: the VMs that exist, with their statuses."""
        group = self._row(call)
        wanted = call.body.get("instanceState", "ALL")
        if wanted not in {"ALL", "RUNNING"}:
            raise invalid_field("instanceState", wanted, "Must be ALL or RUNNING.")
        scope = group.scope

        def render(name: str) -> dict[str, Any] | None:
            vm = self._store.vms.get(f"{scope}/{name}")
            if vm is None or not vm.status or wanted not in {"ALL", vm.status}:
                return None
            return {"instance": links.ROOT + vm.path, "status": vm.status}

        found = listing.page(call, self._store.members[group.key].after, render)
        path = f"{_path(group)}/listInstances"
        return listing.resource_list("compute#instanceGroupsListInstances", path, found)

    def _row(self, call: Call) -> GroupRow:
        (project, zone), name = inventory.zone_of(call), call.path["instanceGroup"]
        row = self._store.groups.get(f"{project}/{zone}/{name}")
        if row is None or row.phase == "CREATING":
            raise not_found(links.zonal_path(project, zone, "instanceGroups", name))
        return row

    def _visible(self, key: str) -> dict[str, Any] | None:
        row = self._store.groups.get(key)
        return None if row is None or row.phase == "CREATING" else self._body(row)

    def _body(self, row: GroupRow) -> dict[str, Any]:
        statuses = self._store.statuses[row.key]
        ports = row.settings.get("namedPorts", [])
        body = {
            "kind": "compute#instanceGroup",
            "id": row.id,
            "creationTimestamp": rfc3339(row.created),
            "name": row.name,
            "description": (
                f"This instance group is controlled by Instance Group Manager '{row.name}'. To "
                "modify instances in this group, use the Instance Group Manager API: "
                "https://cloud.google.com/compute/docs/reference/latest/instanceGroupManagers"
            ),
            "fingerprint": fingerprint(ports),
            "zone": links.zone_link(row.project, row.zone),
            "size": sum(count for status, count in statuses.items() if status),
            "selfLink": links.ROOT + _path(row),
        }
        return body | {"namedPorts": ports} if ports else body


def _path(row: GroupRow) -> str:
    return links.zonal_path(row.project, row.zone, "instanceGroups", row.name)
