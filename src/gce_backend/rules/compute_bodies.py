"""The requests to Compute that create instance templates and groups. Pure.

Everything that the daemon creates carries its mark (`rules.ownership`): VMs and their templates in
labels, templates and groups in a description with owner, template, full checksum and store id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gce_backend.configuration.naming import (
    base_instance_name,
    group_name,
    short_checksum,
    template_name,
)
from gce_backend.configuration.types import AdditionalDisk, TemplateConfig, template_rules
from gce_backend.configuration.values import SPOT
from gce_backend.model.keys import GroupKey, RevisionKey
from gce_backend.rules.ownership import OWNER_LABEL, STORE_LABEL, Mark, description_of

TEMPLATE_LABEL = "gce-backend-template"
REVISION_LABEL = "gce-backend-revision"

_SPOT = {
    "provisioningModel": SPOT,
    "instanceTerminationAction": "DELETE",
    "automaticRestart": False,
    "onHostMaintenance": "TERMINATE",
}
"""The scheduling of VMs that Compute Engine may take back: what it stops is never offered again."""

_LOCAL_SSD = {
    "type": "SCRATCH",
    "autoDelete": True,
    "interface": "NVME",
    "initializeParams": {"diskType": "local-ssd"},
}

_PARTIAL_LINK = re.compile(r"(projects|global|regions|zones)/")


def template_name_of(revision: RevisionKey, generation: int) -> str:
    """The name of a revision's instance template of that generation."""
    return template_name(revision.base_name, revision.checksum, generation)


def group_name_of(manager: GroupKey, generation: int) -> str:
    """The name of a manager's group of that generation."""
    return group_name(manager.base_name, manager.revision.checksum, manager.zone, generation)


def base_instance_name_of(manager: GroupKey) -> str:
    """What the names of a manager's VMs begin with, in all generations of its group."""
    return base_instance_name(manager.base_name, manager.revision.checksum, manager.zone)


def template_body(
    mark: Mark,
    revision: RevisionKey,
    template: TemplateConfig,
    found_snapshot: str | None = None,
    *,
    generation: int = 0,
) -> dict[str, Any]:
    """The body of `instanceTemplates.insert`.

    Args:
        mark: names the owner.
        revision: the InstanceTemplateRevision's key.
        template: its fields.
        found_snapshot: the snapshot that has its labels, if the template names none.
        generation: the revision's generation, which is part of the name.
    """
    base_name, checksum = revision.base_name, revision.checksum
    labels = {
        **dict(template.labels),
        OWNER_LABEL: mark.owner,
        STORE_LABEL: mark.store,
        TEMPLATE_LABEL: base_name,
        REVISION_LABEL: short_checksum(checksum),
    }
    properties: dict[str, Any] = {
        "labels": labels,
        "disks": _disks(template, template.second_snapshot or found_snapshot, labels),
        "networkInterfaces": [_network_interface(template)],
        "serviceAccounts": [
            {"email": account.name, "scopes": list(account.scopes)}
            for account in template.service_accounts
        ],
        "metadata": {"items": [{"key": key, "value": value} for key, value in template.metadata]},
    }
    if template.guest_accelerators:
        properties["guestAccelerators"] = [
            {"acceleratorType": kind, "acceleratorCount": int(count)}
            for kind, count in template.guest_accelerators
        ]
    if template.reservation:
        properties["reservationAffinity"] = {
            "consumeReservationType": "SPECIFIC_RESERVATION",
            "key": "compute.googleapis.com/reservation-name",
            "values": [template.reservation],
        }
    if template.is_spot:
        properties["scheduling"] = dict(_SPOT)
    elif template.guest_accelerators or template.confidential_type:
        properties["scheduling"] = {"onHostMaintenance": "TERMINATE"}  # they cannot be moved
    for name, rule in template_rules().items():
        value = getattr(template, name)
        if rule.place and value:
            _put(properties, rule.place.split("."), value)
    return {
        "name": template_name(base_name, checksum, generation),
        "description": description_of(mark, revision),
        "properties": properties,
    }


def group_body(
    mark: Mark,
    manager: GroupKey,
    project: str,
    target_size: int,
    instance_template: str,
    *,
    generation: int = 0,
) -> dict[str, Any]:
    """The body of `instanceGroupManagers.insert`.

    The group does not repair VMs, because a VM that it recreates may be leased. Its list is paged,
    which also doubles the number of VMs that it may hold.

    Args:
        mark: names the owner.
        manager: the InstanceGroupManager's key.
        project: the template's project.
        target_size: the first target size.
        instance_template: the instance template's name.
        generation: the manager's generation, which is part of the name.
    """
    base_name, checksum = manager.base_name, manager.revision.checksum
    return {
        "name": group_name(base_name, checksum, manager.zone, generation),
        "description": description_of(mark, manager.revision),
        "baseInstanceName": base_instance_name(base_name, checksum, manager.zone),
        "instanceTemplate": f"projects/{project}/global/instanceTemplates/{instance_template}",
        "targetSize": target_size,
        "listManagedInstancesResults": "PAGINATED",
        "instanceLifecyclePolicy": {"defaultActionOnFailure": "DO_NOTHING"},
    }


def _disks(
    template: TemplateConfig, second_snapshot: str | None, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The boot disk, the second disk if it comes from a snapshot, additional ones, and local SSDs.

    All but the last have their VM's labels, so that one that outlives it is known as ours.
    """
    owner = f"projects/{template.source_project}/global"
    boot = {"sourceImage": f"{owner}/images/{template.image_name}"}
    if template.boot_snapshot:
        boot = {"sourceSnapshot": f"{owner}/snapshots/{template.boot_snapshot}"}
    disks = [_disk(boot, labels, boot=True)]
    if second_snapshot:
        source = f"projects/{template.project}/global/snapshots/{second_snapshot}"
        disks.append(_disk({"sourceSnapshot": source}, labels, boot=False))
    disks += [_additional_disk(disk, labels) for disk in template.additional_disks]
    return [*disks, *(dict(_LOCAL_SSD) for _ in range(template.local_ssds))]


def _disk(source: dict[str, str], labels: Mapping[str, str], *, boot: bool) -> dict[str, Any]:
    # Without autoDelete the disk would outlive its VM, and continue to cost money.
    return {
        "boot": boot,
        "autoDelete": True,
        "type": "PERSISTENT",
        "initializeParams": {**source, "labels": dict(labels)},
    }


def _additional_disk(disk: AdditionalDisk, labels: Mapping[str, str]) -> dict[str, Any]:
    made = _disk({"diskSizeGb": str(disk.size_gb)}, {**labels, **dict(disk.labels)}, boot=False)
    if disk.disk_type:
        made["initializeParams"]["diskType"] = disk.disk_type
    return {**made, "autoDelete": disk.auto_delete}


def _put(properties: dict[str, Any], place: Sequence[str], value: Any) -> None:
    """Sets a property; 64-bit numbers are strings in Compute Engine's JSON."""
    inner: Any = properties
    for step in place[:-1]:
        inner = inner[int(step)] if isinstance(inner, list) else inner.setdefault(step, {})
    if isinstance(value, tuple):
        value = list(value)
    inner[place[-1]] = value if isinstance(value, str | list | bool) else str(value)


def _network_interface(template: TemplateConfig) -> dict[str, Any]:
    url = template.network_url or "global/networks/default"
    kind = "subnetwork" if "/subnetworks/" in url else "network"
    interface: dict[str, Any] = {kind: _with_project(template.project, url)}
    if template.auto_assign_external_ip:
        interface["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    return interface


def _with_project(project: str, url: str) -> str:
    if _PARTIAL_LINK.match(url) and not url.startswith("projects/"):
        return f"projects/{project}/{url}"
    return url
