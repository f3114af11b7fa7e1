"""The machine types of today: each with the CPUs and the memory that Google's pages name."""

from __future__ import annotations

import pytest

from gce_backend.localcloud.compute.inventory import machine_size

GB = 1024


@pytest.mark.parametrize(
    ("name", "cpus", "memory_gb"),
    [
        ("a2-highgpu-4g", 48, 340),
        ("a2-megagpu-16g", 96, 1360),
        ("a2-ultragpu-8g", 96, 1360),
        ("a3-highgpu-8g", 208, 1872),
        ("a3-megagpu-8g", 208, 1872),
        ("c2-standard-60", 60, 240),
        ("c2d-highcpu-112", 112, 224),
        ("c3-highmem-176", 176, 1408),
        ("c3d-standard-360", 360, 1440),
        ("c4-standard-4", 4, 15),
        ("c4a-highmem-72", 72, 576),
        ("e2-standard-8", 8, 32),
        ("g2-standard-48", 48, 192),
        ("h3-standard-88", 88, 352),
        ("m1-ultramem-40", 40, 961),
        ("m2-ultramem-416", 416, 11776),
        ("m3-megamem-128", 128, 1952),
        ("n1-standard-96", 96, 360),
        ("n2d-standard-224", 224, 896),
        ("n4-highcpu-80", 80, 160),
        ("n4d-standard-96", 96, 384),
        ("t2a-standard-48", 48, 192),
        ("t2d-standard-60", 60, 240),
        ("z3-highmem-88", 88, 704),
    ],
)
def test_a_machine_type_has_the_size_that_google_names(
    name: str, cpus: int, memory_gb: int
) -> None:
    """Of every family that Compute Engine offers, general, for memory, for accelerators."""
    size = machine_size(name)
    assert size is not None
    assert (size.cpus, size.memory_mb) == (cpus, memory_gb * GB)


@pytest.mark.parametrize("name", ["a2-highgpu-3g", "m1-ultramem-41", "t2a-highmem-4", "z9-large-1"])
def test_other_names_are_no_machine_types(name: str) -> None:
    """Close to a type, but none."""
    assert machine_size(name) is None
