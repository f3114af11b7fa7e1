"""What VMs are put into or made with, and nobody makes here: networks, disk types, reservations.

Each exists in every project unless its name begins with `missing`.
"""

from __future__ import annotations

from typing import Any

from gce_backend.localcloud.cloud import Call
from gce_backend.localcloud.compute import inventory, links
from gce_backend.localcloud.compute.error_replies import constant_id, not_found


def get_network(call: Call) -> dict[str, Any]:
    """networks.get."""
    path = links.global_path(call.path["project"], "networks", call.path["network"])
    return _body("compute#network", path) | {"autoCreateSubnetworks": True}


def get_subnetwork(call: Call) -> dict[str, Any]:
    """subnetworks.get."""
    return _regional(call, "compute#subnetwork", "subnetworks", call.path["subnetwork"])


def get_resource_policy(call: Call) -> dict[str, Any]:
    """resourcePolicies.get."""
    name = call.path["resourcePolicy"]
    return _regional(call, "compute#resourcePolicy", "resourcePolicies", name)


def get_reservation(call: Call) -> dict[str, Any]:
    """reservations.get."""
    return _zonal(call, "compute#reservation", "reservations", call.path["reservation"])


def get_disk_type(call: Call) -> dict[str, Any]:
    """diskTypes.get."""
    return _zonal(call, "compute#diskType", "diskTypes", call.path["diskType"])


def get_accelerator_type(call: Call) -> dict[str, Any]:
    """acceleratorTypes.get."""
    name = call.path["acceleratorType"]
    return _zonal(call, "compute#acceleratorType", "acceleratorTypes", name)


def _zonal(call: Call, kind: str, collection: str, name: str) -> dict[str, Any]:
    project, zone = inventory.zone_of(call)
    path = links.zonal_path(project, zone, collection, name)
    return _body(kind, path) | {"zone": links.zone_link(project, zone)}


def _regional(call: Call, kind: str, collection: str, name: str) -> dict[str, Any]:
    project, region = call.path["project"], call.path["region"]
    path = f"projects/{project}/regions/{region}/{collection}/{name}"
    if region not in inventory.REGIONS:
        raise not_found(path)
    return _body(kind, path) | {"region": f"{links.ROOT}projects/{project}/regions/{region}"}


def _body(kind: str, path: str) -> dict[str, Any]:
    name = path.rpartition("/")[2]
    if inventory.is_absent(name):
        raise not_found(path)
    return {
        "kind": kind,
        "id": constant_id(path),
        "creationTimestamp": inventory.CREATED,
        "name": name,
        "selfLink": links.ROOT + path,
    }
