"""rules.catalog_entry: a machine's dimensions and policies, from its template and its size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.machine_token import AGENT_ATTRIBUTE, ID_ATTRIBUTE, KEY_ATTRIBUTE
from gce_backend.rules.catalog_entry import Shape, custom_shape, dimensions, policies

PLAIN: dict[str, Any] = {"base_name": "linux", "project": "p", "machine_type": "e2-small"}
SHAPE = Shape(2, 2.0)


@pytest.mark.parametrize(
    ("machine_type", "shape"),
    [
        ("custom-8-16384", Shape(8, 16.0)),
        ("n2-custom-16-131072-ext", Shape(16, 128.0)),
        ("n1-custom-1-3840", Shape(1, 3.75)),
        ("e2-custom-micro-2048", None),
        ("e2-small", None),
        ("n2-standard-8", None),
        ("custom-8", None),
    ],
)
def test_the_size_of_a_custom_type_is_in_its_name(machine_type: str, shape: Shape | None) -> None:
    """That of any other is read from Compute."""
    assert custom_shape(machine_type) == shape


@given(st.integers(1, 999), st.integers(1, 10**7))
def test_any_custom_type_has_its_size(cpus: int, memory_mb: int) -> None:
    """CPUs and MiB, whatever the family."""
    for name in ("custom-{}-{}", "n2d-custom-{}-{}-ext"):
        assert custom_shape(name.format(cpus, memory_mb)) == Shape(cpus, memory_mb / 1024)


def test_hazard_14_a_machine_is_described_by_its_template_name_and_size() -> None:
    """The dimension is `disk_gb`; what is measured is never taken from the configuration."""
    template = TemplateConfig(
        **PLAIN, dimensions=(("os_family", "LINUX"), ("disk_gb", "7"), ("num_cpus", "99"))
    )
    assert dimensions(template, "linux-1", SHAPE, 20) == {
        "backend": "GCE",
        "project": "p",
        "hostname": "linux-1",
        "os_family": "LINUX",
        "disk_type": "HDD",
        "disk_gb": 20,
        "num_cpus": 2,
        "memory_gb": 2.0,
    }


@pytest.mark.parametrize(
    ("fields", "snapshot", "labels"),
    [
        ({"snapshot_name": "s"}, "s", None),
        ({"boot_snapshot_name": "b"}, "b", None),
        ({"boot_snapshot_name": "b", "snapshot_name": "s"}, "s", None),
        ({"snapshot_labels": (("age", "new"), ("of", "src"))}, None, ["age:new", "of:src"]),
        ({"dimensions": (("snapshot_labels", "age:new"),)}, None, ["age:new"]),
        ({}, None, None),
    ],
)
def test_a_snapshot_and_its_labels_are_dimensions(
    fields: dict[str, Any], snapshot: str | None, labels: list[str] | None
) -> None:
    """So that a lessee can ask for what is on the disk."""
    found = dimensions(TemplateConfig(**PLAIN, **fields), "linux-1", SHAPE, 20)
    assert found.get("snapshot") == snapshot
    assert found.get("snapshot_labels") == labels


@pytest.mark.parametrize("address", ["", "vm@hub.iam.gserviceaccount.com"])
@pytest.mark.parametrize("required", [False, True])
def test_messages_about_a_machine_carry_its_token_and_its_id(address: str, required: bool) -> None:
    """And a reclaimed machine is to be deleted. Its service account is the subscriber's."""
    found = policies(address, "token", 7, "hub", "topic", require_agent=required)
    agent = [{"key": AGENT_ATTRIBUTE, "value": "true"}] if required else []
    account = {"machine_service_account": address} if address else {}
    assert found == {
        "backend_project": "hub",
        "backend_topic": "topic",
        "backend_attributes": [
            {"key": KEY_ATTRIBUTE, "value": "token"},
            {"key": ID_ATTRIBUTE, "value": "7"},
            *agent,
        ],
        "on_reclamation": "DELETE",
        **account,
    }
