"""What templates.cfg and managers.cfg ask for: frozen values, and what makes a revision."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

TEMPLATES_FILE = "templates.cfg"


MANAGERS_FILE = "managers.cfg"


Pairs = tuple[tuple[str, str], ...]
"""Keys and values, in the order of the file."""


class ServiceAccount(msgspec.Struct, frozen=True):
    """An account that VMs act as: its email address or `default`, and its OAuth scopes (URLs)."""

    name: str
    scopes: tuple[str, ...] = ()


class TemplateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of VM. The fields are those of `proto/config.proto`; unset ones are empty.

    Attributes:
        metadata: keys and values, those of metadata_from_file included.
        metadata_from_file: keys and paths, as written. Their texts are in `metadata`.
        disk_size_gb: 0 for the size of the image or snapshot.
        service_accounts: at least one; the first one subscribes to the Machine Provider's topic.
    """

    base_name: str
    project: str = ""
    dimensions: Pairs = ()
    image_name: str = ""
    disk_size_gb: int = 0
    service_accounts: tuple[ServiceAccount, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Pairs = ()
    machine_type: str = ""
    image_project: str = ""
    network_url: str = ""
    auto_assign_external_ip: bool = False
    min_cpu_platform: str = ""
    metadata_from_file: Pairs = ()
    disk_type: str = ""
    snapshot_name: str = ""
    snapshot_labels: Pairs = ()


class ManagerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many VMs of a template to keep in one zone.

    Attributes:
        maximum_size: old and new revision together; 0 for no limit.
    """

    template_base_name: str
    minimum_size: int
    maximum_size: int = 0
    zone: str


class Configuration(msgspec.Struct, frozen=True):
    """Everything that the operator asks for, valid as a whole, in the order of the files."""

    templates: tuple[TemplateConfig, ...] = ()
    managers: tuple[ManagerConfig, ...] = ()

    @property
    def minimum_total(self) -> int:
        """VMs to keep at all times, over all managers."""
        return sum(manager.minimum_size for manager in self.managers)


def checksum(template: TemplateConfig) -> str:
    """What makes a revision of a template: a digest of all fields but its base_name.

    Order counts only where it means something: which service account is first. A field at its
    default counts as absent, so a field added later changes no checksum. The texts of
    metadata_from_file count, their paths do not.

    Returns:
        The SHA-1 of canonical JSON, 40 hexadecimal digits.
    """
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(TemplateConfig):
        value = getattr(template, field.name)
        if field.name in {"base_name", "metadata_from_file"} or value == field.default:
            continue
        if field.name == "service_accounts":
            first, *rest = ([account.name, sorted(account.scopes)] for account in value)
            value = [first, *sorted(rest)]
        elif isinstance(value, tuple):
            value = sorted(value)
        fields[field.name] = value
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha1(canonical.encode(), usedforsecurity=False).hexdigest()
