"""rules.strays: which resource an entity adopts, and what becomes of the entities."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import (
    Entity,
    InFlight,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import Key, manager_key
from gce_backend.rules.compute_bodies import group_name_of, template_name_of
from gce_backend.rules.ownership import Mark, description_of
from gce_backend.rules.strays import Marked, adopting, generation_of, marked

OURS = Mark("o", "0123456789ab")
GROUP = manager_key("linux", "0f" * 20, "us-central1-a")
REVISION, TEMPLATE = GROUP.revision, GROUP.template
PROJECT = "p"
MADE = description_of(OURS, REVISION)
FIELDS = TemplateConfig(base_name="linux", project=PROJECT, machine_type="e2-small")
INSERT = InFlight("insert", "id", 1.0, 3)


def group(number: int) -> Marked:
    """A group at Compute, with what its name says."""
    return Marked(GROUP, PROJECT, group_name_of(GROUP, number), 7, number)


def manager(generation: int = 0, **fields: Any) -> InstanceGroupManager:
    """An entity without a group."""
    return replace(InstanceGroupManager(minimum_size=3, generation=generation), **fields)


@pytest.mark.parametrize(
    ("name", "description", "number"),
    [
        (group_name_of(GROUP, 0), MADE, 0),
        (group_name_of(GROUP, 1), MADE, 1),
        (group_name_of(GROUP, 999), MADE, 999),
        (group_name_of(GROUP, 1000), MADE, 1000),
        (group_name_of(GROUP, 1001), MADE, 1),
        (group_name_of(GROUP, 0) + "-g01", MADE, None),
        (group_name_of(GROUP, 0) + "-g1000", MADE, None),
        (group_name_of(GROUP, 0) + "x", MADE, None),
        ("x" + group_name_of(GROUP, 0), MADE, None),
        ("-g1", MADE, None),
        ("by-hand", MADE, None),
        (group_name_of(GROUP, 0), "", None),
        (group_name_of(GROUP, 0), MADE.replace("0f0f", "0F0f"), None),
        (group_name_of(GROUP, 0), MADE.replace("0f0f ", "0f "), None),
        (group_name_of(GROUP, 0), description_of(Mark("o"), REVISION), None),
        (group_name_of(GROUP, 0), description_of(Mark("p", OURS.store), REVISION), None),
        (group_name_of(GROUP, 0), description_of(Mark("o", "ba9876543210"), REVISION), None),
        (group_name_of(manager_key("linux", "0f" * 20, "us-central1-b"), 0), MADE, None),
    ],
)
def test_a_group_is_known_by_its_mark_and_its_name(
    name: str, description: str, number: int | None
) -> None:
    """It names this very store and a checksum, and has a name of some generation."""
    found = marked(name, description, OURS, project=PROJECT, zone=GROUP.zone, gce_id=7)
    assert found == (None if number is None else Marked(GROUP, PROJECT, name, 7, number))


def test_a_template_is_known_by_its_mark_and_its_name() -> None:
    """A group's name is no template's."""
    name = template_name_of(REVISION, 2)
    found = marked(name, MADE, OURS, project=PROJECT, zone="", gce_id=7)
    assert found == Marked(REVISION, PROJECT, name, 7, 2)
    group_s = group_name_of(GROUP, 2)
    assert marked(group_s, MADE, OURS, project=PROJECT, zone="", gce_id=7) is None


def test_a_store_without_an_id_knows_nothing_as_its_own() -> None:
    """What names no store may be another's."""
    none = Mark("o")
    made = description_of(none, REVISION)
    name = group_name_of(GROUP, 0)
    assert marked(name, made, none, project=PROJECT, zone=GROUP.zone, gce_id=7) is None


@pytest.mark.parametrize(
    ("number", "entity", "generation"),
    [
        (0, None, 0),
        (7, None, 7),
        (1000, None, 1000),
        (0, manager(), 0),
        (7, manager(), 7),
        (999, manager(), 999),
        (1000, manager(), 1000),
        (7, manager(url="u"), None),
        (7, manager(7), 7),
        (9, manager(7), 9),
        (6, manager(7), None),
        (0, manager(1), None),
        (506, manager(7), 506),
        (507, manager(7), None),
        (1, manager(999), 1001),
        (1000, manager(999), 1000),
        (3, manager(1002), 1003),
        (0, manager(1000), None),
        (0, manager(in_flight=INSERT), None),
        (7, manager(7, in_flight=INSERT), None),
        (8, manager(7, in_flight=INSERT), 8),
    ],
)
def test_an_entity_adopts_no_generation_that_was_given_up(
    number: int, entity: InstanceGroupManager | None, generation: int | None
) -> None:
    """Nor what is being made for it just now; the names of generations are used again in time."""
    assert generation_of(group(number), entity) == generation


def _entities(
    template: InstanceTemplate | None = None,
    revision: InstanceTemplateRevision | None = None,
    manager: InstanceGroupManager | None = None,
) -> dict[Key, Entity]:
    every = {TEMPLATE: template, REVISION: revision, GROUP: manager}
    return {key: entity for key, entity in every.items() if entity is not None}


LINK: dict[str, Any] = {"url": "u", "gce_id": 7, "generation": 2}
DRAINED = InstanceTemplateRevision(
    template=TemplateConfig(base_name="linux", project=PROJECT), drained=(GROUP.zone,)
)
NAMED = InstanceTemplateRevision(template=FIELDS, active=(GROUP.zone,))
LEFT = InstanceTemplate(drained=(REVISION.checksum,))
IN_USE = InstanceTemplate(active=REVISION.checksum)
OTHERS = InstanceTemplate(active="b", drained=("c",))


@pytest.mark.parametrize(
    ("before", "news"),
    [
        ({}, _entities(LEFT, DRAINED, manager(minimum_size=0, **LINK))),
        (
            _entities(OTHERS),
            _entities(
                replace(OTHERS, drained=(REVISION.checksum, "c")),
                DRAINED,
                manager(minimum_size=0, **LINK),
            ),
        ),
        (
            _entities(LEFT, replace(NAMED, active=(), drained=("z",))),
            _entities(
                None,
                replace(NAMED, active=(), drained=(GROUP.zone, "z")),
                manager(minimum_size=0, **LINK),
            ),
        ),
        (
            _entities(IN_USE, NAMED, manager(1, in_flight=INSERT, resize=INSERT)),
            _entities(None, None, manager(**LINK)),
        ),
        (_entities(IN_USE, None, manager()), {}),
        (_entities(IN_USE, NAMED, manager(url="other")), {}),
        (_entities(IN_USE, NAMED, manager(3)), {}),
        (_entities(IN_USE, replace(NAMED, template=replace(FIELDS, project="q")), manager()), {}),
    ],
)
def test_a_group_is_tracked_again_and_drains_unless_it_is_named(
    before: dict[Key, Entity], news: dict[Key, Entity]
) -> None:
    """A second time changes nothing."""
    assert adopting(group(2), "u", before) == news
    assert adopting(group(2), "u", {**before, **news}) == {}


@pytest.mark.parametrize(
    ("before", "news"),
    [
        ({}, _entities(LEFT, replace(DRAINED, drained=(), **LINK))),
        (_entities(IN_USE, NAMED), _entities(None, replace(NAMED, **LINK))),
        (_entities(LEFT, DRAINED), _entities(None, replace(DRAINED, **LINK))),
        (_entities(IN_USE, replace(NAMED, url="other")), {}),
        (_entities(IN_USE), {}),
    ],
)
def test_a_template_is_tracked_again_and_deleted_unless_it_is_named(
    before: dict[Key, Entity], news: dict[Key, Entity]
) -> None:
    """A second time changes nothing."""
    found = Marked(REVISION, PROJECT, template_name_of(REVISION, 2), 7, 2)
    assert adopting(found, "u", before) == news
    assert adopting(found, "u", {**before, **news}) == {}
