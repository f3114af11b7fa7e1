"""VMs as JSON, and as their metadata servers show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gce_backend.localcloud.compute import links
from gce_backend.localcloud.compute.error_replies import constant_id, fingerprint, rfc3339
from gce_backend.localcloud.compute.rows import HALTED, VmRow
from gce_backend.localcloud.compute.templates import metadata_body
from gce_backend.localcloud.compute.vm_disks import disks_of
from gce_backend.localcloud.compute.vm_properties import Blueprints

_ECHOED = (
    *("canIpForward", "description", "guestAccelerators", "minCpuPlatform"),
    *("serviceAccounts", "shieldedInstanceConfig"),
)
_SCHEDULING = {"onHostMaintenance": "MIGRATE", "automaticRestart": True, "preemptible": False}


class VmFacts(NamedTuple):
    """A VM as its metadata server shows it.

    Attributes:
        account: the address of its service account; "" when it has none.
        scopes: the scopes of its tokens.
        metadata: its items.
        addresses: its internal address, and its external one if it has one.
        is_running: whether it runs now. A preempted VM does until it has shut down.
        preempted: whether Compute takes it back.
    """

    project: str
    zone: str
    name: str
    id: str
    account: str
    scopes: tuple[str, ...]
    metadata: Mapping[str, str]
    addresses: tuple[str, ...]
    is_running: bool
    preempted: bool


def facts_of(vm: VmRow, blueprints: Blueprints) -> VmFacts:
    """The facts about a VM for its metadata server."""
    properties = blueprints.properties(vm)
    accounts = properties.get("serviceAccounts") or [{"email": "", "scopes": []}]
    network = _interfaces(vm, properties["networkInterfaces"])[0]
    external = [one["natIP"] for one in network.get("accessConfigs", ()) if "natIP" in one]
    account = _account(vm.project, accounts[0]) if accounts[0].get("email", "default") else {}
    return VmFacts(
        vm.project,
        vm.zone,
        vm.name,
        vm.id,
        account.get("email", ""),
        tuple(account.get("scopes", ())),
        {item["key"]: item.get("value", "") for item in blueprints.metadata(vm)},
        (network["networkIP"], *external[:1]),
        vm.status == "RUNNING" or (vm.status == "STOPPING" and vm.preempted),
        vm.preempted,
    )


def vm_body(vm: VmRow, blueprints: Blueprints) -> dict[str, Any]:
    """An instance as Compute shows it."""
    properties = blueprints.properties(vm)
    machine_type = links.parse(properties["machineType"], "machineTypes", "machineType").name
    machine_path = links.zonal_path(vm.project, vm.zone, "machineTypes", machine_type)
    labels = blueprints.labels(vm)
    tags = properties.get("tags", {}).get("items", [])
    created = rfc3339(vm.created)
    body = {
        "kind": "compute#instance",
        "id": vm.id,
        "creationTimestamp": created,
        "lastStartTimestamp": rfc3339(vm.started) if vm.started else created,
        "name": vm.name,
        "zone": links.zone_link(vm.project, vm.zone),
        "machineType": links.ROOT + machine_path,
        "cpuPlatform": "Intel Cascade Lake",
        "status": vm.status,
        "disks": _disks(vm, properties),
        "networkInterfaces": _interfaces(vm, properties["networkInterfaces"]),
        "metadata": metadata_body(blueprints.metadata(vm)),
        "labelFingerprint": fingerprint(labels),
        "tags": {"fingerprint": fingerprint(tags)} | ({"items": tags} if tags else {}),
        "scheduling": _SCHEDULING | properties.get("scheduling", {}),
        "deletionProtection": False,
        "startRestricted": False,
        "fingerprint": fingerprint([vm.id, vm.status]),
        "selfLink": links.ROOT + vm.path,
    }
    body |= {key: properties[key] for key in _ECHOED if key in properties}
    if accounts := properties.get("serviceAccounts"):
        body["serviceAccounts"] = [_account(vm.project, account) for account in accounts]
    for key, moment in (
        ("lastStopTimestamp", vm.stopped),
        ("lastSuspendedTimestamp", vm.suspended),
    ):
        if moment:
            body[key] = rfc3339(moment)
    return body | {"labels": labels} if labels else body


def _account(project: str, account: dict[str, Any]) -> dict[str, Any]:
    """A service account, by its address: `default` is the project's own for Compute."""
    if account.get("email", "default") != "default":
        return account
    return {**account, "email": default_account(project)}


def default_account(project: str) -> str:
    """The address of a project's default service account for Compute."""
    return f"{constant_id(f'projects/{project}')[:12]}-compute@developer.gserviceaccount.com"


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
                if interface.get("accessConfigs") and vm.status not in HALTED
                else {}
            ),
        }
        for interface in interfaces
    ]
