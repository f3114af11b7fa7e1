"""What templates.cfg and managers.cfg ask for: frozen values, and what makes a revision.

A template's fields are described here once: each with its type, its default, its rule and, when it
goes to Compute Engine as it is, its place there. What they mean stands in `proto/config.proto`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec

from gce_backend.configuration.problems import Problem
from gce_backend.configuration.values import (
    BOOT_SECONDS,
    MAX_ACCELERATORS,
    MAX_ACCOUNTS,
    MAX_ALTERNATIVES,
    MAX_DIMENSIONS,
    MAX_DISKS,
    MAX_LABELS,
    MAX_OWN_LABELS,
    MAX_POLICIES,
    MAX_TAGS,
    SPOT,
    SURPLUS_SECONDS,
    Check,
    check_accelerator,
    check_base_name,
    check_canary,
    check_confidential_type,
    check_cpu_platform,
    check_disk_size,
    check_disk_type,
    check_label,
    check_local_ssds,
    check_machine_type,
    check_name,
    check_network,
    check_own_label,
    check_project,
    check_provisioning_model,
    full_network,
    normal_provisioning_model,
)

NO_REVISION = frozenset(
    {
        "base_name",
        "metadata_from_file",
        "canary",
        "alternative_machine_types",
        "image_family",
    }
)
"""Fields of a template that make no other revision of it; of a family, the image does."""
TEMPLATES_FILE = "templates.cfg"
MANAGERS_FILE = "managers.cfg"


Pairs = tuple[tuple[str, str], ...]
"""Keys and values, in the order of the file."""


class ServiceAccount(msgspec.Struct, frozen=True):
    """An account that VMs act as: its email address or `default`, and its OAuth scopes (URLs)."""

    name: str
    scopes: tuple[str, ...] = ()


class AdditionalDisk(msgspec.Struct, frozen=True):
    """An empty disk that is made with each VM.

    Attributes:
        size_gb: its size in GB.
        disk_type: "" for Compute Engine's default.
        labels: beside those of its template.
        auto_delete: whether it is deleted with its VM.
    """

    size_gb: int
    disk_type: str = ""
    labels: Pairs = ()
    auto_delete: bool = True

    def __str__(self) -> str:
        """It in words."""
        words = [f"{self.size_gb} GB"]
        words += [self.disk_type] if self.disk_type else []
        words += [f"{key}:{value}" for key, value in sorted(self.labels)]
        words += [] if self.auto_delete else ["kept after its VM"]
        return " ".join(words)


class Rule(NamedTuple):
    """What one field of a template keeps, and where Compute Engine gets it.

    Attributes:
        check: says what is wrong with the value, or with one item of a list; None when rules that
            look at several fields do that.
        required: it has to be there.
        limit: items that a list has at most.
        normal: gives the one form of what can be written in several ways.
        place: where it stands in an instance template's properties, names joined by dots, numbers
            for items of a list; "" when `rules.compute_bodies` makes something else of it.
    """

    check: Check | None = None
    required: bool = False
    limit: int | None = None
    normal: Callable[[str], str] | None = None
    place: str = ""


_BOOT_DISK = "disks.0.initializeParams."


class TemplateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of VM. The fields are those of `proto/config.proto`; unset ones are empty.

    Attributes:
        metadata: keys and values, those of metadata_from_file included.
        metadata_from_file: keys and paths, as written. Their texts are in `metadata`.
        disk_size_gb: 0 for the size of the image or snapshot.
        image_family: the family that image_name is the newest image of, once that is known.
        service_accounts: the first one subscribes to the Machine Provider's topic.
        snapshot_name: of the second disk; of the boot disk in revisions that a release before
            boot_snapshot_name stored, which have no image.
        provisioning_model: `SPOT`; "" for VMs that stay.
        canary: machines that prove a new revision; None for the setting's.
        labels: of VMs and disks, beside the daemon's own.
        guest_accelerators: types and their numbers.
        require_agent: whether a machine is leased only while its agent reports.
    """

    base_name: Annotated[str, Rule(check_base_name, required=True)]
    project: Annotated[str, Rule(check_project, required=True)] = ""
    dimensions: Annotated[Pairs, Rule(limit=MAX_DIMENSIONS)] = ()
    image_name: Annotated[str, Rule(check_name)] = ""
    disk_size_gb: Annotated[int, Rule(check_disk_size, place=f"{_BOOT_DISK}diskSizeGb")] = 0
    service_accounts: Annotated[tuple[ServiceAccount, ...], Rule(limit=MAX_ACCOUNTS)] = ()
    tags: Annotated[tuple[str, ...], Rule(check_name, limit=MAX_TAGS, place="tags.items")] = ()
    metadata: Annotated[Pairs, Rule()] = ()
    machine_type: Annotated[str, Rule(check_machine_type, required=True, place="machineType")] = ""
    image_project: Annotated[str, Rule(check_project)] = ""
    network_url: Annotated[str, Rule(check_network, normal=full_network)] = ""
    auto_assign_external_ip: Annotated[bool, Rule()] = False
    min_cpu_platform: Annotated[str, Rule(check_cpu_platform, place="minCpuPlatform")] = ""
    metadata_from_file: Annotated[Pairs, Rule()] = ()
    disk_type: Annotated[str, Rule(check_disk_type, place=f"{_BOOT_DISK}diskType")] = ""
    snapshot_name: Annotated[str, Rule(check_name)] = ""
    snapshot_labels: Annotated[Pairs, Rule(check_label, limit=MAX_LABELS)] = ()
    boot_snapshot_name: Annotated[str, Rule(check_name)] = ""
    provisioning_model: Annotated[
        str, Rule(check_provisioning_model, normal=normal_provisioning_model)
    ] = ""
    canary: Annotated[int | None, Rule(check_canary)] = None
    require_agent: Annotated[bool, Rule()] = False
    alternative_machine_types: Annotated[
        tuple[str, ...], Rule(check_machine_type, limit=MAX_ALTERNATIVES)
    ] = ()
    labels: Annotated[Pairs, Rule(check_own_label, limit=MAX_OWN_LABELS)] = ()
    local_ssds: Annotated[int, Rule(check_local_ssds)] = 0
    guest_accelerators: Annotated[Pairs, Rule(check_accelerator, limit=MAX_ACCELERATORS)] = ()
    secure_boot: Annotated[bool, Rule(place="shieldedInstanceConfig.enableSecureBoot")] = False
    confidential_type: Annotated[
        str,
        Rule(check_confidential_type, place="confidentialInstanceConfig.confidentialInstanceType"),
    ] = ""
    reservation: Annotated[str, Rule(check_name)] = ""
    resource_policies: Annotated[
        tuple[str, ...], Rule(check_name, limit=MAX_POLICIES, place="resourcePolicies")
    ] = ()
    image_family: Annotated[str, Rule(check_name)] = ""
    additional_disks: Annotated[tuple[AdditionalDisk, ...], Rule(limit=MAX_DISKS)] = ()

    @property
    def is_spot(self) -> bool:
        """Whether Compute Engine may take its VMs back at any time."""
        return self.provisioning_model == SPOT

    @property
    def boot_snapshot(self) -> str:
        """The snapshot that the boot disk is made from; "" when it is made from an image."""
        return self.boot_snapshot_name or ("" if self._has_image else self.snapshot_name)

    @property
    def second_snapshot(self) -> str:
        """The snapshot that the second disk is made from, when it is named; "" when it is not."""
        return self.snapshot_name if self._has_image or self.boot_snapshot_name else ""

    @property
    def _has_image(self) -> bool:
        return bool(self.image_name or self.image_family)

    @property
    def sought_labels(self) -> Mapping[str, str]:
        """The labels by which the second disk's snapshot is found; {} when it is not found so."""
        return {} if self.snapshot_name else dict(self.snapshot_labels)

    @property
    def source_project(self) -> str:
        """The project that the boot disk's image or snapshot lives in."""
        return self.image_project or self.project


@cache
def template_rules() -> Mapping[str, Rule]:
    """The rule of every field of a template, by name, in their order."""
    hints = get_type_hints(TemplateConfig, include_extras=True)
    return {
        field.name: next(r for r in hints[field.name].__metadata__ if isinstance(r, Rule))
        for field in msgspec.structs.fields(TemplateConfig)
    }


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Other sizes at certain times. A size of None is the manager's own.

    Attributes:
        days: on which it begins, from 0 (Monday) to 6.
        start: when it begins, in minutes after midnight.
        end: when it ends, in the same; not after `start` on the next day.
        time_zone: its name in the IANA database.
    """

    days: tuple[int, ...]
    start: int
    end: int
    time_zone: str
    minimum_size: int | None = None
    maximum_size: int | None = None
    spare_size: int | None = None


class ManagerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many VMs of a template to keep in one zone, or in that and others together.

    Attributes:
        minimum_size: 0 for a group that is empty while nobody asks for a machine.
        maximum_size: old and new revision together; 0 for no limit.
        spare_size: machines to keep free; None for a tenth of the leased ones.
        surplus_seconds: how long a group must have too many machines until idle ones are removed;
            KEEP_SURPLUS for ever.
        schedules: other sizes at certain times; the last one in force decides.
        zones: those that share the sizes; () when this zone has them alone. There is one of
            these for each of them.
        max_surge: machines beyond what is needed during a roll-out; None is no limit.
        max_unavailable: machines by which the number to lease from may drop during a roll-out; None
            for the setting's.
        max_age_seconds: age at which a machine that nobody holds is replaced; 0 for never.
        boot_seconds: how long a machine may take to come up; KEEP_SLOW for ever.
    """

    template_base_name: str
    minimum_size: int = 0
    maximum_size: int = 0
    zone: str
    spare_size: int | None = None
    surplus_seconds: int = SURPLUS_SECONDS
    schedules: tuple[Schedule, ...] = ()
    zones: tuple[str, ...] = ()
    max_surge: int | None = None
    max_unavailable: int | None = None
    max_age_seconds: int = 0
    boot_seconds: int = BOOT_SECONDS


class Configuration(msgspec.Struct, frozen=True):
    """Everything that the operator asks for, valid as a whole, in the order of the files.

    Attributes:
        templates: the kinds of VMs.
        managers: how many, and where.
        warnings: what its authors may have meant otherwise.
    """

    templates: tuple[TemplateConfig, ...] = ()
    managers: tuple[ManagerConfig, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def minimum_total(self) -> int:
        """VMs to keep at all times, over all managers."""
        return sum(
            manager.minimum_size
            for manager in self.managers
            if not manager.zones or manager.zones[0] == manager.zone
        )


def checksum(template: TemplateConfig) -> str:
    """What makes a revision of a template: a digest of the fields that shape its VMs.

    Order counts only where it means something: which service account is first, and the order of
    additional disks. A field at its
    default counts as absent, so a field added later changes no checksum. The texts of
    metadata_from_file count, their paths do not. A snapshot to boot from counts as it did when it
    was named by snapshot_name, so moving it to boot_snapshot_name makes no revision.

    Returns:
        The SHA-1 of canonical JSON, 40 hexadecimal digits.
    """
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(TemplateConfig):
        value = getattr(template, field.name)
        if field.name in NO_REVISION or value == field.default:
            continue
        if field.name == "service_accounts":
            first, *rest = ([account.name, sorted(account.scopes)] for account in value)
            value = [first, *sorted(rest)]
        elif field.name == "additional_disks":
            value = [
                [disk.size_gb, disk.disk_type, sorted(disk.labels), disk.auto_delete]
                for disk in value
            ]
        elif isinstance(value, tuple):
            value = sorted(value)
        fields[field.name] = value
    if template.boot_snapshot_name and not {"snapshot_name", "snapshot_labels"} & fields.keys():
        fields["snapshot_name"] = fields.pop("boot_snapshot_name")
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha1(canonical.encode(), usedforsecurity=False).hexdigest()
