"""configuration.alternatives: which templates they are, and that they change with their own."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings

from gce_backend.configuration.alternatives import kinds_of, series_and_size
from gce_backend.configuration.naming import MAX_BASE_NAME_LENGTH
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.types import NO_REVISION, TemplateConfig, checksum
from gce_backend.rules.activation import wanted_templates
from support.config_texts import manager, problems_of, template, templates_strategy

TYPES = ["n2-standard-4", "n1-standard-4"]
PREFERRED = "e2-standard-4"


def test_each_alternative_is_a_template_of_its_own_in_the_same_pool() -> None:
    """The preferred one alone has a minimum; a manager of one zone becomes a pool of one."""
    text = template(machine_type=PREFERRED, alternative_machine_types=TYPES)
    wanted = wanted_templates(parse(text, manager(spare_size=1), {}), 0.0)
    assert {name: one.template.machine_type for name, one in wanted.items()} == {
        "linux": PREFERRED,
        "linux-n2": TYPES[0],
        "linux-n1": TYPES[1],
    }
    sizes = {}
    for name, one in wanted.items():
        [asked] = one.managers
        assert asked.pool is not None
        assert (asked.pool.zones, asked.pool.kinds) == (("us-central1-a",), tuple(wanted))
        sizes[name] = asked.minimum_size, asked.maximum_size, asked.spare_size
    assert sizes == {"linux": (2, 4, 1), "linux-n2": (0, 4, 0), "linux-n1": (0, 4, 0)}


@settings(max_examples=20)
@given(value=templates_strategy)
def test_every_change_of_a_template_is_one_of_its_alternatives(value: TemplateConfig) -> None:
    """So that one roll-out replaces them together; adding one replaces nothing."""
    asked = {"machine_type": PREFERRED, "alternative_machine_types": tuple(TYPES)}
    first = kinds_of(msgspec.structs.replace(value, **asked))
    assert len({kind.checksum for kind in first}) == 3
    assert first[0].checksum == checksum(msgspec.structs.replace(value, machine_type=PREFERRED))
    changed = {**asked, "disk_size_gb": value.disk_size_gb + 1}
    other = kinds_of(msgspec.structs.replace(value, **changed))
    assert not {kind.checksum for kind in first} & {kind.checksum for kind in other}
    fewer = msgspec.structs.replace(value, **{**asked, "alternative_machine_types": (TYPES[1],)})
    assert {kind.checksum for kind in kinds_of(fewer)} < {kind.checksum for kind in first}
    assert "alternative_machine_types" in NO_REVISION


@pytest.mark.parametrize(
    ("machine_type", "parts"),
    [
        ("n2-standard-4", ("n2", "standard-4")),
        ("custom-4-8192", ("n1", "custom-4-8192")),
        ("n2d-custom-4-8192", ("n2d", "custom-4-8192")),
    ],
)
def test_a_machine_type_has_a_series_and_a_size(machine_type: str, parts: tuple[str, str]) -> None:
    """The first custom types are of the first series."""
    assert series_and_size(machine_type) == parts


@pytest.mark.parametrize(
    ("types", "name", "complaint"),
    [
        (["n2-standard-8"], "linux", '"n2-standard-8" is not of the size of machine_type'),
        (["e2-standard-4"], "linux", '"e2" is a series that is named already'),
        (["n2-standard-4"], "l" * MAX_BASE_NAME_LENGTH, "makes a template with this name"),
        (["not a type"], "linux", "is not a machine type"),
        (["n2-standard-4"], "taken", 'makes a template "taken-n2", and another one'),
        ([f"n{number}-standard-4" for number in range(6)], "linux", "use at most 5"),
    ],
)
def test_alternatives_of_another_size_or_without_a_name_are_refused(
    types: list[str], name: str, complaint: str
) -> None:
    """A request must fit each of them, and each needs a name of its own."""
    asked = template(base_name=name, machine_type=PREFERRED, alternative_machine_types=types)
    found = problems_of(asked + template(base_name="taken-n2"), manager(template_base_name=name))
    assert any(complaint in str(problem) for problem in found), found
