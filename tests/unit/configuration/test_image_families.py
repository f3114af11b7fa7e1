"""configuration.image_families: which image a family stands for, and which revision that makes."""

from __future__ import annotations

from gce_backend.configuration.image_families import families_of, family_of, resolved
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.types import checksum
from support.config_texts import template

FAMILY = template(image_name=None, image_family="debian-12", image_project="debian-cloud")
OWN = template(base_name="own", image_name=None, image_family="tools", snapshot_name="data")
NAMED = template(base_name="named")


def test_a_family_is_of_the_project_of_the_image() -> None:
    """Each family counts once; a template that names its image has none."""
    templates = parse(FAMILY + OWN + NAMED, "", {}).templates
    families = families_of((*templates, *templates))
    assert list(map(str, families)) == ["debian-cloud/debian-12", "my-project/tools"]
    assert family_of(templates[2]) is None
    assert (templates[1].boot_snapshot, templates[1].second_snapshot) == ("", "data")


def test_the_image_makes_the_revision_and_the_family_none() -> None:
    """Naming the image in place of its family, or back, replaces no machine."""
    configuration = parse(FAMILY + NAMED, "", {})
    first = resolved(configuration, {"debian-cloud/debian-12": "debian-12-v1"})
    second = resolved(configuration, {"debian-cloud/debian-12": "debian-12-v2"})
    pinned = parse(template(image_name="debian-12-v1", image_project="debian-cloud"), "", {})
    sums = [checksum(one.templates[0]) for one in (first, second, pinned)]
    assert sums[0] == sums[2] != sums[1]
    assert first.templates[1] == configuration.templates[1]
    assert resolved(configuration, {}).templates[0].image_name == ""
