"""What a single value of the configuration may be.

Every check takes a value and returns what is wrong with it and what to do, or None. Patterns
and limits are those of Compute Engine's API and its documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gce_backend.configuration.naming import MAX_BASE_NAME_LENGTH

Check = Callable[[Any], str | None]

MAX_GROUP_SIZE: Final = 2_000
"""VMs in a zonal group whose members are listed in pages, as ours are."""
SURPLUS_SECONDS: Final = 900
"""Seconds for which a group has too many VMs until idle ones are removed, by default."""
MAX_SURPLUS_SECONDS: Final = 365 * 24 * 3600
LEAST_AGE_SECONDS: Final = 600
MAX_AGE_SECONDS: Final = 10 * 365 * 24 * 3600
BOOT_SECONDS: Final = 600
"""Seconds that a machine may take to come up, by default."""
KEEP_SLOW: Final = -1
"""In place of these seconds: a machine that does not come up is kept."""
LEAST_BOOT_SECONDS: Final = 60
MAX_BOOT_SECONDS: Final = 24 * 3600
MAX_SCHEDULES: Final = 50
MAX_ZONES: Final = 20
"""Zones that share sizes."""
KEEP_SURPLUS: Final = -1
"""In place of seconds: no VM is removed because there are too many."""

SPOT: Final = "SPOT"
"""The provisioning model of VMs that Compute Engine may take back."""

MAX_PROJECT: Final = 100
"""Characters in a project's id with its domain."""
MIN_DISK_GB: Final = 10
MAX_DISK_GB: Final = 65_536
MAX_TAGS: Final = 64
MAX_LABELS: Final = 64
MAX_OWN_LABELS: Final = 59
"""Labels of a template: a VM has 64, of which the daemon's own are four."""
OWN_LABELS: Final = "gce-backend"
"""What the daemon's own labels begin with."""
MAX_ACCELERATORS: Final = 4
MAX_LOCAL_SSDS: Final = 24
MAX_POLICIES: Final = 10
MAX_DISKS: Final = 16
"""Additional disks of a template."""
MAX_DIMENSIONS: Final = 64
MAX_ACCOUNTS: Final = 16
MAX_ALTERNATIVES: Final = 5
"""Machine types that a template may have beside its first."""
MAX_SCOPES: Final = 100
MAX_FILES: Final = 100
"""Files that one configuration may name: each is fetched on its own."""
MAX_WORD: Final = 256
"""Characters in a value that has no shorter bound: a scope, a path, a dimension."""
MAX_METADATA_VALUE: Final = 256 * 1024
"""Bytes in one metadata value."""
RESERVED_METADATA: Final = 4 * 1024
"""Bytes left for what a VM's group and the Machine Provider's messages add to its metadata."""
MAX_METADATA_TOTAL: Final = 512 * 1024 - RESERVED_METADATA
"""Bytes in a template's metadata, keys and values: Compute Engine takes 512 KiB for a VM."""

DISK_TYPES: Final = {
    "pd-standard": "HDD",
    "pd-balanced": "SSD",
    "pd-ssd": "SSD",
    "pd-extreme": "SSD",
    "hyperdisk-balanced": "SSD",
    "hyperdisk-balanced-high-availability": "SSD",
    "hyperdisk-extreme": "SSD",
}
"""Types that a boot disk may have, and what the Machine Provider calls their kind."""

SCOPE_ALIASES: Final = {
    "bigquery": "bigquery",
    "cloud-platform": "cloud-platform",
    "cloud-source-repos": "source.full_control",
    "cloud-source-repos-ro": "source.read_only",
    "compute-ro": "compute.readonly",
    "compute-rw": "compute",
    "datastore": "datastore",
    "logging-write": "logging.write",
    "monitoring": "monitoring",
    "monitoring-read": "monitoring.read",
    "monitoring-write": "monitoring.write",
    "pubsub": "pubsub",
    "service-control": "servicecontrol",
    "service-management": "service.management.readonly",
    "sql-admin": "sqlservice.admin",
    "storage-full": "devstorage.full_control",
    "storage-ro": "devstorage.read_only",
    "storage-rw": "devstorage.read_write",
    "taskqueue": "taskqueue",
    "trace": "trace.append",
    "userinfo-email": "userinfo.email",
}
"""gcloud's short names of scopes, and the ends of the full URLs that they abbreviate."""

_SCOPE_ROOT = "https://www.googleapis.com/auth/"

SHOWN_CHARACTERS: Final = 80
"""Characters of a value that a message quotes; twice as many where they are escaped."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# The pattern that Compute's discovery document gives for the parameter `project`, without numbers.
_PROJECT = re.compile(
    r"(([-a-z0-9]{1,63}\.)*([a-z]([-a-z0-9]{0,61}[a-z0-9])?):)?[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
)
_ZONE = re.compile(r"[a-z]{1,24}-[a-z]{1,24}[0-9]{1,3}-[a-z][a-z0-9]{0,9}")
_MACHINE_TYPE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
_CUSTOM_MACHINE_TYPE = re.compile(
    r"([a-z][a-z0-9]*-)?custom-([1-9][0-9]{0,3}|micro|small|medium)-(?P<mb>[1-9][0-9]{0,8})(-ext)?"
)
_ACCOUNT = re.compile(r"default|[A-Za-z0-9][A-Za-z0-9._%+-]{0,127}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_SCOPE = re.compile(r"https://[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._~%/-]*)?")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_UNPRINTED = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_CPU_PLATFORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()/-]{0,62}")
_NETWORK = re.compile(
    r"""
    (https://(www|compute)\.googleapis\.com/compute/(v1|beta)/)?
    (projects/(?P<project>[^/]+)/)?
    (global/networks|regions/(?P<region>[a-z]{1,24}-[a-z]{1,24}[0-9]{1,3})/subnetworks)/(?P<name>[^/]+)
    """,
    re.VERBOSE,
)


def shorten(text: str, length: int) -> str:
    """The text, cut to this many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def quote(value: str) -> str:
    """The value in quotation marks, on one line, shortened when it is long."""
    shown = json.dumps(shorten(value, SHOWN_CHARACTERS + 1), ensure_ascii=False)
    return shorten(one_line(shown), 2 * SHOWN_CHARACTERS)


def one_line(text: str) -> str:
    """The text with everything that does not print (line breaks too) written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def split_pair(text: str) -> tuple[str, str] | None:
    """`key:value`, split at the first colon; None without a key or a colon."""
    key, colon, value = text.partition(":")
    return (key, value) if key and colon else None


def _like(pattern: re.Pattern[str], what: str, most: int = MAX_WORD) -> Check:
    """Checks that a text matches a pattern; says otherwise that it is not `what`."""
    return lambda value: (
        None if len(value) <= most and pattern.fullmatch(value) else f"{quote(value)} is not {what}"
    )


check_name = _like(
    _NAME,
    "a name: use at most 63 lower-case letters, digits and dashes, beginning with a letter and not "
    "ending with a dash",
)
"""A resource's name (RFC 1035)."""


def check_base_name(value: str) -> str | None:
    """A template's base name: the beginning of longer names."""
    if complaint := check_name(value):
        return complaint
    if len(value) > MAX_BASE_NAME_LENGTH:
        return (
            f"{quote(value)} has {len(value)} characters: use at most {MAX_BASE_NAME_LENGTH}, "
            "because checksum and zone are appended to name groups and VMs"
        )
    return None


check_project = _like(
    _PROJECT, "a project id: use the id, not the project's number or title", MAX_PROJECT
)
"""A project's id, also with a domain (`example.com:project`)."""


def minutes_of(text: str) -> int | None:
    """Minutes after midnight of a time as `HH:MM`, to 24:00; None when it is none."""
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00", text, re.ASCII)
    if match is None:
        return None
    return 24 * 60 if match[1] is None else 60 * int(match[1]) + int(match[2])


@lru_cache(maxsize=512)
def time_zone(name: str) -> ZoneInfo | None:
    """A time zone of the IANA database; None when it has none of that name."""
    if not re.fullmatch(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*", name, re.ASCII):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return None


check_zone = _like(_ZONE, 'a zone: use its name alone, e.g. "us-central1-a"')
"""A zone's name."""


def zone_region(zone: str) -> str:
    """The region that a zone is in: its name without the last part."""
    return zone.rpartition("-")[0]


def check_machine_type(value: str) -> str | None:
    """A machine type's name, predefined or custom."""
    if not _MACHINE_TYPE.fullmatch(value) or len(value) > 63:
        return f'{quote(value)} is not a machine type: use its name alone, e.g. "e2-small"'
    if "custom" not in value.split("-"):
        return None
    custom = _CUSTOM_MACHINE_TYPE.fullmatch(value)
    if not custom:
        return (
            f"{quote(value)} is not a custom machine type: write [series-]custom-CPUS-MB[-ext], "
            'e.g. "n2-custom-4-8192"'
        )
    if int(custom["mb"]) % 256:
        return f"{quote(value)} has {custom['mb']} MB of memory: use a multiple of 256"
    return None


def check_provisioning_model(value: str) -> str | None:
    """Whether Compute Engine may take the VMs back."""
    return None if not value or value == SPOT else f"{quote(value)} is not one of STANDARD, {SPOT}"


def normal_provisioning_model(value: str) -> str:
    """A provisioning model; "" for the usual one."""
    return "" if value == "STANDARD" else value


def check_canary(value: int) -> str | None:
    """A number of machines that prove a revision."""
    if 0 <= value <= MAX_GROUP_SIZE:
        return None
    return f"{value} is not a number of machines: use 0 to {MAX_GROUP_SIZE}"


def check_disk_size(value: int) -> str | None:
    """A boot disk's size in GB; 0 is the size of its source."""
    if value == 0 or MIN_DISK_GB <= value <= MAX_DISK_GB:
        return None
    return (
        f"{value} is not a size for a boot disk: use {MIN_DISK_GB} to {MAX_DISK_GB}, or leave it "
        "out for the size of the image or snapshot"
    )


def check_disk_type(value: str) -> str | None:
    """A boot disk's type."""
    if value in DISK_TYPES:
        return None
    return f"{quote(value)} is not one of {', '.join(DISK_TYPES)}"


def disk_kind(disk_type: str) -> str:
    """The Machine Provider's `disk_type` for a boot disk: HDD or SSD.

    Args:
        disk_type: one of DISK_TYPES, or "" for Compute Engine's default.
    """
    return DISK_TYPES.get(disk_type, "HDD")


def full_network(value: str) -> str:
    """A network in one of the forms that `check_network` takes, made from shorter and older ones.

    `lab` and `networks/lab` are `global/networks/lab`; a link of plain HTTP is one of HTTPS.
    """
    if value.startswith("http://"):
        return value.replace("http://", "https://", 1)
    name = value.removeprefix("networks/")
    return f"global/networks/{name}" if value and "/" not in name else value


def check_network(value: str) -> str | None:
    """A link to a network or subnetwork, full or partial."""
    match = _NETWORK.fullmatch(value)
    if (
        match
        and not check_name(match["name"])
        and not (match["project"] and check_project(match["project"]))
    ):
        return None
    return (
        f"{quote(value)} is not a network: write its name, [projects/P/]global/networks/N or "
        "[projects/P/]regions/R/subnetworks/N, as a partial link or as a full one of "
        "https://compute.googleapis.com/compute/v1/"
    )


class NetworkLink(NamedTuple):
    """What a link to a network or subnetwork names.

    Attributes:
        project: None for that of whoever uses the link.
        region: a subnetwork's; None of a network, which is everywhere.
        name: its name.
    """

    project: str | None
    region: str | None
    name: str


def network_link(network_url: str) -> NetworkLink | None:
    """The parts of a link that `check_network` takes; None of any other text."""
    match = _NETWORK.fullmatch(network_url)
    return NetworkLink(match["project"], match["region"], match["name"]) if match else None


check_cpu_platform = _like(_CPU_PLATFORM, 'a CPU platform: use a name such as "Intel Skylake"')
"""A CPU platform's name."""


check_account = _like(_ACCOUNT, 'a service account: use its email address, or "default"')
"""A service account's email address, or `default`."""


def full_scope(value: str) -> str:
    """An OAuth scope's URL, also for gcloud's short names."""
    return _SCOPE_ROOT + SCOPE_ALIASES[value] if value in SCOPE_ALIASES else value


check_scope = _like(
    _SCOPE,
    f'a scope: use the full URL, e.g. "{_SCOPE_ROOT}cloud-platform", or gcloud\'s short name, e.g. '
    '"cloud-platform"',
)
"""An OAuth scope's URL."""


def check_metadata_value(value: str) -> str | None:
    """A metadata value's characters."""
    found = _UNPRINTED.search(value)
    if found is None:
        return None
    return (
        f"holds the control character {one_line(found[0])}, which metadata cannot carry: remove it"
    )


check_metadata_key = _like(
    _METADATA_KEY, "a metadata key: use at most 128 letters, digits, dashes and _"
)
"""A metadata key."""


def check_label(value: str) -> str | None:
    """A label as `key:value`."""
    pair = split_pair(value)
    if pair and _LABEL_KEY.fullmatch(pair[0]) and _LABEL_VALUE.fullmatch(pair[1]):
        return None
    return (
        f'{quote(value)} is not a label: write "key:value", each of at most 63 lower-case letters, '
        "digits, dashes and _, the key beginning with a letter"
    )


def check_additional_size(value: int) -> str | None:
    """An additional disk's size in GB."""
    if MIN_DISK_GB <= value <= MAX_DISK_GB:
        return None
    return f"{value} is not a size for a disk: use {MIN_DISK_GB} to {MAX_DISK_GB}"


def check_own_label(value: str) -> str | None:
    """A label of a template as `key:value`."""
    if value.startswith(OWN_LABELS):
        return f"{quote(value)} begins with {OWN_LABELS}, as the daemon's own labels do: rename it"
    return check_label(value)


def check_accelerator(value: str) -> str | None:
    """An accelerator's type and number as `type:count`."""
    pair = split_pair(value)
    if pair and not check_name(pair[0]) and re.fullmatch(r"[1-9]|1[0-6]", pair[1], re.ASCII):
        return None
    return f'{quote(value)} is not an accelerator: write "type:count", e.g. "nvidia-tesla-t4:1"'


def check_local_ssds(value: int) -> str | None:
    """A number of local SSDs."""
    if 0 <= value <= MAX_LOCAL_SSDS:
        return None
    return f"{value} is not a number of local SSDs: use 1 to {MAX_LOCAL_SSDS}"


def check_confidential_type(value: str) -> str | None:
    """A technology that encrypts a VM's memory."""
    kinds = ("SEV", "SEV_SNP", "TDX")
    return None if value in kinds else f"{quote(value)} is not one of {', '.join(kinds)}"


def check_file_path(value: str) -> str | None:
    """The path of a file inside the config set."""
    parts = value.split("/")
    if len(value) > MAX_WORD:
        return f"{quote(value)} is too long for a path: use at most {MAX_WORD} characters"
    if "\\" not in value and value.isprintable() and not {"", ".", ".."}.intersection(parts):
        return None
    return (
        f"{quote(value)} is not a path in the config set: write it relative to templates.cfg, with "
        'slashes and without ".", ".." or a slash at the ends'
    )


def _one_of(*names: str) -> Check:
    return lambda value: (
        None if value in names else f"{quote(value)} is not one of {', '.join(names)}"
    )


_positive_integer = _like(re.compile(r"[1-9][0-9]{0,8}"), "a positive integer")


_positive_number = _like(re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?"), "a number")


def _some_text(value: str) -> str | None:
    if len(value) > MAX_WORD:
        return f"{quote(value)} is too long: use at most {MAX_WORD} characters"
    return None if value.isprintable() else f"{quote(value)} is not a value: write a word"


DIMENSIONS: Final[dict[str, Check]] = {
    "backend": _one_of("DUMMY", "GCE", "VSPHERE"),
    "disk_gb": _positive_integer,
    "disk_type": _one_of("HDD", "SSD"),
    "hostname": _some_text,
    "linux_flavor": _one_of("DEBIAN", "UBUNTU"),
    "memory_gb": _positive_number,
    "num_cpus": _positive_integer,
    "os_family": _one_of("LINUX", "OSX", "WINDOWS"),
    "os_version": _some_text,
    "project": check_project,
    "snapshot": _some_text,
    "snapshot_labels": check_label,
}
"""The Machine Provider's dimensions, with the values that it takes."""

MEASURED_DIMENSIONS: Final = {
    "hostname": "every VM has its own",
    "memory_gb": "it is read from the machine type",
    "num_cpus": "it is read from the machine type",
}
"""Dimensions that only the daemon knows, and why."""


def check_dimension(key: str, value: str, extra: Collection[str]) -> str | None:
    """A dimension that the Machine Provider takes.

    Args:
        key: which one.
        value: what a template says of it.
        extra: what this Machine Provider takes besides: `key` for any value, or `key:value`.
    """
    if key in extra or f"{key}:{value}" in extra:
        return None if (complaint := _some_text(value)) is None else f"{key}: {complaint}"
    remedy = "correct it, or allow it with the setting machine_provider.extra_dimensions"
    if key not in DIMENSIONS:
        return f"{quote(key)} is not one of {', '.join(DIMENSIONS)}: {remedy}"
    if (complaint := DIMENSIONS[key](value)) is None:
        return None
    return f"{key}: {complaint}: {remedy}"
