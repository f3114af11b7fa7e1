"""The machine types of today: each with the CPUs and the memory that Google's pages name."""

from __future__ import annotations

import pytest

from gce_backend.localcloud.compute.inventory import REGIONS, ZONES, machine_size
from localcloud.compute_world import world

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
        ("a3-ultragpu-8g", 224, 2952),
        ("a4-highgpu-8g", 224, 3968),
        ("a4x-highgpu-4g", 140, 884),
        ("c3-standard-88-lssd", 88, 352),
        ("c3d-highcpu-360", 360, 708),
        ("c4-highmem-2", 2, 15),
        ("c4-standard-288-metal", 288, 1080),
        ("c4d-highcpu-384", 384, 720),
        ("c4d-standard-384", 384, 1488),
        ("c4n-standard-192-lssd", 192, 720),
        ("g4-standard-6", 6, 22),
        ("h4d-standard-192", 192, 720),
        ("m2-hypermem-416", 416, 8832),
        ("m4-ultramem-224", 224, 5952),
        ("m4n-hypermem-16", 16, 248),
        ("n2-highmem-128", 128, 864),
        ("n4a-standard-64", 64, 256),
        ("n4a-custom-8-32768", 8, 32),
        ("x4-1920-32t-metal", 1920, 32768),
        ("z3-highmem-8-highlssd", 8, 64),
        ("z4d-highmem-384-standardlssd", 384, 3024),
        ("a3-ultragpu-8g-nolssd", 224, 2952),
        ("ct3p-hightpu-4t", 48, 340),
        ("ct5lp-hightpu-8t", 224, 384),
        ("ct5p-hightpu-4t", 208, 448),
        ("ct6e-standard-8t", 360, 1440),
        ("n1-ultramem-160", 160, 3844),
        ("tpu7x-standard-4t", 224, 960),
    ],
)
def test_line_18_a_machine_type_has_the_size_that_google_names(
    name: str, cpus: int, memory_gb: int
) -> None:
    """Of every family that Compute Engine offers, general, for memory, for accelerators."""
    size = machine_size(name)
    assert size is not None
    assert (size.cpus, size.memory_mb) == (cpus, memory_gb * GB)


@pytest.mark.parametrize(
    "name",
    [
        "a2-highgpu-3g",
        "m1-ultramem-41",
        "t2a-highmem-4",
        "z9-large-1",
        "e2-highmem-32",
        "c4d-*",
        "ct6e-standard-2t",
    ],
)
def test_other_names_are_no_machine_types(name: str) -> None:
    """Close to a type, but none."""
    assert machine_size(name) is None


def test_zones_are_those_of_todays_regions() -> None:
    """43 regions with three zones each, and one with a fourth; AI zones are left out."""
    assert len(REGIONS) == 43
    assert len(ZONES) == 43 * 3 + 1
    assert ZONES["asia-southeast3-c"] == "asia-southeast3"
    assert ZONES["northamerica-south1-a"] == "northamerica-south1"
    assert [zone[-1] for zone, region in ZONES.items() if region == "us-central1"] == list("abcf")
    assert "us-east1-a" not in ZONES
    assert list(ZONES) == sorted(ZONES)


async def test_googles_projects_list_their_image_families() -> None:
    """With architecture and size, also before any template names one."""
    async with world() as at:
        answer = await at.call("GET", "global/images", project="debian-cloud")
        families = {image["family"]: image for image in answer.body["items"]}
        assert families.keys() == {"debian-12", "debian-12-arm64", "debian-13", "debian-13-arm64"}
        assert families["debian-13-arm64"]["architecture"] == "ARM64"
