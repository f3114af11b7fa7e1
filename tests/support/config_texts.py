"""Configurations for tests, as texts and as values.

Use it for a test of the configuration itself; `fleet_harness` has short ones for a fleet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf import text_encoding, text_format
from hypothesis import strategies as st

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError, Problem
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.types import (
    AdditionalDisk,
    Configuration,
    ServiceAccount,
    TemplateConfig,
)

CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ACCOUNT = f'service_accounts {{ name: "default" scopes: "{CLOUD_SCOPE}" }}'

Fields = Mapping[str, Any]
"""Values of fields, or lists of them; those of a message are mappings themselves."""

TEMPLATE: Fields = {
    "base_name": "linux",
    "project": "my-project",
    "machine_type": "e2-small",
    "image_name": "debian-12",
    "service_accounts": [ACCOUNT],
}
MANAGER: Fields = {
    "template_base_name": "linux",
    "minimum_size": 2,
    "maximum_size": 4,
    "zone": "us-central1-a",
}


def block(kind: str, fields: Fields, **changes: Any) -> str:
    """A block with one field a line, beginning on the second; None leaves a field out."""
    lines = [f"{kind} {{"]
    for name, value in {**fields, **changes}.items():
        values = value if isinstance(value, list | tuple) else [value]
        for item in values:
            if item is None:
                continue
            if name == "service_accounts":
                lines.append(f"  {item}")
            elif isinstance(item, Mapping):
                inner = block(name, item).splitlines()
                lines.append(f"  {' '.join(inner)}")
            elif isinstance(item, str):
                lines.append(f'  {name}: "{text_encoding.CEscape(item.encode(), as_utf8=False)}"')
            else:
                lines.append(f"  {name}: {str(item).lower()}")
    return "\n".join([*lines, "}", ""])


def template(**changes: Any) -> str:
    """A valid template with these fields changed."""
    return block("templates", TEMPLATE, **changes)


def manager(**changes: Any) -> str:
    """A valid manager with these fields changed."""
    return block("managers", MANAGER, **changes)


def problems_of(
    templates: str, managers: str = "", files: Mapping[str, str] | None = None
) -> list[Problem]:
    """What `parse` finds; nothing when it accepts."""
    found = outcome(templates, managers, files or {})
    return list(found.problems) if isinstance(found, InvalidConfigurationError) else []


def warnings_of(
    templates: str, managers: str = "", files: Mapping[str, str] | None = None
) -> list[Problem]:
    """What `parse` accepts, but finds odd."""
    return list(parse(templates, managers, files or {}).warnings)


def outcome(
    templates: str, managers: str, files: Mapping[str, str]
) -> Configuration | InvalidConfigurationError:
    """What `parse` returns, or raises on purpose."""
    try:
        return parse(templates, managers, files)
    except InvalidConfigurationError as error:
        return error


def account(name: str = "default", *scopes: str) -> str:
    """A service account's text."""
    return f'service_accounts {{ name: "{name}" {" ".join(f"scopes: {s!r}" for s in scopes)} }}'


FULL = TemplateConfig(
    base_name="full",
    project="example.com:my-project",
    dimensions=(("os_family", "LINUX"), ("linux_flavor", "UBUNTU")),
    disk_size_gb=50,
    service_accounts=(
        ServiceAccount("default", (CLOUD_SCOPE, "https://mail.google.com/")),
        ServiceAccount("a@example.com"),
        ServiceAccount("b@example.com"),
    ),
    tags=("one", "two"),
    metadata=(("url", "http://x"), ("empty", ""), ("startup-script", "#!/bin/sh\n")),
    machine_type="n2-custom-8-16384",
    image_project="other-project",
    network_url="regions/us-central1/subnetworks/s",
    auto_assign_external_ip=True,
    min_cpu_platform="Intel Skylake",
    metadata_from_file=(("startup-script", "scripts/a:b.sh"),),
    disk_type="pd-ssd",
    snapshot_name="snap",
    snapshot_labels=(("a", "b"), ("c", "")),
    boot_snapshot_name="boot-snap",
    provisioning_model="SPOT",
    canary=3,
    require_agent=True,
    alternative_machine_types=("n2d-custom-8-16384",),
    labels=(("team", "infra"), ("cost", "")),
    local_ssds=2,
    guest_accelerators=(("nvidia-tesla-t4", "1"),),
    secure_boot=True,
    confidential_type="SEV",
    reservation="held-for-us",
    resource_policies=("near", "nightly"),
    additional_disks=(
        AdditionalDisk(200, "pd-ssd", (("contents", "cache"),), auto_delete=False),
        AdditionalDisk(10),
    ),
)
"""Every field but image_name and image_family, which cannot be beside boot_snapshot_name."""


PAIRS = {"dimensions", "metadata_from_file", "snapshot_labels", "labels", "guest_accelerators"}
"""Fields of a template with keys and values."""


def printed(config: Configuration, *, one_line: bool = False) -> tuple[str, str]:
    """The two files of a configuration, as protobuf prints them."""
    templates = pb.InstanceTemplateConfig()
    for value in config.templates:
        message = templates.templates.add()
        from_file = {key for key, _ in value.metadata_from_file}
        for name, field in msgspec.structs.asdict(value).items():
            if name == "service_accounts":
                for a in field:
                    message.service_accounts.add(name=a.name, scopes=a.scopes)
            elif name == "additional_disks":
                for disk in field:
                    texts = [f"{key}:{text}" for key, text in disk.labels]
                    made = message.additional_disks.add(size_gb=disk.size_gb, labels=texts)
                    made.disk_type, made.auto_delete = disk.disk_type, disk.auto_delete
            elif name == "metadata":
                message.metadata.extend(f"{k}:{v}" for k, v in field if k not in from_file)
            elif name in PAIRS:
                getattr(message, name).extend(f"{key}:{text}" for key, text in field)
            elif name in {"tags", "alternative_machine_types", "resource_policies"}:
                getattr(message, name).extend(field)
            elif name == "canary" and field is not None:
                message.canary = field
            elif field:
                setattr(message, name, field)
    managers = pb.InstanceGroupManagerConfig()
    for item in config.managers:
        managers.managers.add(**msgspec.structs.asdict(item))
    return (
        text_format.MessageToString(templates, as_one_line=one_line),
        text_format.MessageToString(managers, as_one_line=one_line),
    )


names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
label_pairs = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True),
    st.from_regex(r"[a-z0-9_-]{0,10}", fullmatch=True),
    max_size=3,
).map(lambda pairs: tuple(pairs.items()))
templates_strategy = st.builds(
    TemplateConfig,
    base_name=names,
    project=names,
    dimensions=st.dictionaries(
        st.just("os_version"), st.from_regex(r"[!-~]{1,99}", fullmatch=True)
    ).map(lambda pairs: tuple(pairs.items())),
    image_name=names,
    disk_size_gb=st.integers(10, 65536) | st.just(0),
    service_accounts=st.lists(
        st.builds(
            ServiceAccount,
            names.map(lambda name: f"{name}@example.com"),
            st.lists(names.map(lambda n: f"https://example.com/{n}"), unique=True, max_size=3).map(
                tuple
            ),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda a: a.name,
    ).map(tuple),
    tags=st.lists(names, unique=True, max_size=4).map(tuple),
    metadata=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True),
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
        max_size=4,
    ).map(lambda pairs: tuple(pairs.items())),
    machine_type=st.sampled_from(["e2-small", "n2-custom-2-2048"]),
    image_project=names | st.just(""),
    auto_assign_external_ip=st.booleans(),
    disk_type=st.sampled_from(["", "pd-ssd", "hyperdisk-balanced"]),
    snapshot_name=names | st.just(""),
    snapshot_labels=label_pairs,
    additional_disks=st.lists(
        st.builds(
            AdditionalDisk, st.integers(10, 65536), st.sampled_from(["", "pd-ssd"]), label_pairs
        ),
        max_size=2,
    ).map(tuple),
)
