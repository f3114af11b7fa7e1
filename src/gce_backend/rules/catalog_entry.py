"""A machine's catalog entry: its dimensions and policies. Pure."""

from __future__ import annotations

import re

import msgspec

from gce_backend.configuration.types import TemplateConfig
from gce_backend.configuration.values import MEASURED_DIMENSIONS, disk_kind
from gce_backend.model.machine_token import (
    AGENT_ATTRIBUTE,
    BACKEND,
    ID_ATTRIBUTE,
    KEY_ATTRIBUTE,
    Dimension,
)

LABELS = "snapshot_labels"
_CUSTOM = re.compile(
    r"(?:(?P<family>[a-z][a-z0-9]*)-)?custom-(?P<cpus>[0-9]+)-(?P<memory_mb>[0-9]+)(?P<extended>-ext)?"
)


class Shape(msgspec.Struct, frozen=True):
    """A machine's size.

    Attributes:
        num_cpus: virtual CPUs.
        memory_gb: memory in GiB.
    """

    num_cpus: int
    memory_gb: float


def custom_shape(machine_type: str) -> Shape | None:
    """The size of a custom machine type, from its name; None for a predefined type.

    `custom-8-16384` and `n2-custom-16-131072-ext` name CPUs and MiB. A shared-core custom type
    (`e2-custom-micro-2048`) is not arithmetic and is read from Compute like a predefined one.
    """
    match = _CUSTOM.fullmatch(machine_type)
    if match is None:
        return None
    return Shape(int(match["cpus"]), int(match["memory_mb"]) / 1024)


def shared_dimensions(template: TemplateConfig) -> dict[str, Dimension]:
    """The dimensions that all machines of a template share, from the template's fields."""
    found: dict[str, Dimension] = {
        key: value for key, value in template.dimensions if key not in MEASURED_DIMENSIONS
    }
    labels = [value for key, value in template.dimensions if key == LABELS]
    if labels:
        found[LABELS] = labels
    if snapshot := template.snapshot_name or template.boot_snapshot:
        found["snapshot"] = snapshot
    if template.snapshot_labels:
        found[LABELS] = [f"{key}:{value}" for key, value in template.snapshot_labels]
    found.update(backend=BACKEND, project=template.project, disk_type=disk_kind(template.disk_type))
    return found


def dimensions(
    template: TemplateConfig, hostname: str, shape: Shape, disk_gb: int
) -> dict[str, Dimension]:
    """A machine's dimensions in the catalog.

    Args:
        template: its revision's fields.
        hostname: the VM's name.
        shape: its size.
        disk_gb: the boot disk's size in GB.
    """
    found = shared_dimensions(template)
    found.update(
        hostname=hostname, disk_gb=disk_gb, num_cpus=shape.num_cpus, memory_gb=shape.memory_gb
    )
    return found


def policies(
    account: str, token: str, gce_id: int, project: str, topic: str, *, require_agent: bool = False
) -> dict[str, object]:
    """A machine's policies in the catalog.

    Args:
        account: the address of the machine's service account; "" when it has none.
        token: the instance's token, which every message about the machine carries.
        gce_id: the VM's numeric id, which these messages also carry.
        project: the project of the topic.
        topic: the topic to which the Machine Provider publishes our messages.
        require_agent: whether the machine is leased only while its agent reports. It travels as an
            attribute of these messages, which any Machine Provider takes.
    """
    required = [{"key": AGENT_ATTRIBUTE, "value": "true"}] if require_agent else []
    found: dict[str, object] = {
        "backend_project": project,
        "backend_topic": topic,
        "backend_attributes": [
            {"key": KEY_ATTRIBUTE, "value": token},
            {"key": ID_ATTRIBUTE, "value": str(gce_id)},
            *required,
        ],
        "on_reclamation": "DELETE",
    }
    if account:
        found["machine_service_account"] = account
    return found
