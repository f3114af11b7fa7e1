"""process-config's decision: any sequence of configurations leads to consistent entities."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import (
    EarlierRevision,
    Entity,
    InFlight,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import Key, manager_key, revision_key, template_key
from gce_backend.model.orders import Undone
from gce_backend.rules.activation import (
    UnreadEntityError,
    WantedManager,
    WantedTemplate,
    entities_of,
    outdated,
    plan_template,
    with_undone,
)

BASE = "linux"
FIELDS: TemplateConfig = parse(
    'templates { base_name: "linux" project: "local-project" machine_type: "e2-small" '
    'image_name: "debian-12" disk_size_gb: 20 dimensions: "os_family:LINUX" '
    'service_accounts { name: "default" } }',
    "",
    {},
).templates[0]
ROOT = template_key(BASE)

Entities = dict[Key, Entity]


def wanted(checksum: str, **sizes: int) -> WantedTemplate:
    """What a configuration says; zones are one letter, their minimum the value."""
    managers = tuple(WantedManager(zone, size, 2 * size) for zone, size in sizes.items())
    return WantedTemplate(checksum, FIELDS, managers)


WANTED = st.none() | st.builds(
    lambda checksum, sizes: wanted(checksum, **sizes),
    st.sampled_from(["r1", "r2", "r3"]),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
)


def processed(entities: Entities, goal: WantedTemplate | None) -> Entities:
    """The entities after process-config has seen a configuration."""
    keys: set[Key] = set()
    while True:
        try:
            found = {key: entities[key] for key in keys if key in entities}
            return entities | plan_template(BASE, goal, found, keys)
        except UnreadEntityError as error:
            keys |= set(error.keys)


def after(*goals: WantedTemplate | None) -> Entities:
    """The entities after a sequence of configurations."""
    entities: Entities = {}
    for goal in goals:
        entities = processed(entities, goal)
    return entities


def template(entities: Entities) -> InstanceTemplate:
    """The template's entity."""
    found = entities[ROOT]
    assert isinstance(found, InstanceTemplate)
    return found


def revision(entities: Entities, name: str) -> InstanceTemplateRevision:
    """A revision's entity."""
    found = entities[revision_key(BASE, name)]
    assert isinstance(found, InstanceTemplateRevision)
    return found


def manager(entities: Entities, name: str, zone: str) -> InstanceGroupManager:
    """A manager's entity."""
    found = entities[manager_key(BASE, name, zone)]
    assert isinstance(found, InstanceGroupManager)
    return found


def check(entities: Entities, goal: WantedTemplate | None) -> None:
    """Every entity is listed by its parent exactly once, and what is active is what is wanted."""
    if not entities:
        assert goal is None
        return
    root = template(entities)
    assert root.active == (goal.checksum if goal else None)
    names = [*([root.active] if root.active else []), *root.drained]
    assert len(names) == len(set(names))
    kinds = {InstanceTemplateRevision.KIND: set(names), InstanceGroupManager.KIND: set()}
    assert {key.name for key in entities if key.kind == InstanceTemplateRevision.KIND} == set(names)
    for name in names:
        found = revision(entities, name)
        zones = [*found.active, *found.drained]
        assert len(zones) == len(set(zones))
        kinds[InstanceGroupManager.KIND] |= {f"{name}/{zone}" for zone in zones}
        sizes = {m.zone: m for m in goal.managers} if goal and name == goal.checksum else {}
        assert set(found.active) == set(sizes)
        for zone, size in sizes.items():
            there = manager(entities, name, zone)
            assert (there.minimum_size, there.maximum_size) == (
                size.minimum_size,
                size.maximum_size,
            )
    managers = {
        f"{key.parent.name}/{key.name}"
        for key in entities
        if key.kind == InstanceGroupManager.KIND and key.parent
    }
    assert managers == kinds[InstanceGroupManager.KIND]


@given(goals=st.lists(WANTED, max_size=8))
def test_any_sequence_of_configurations_leads_to_consistent_entities(
    goals: list[WantedTemplate | None],
) -> None:
    """Nothing is lost from sight, nothing is active that is not named, and repeats do nothing."""
    entities: Entities = {}
    for goal in goals:
        before = entities
        entities = processed(entities, goal)
        assert before.keys() <= entities.keys()
        check(entities, goal)
        assert processed(entities, goal) == entities


@given(goals=st.lists(WANTED, min_size=1, max_size=6))
def test_what_other_jobs_wrote_is_kept(goals: list[WantedTemplate | None]) -> None:
    """Links and work in flight survive every change of the configuration."""
    flight = InFlight("insert", "id", 1.0, 3)
    entities: Entities = {}
    for goal in goals:
        for key, entity in entities.items():
            if isinstance(entity, InstanceTemplateRevision | InstanceGroupManager):
                news = msgspec.structs.replace(entity, url=f"link of {key}", in_flight=flight)
                entities[key] = news
        known = set(entities)
        entities = processed(entities, goal)
        for key in known - {ROOT}:
            entity = entities[key]
            assert isinstance(entity, InstanceTemplateRevision | InstanceGroupManager)
            assert (entity.url, entity.in_flight) == (f"link of {key}", flight)


def test_new_fields_drain_the_old_revision_with_all_its_zones() -> None:
    """The new revision is active beside it."""
    entities = after(wanted("r1", a=1, b=2), wanted("r2", a=1))
    before = EarlierRevision("r1", FIELDS)
    assert template(entities) == InstanceTemplate("r2", ("r1",), before)
    assert revision(entities, "r1").active == ()
    assert revision(entities, "r1").drained == ("a", "b")
    assert revision(entities, "r2").active == ("a",)


def test_going_back_reactivates_the_earlier_revision() -> None:
    """Nothing is made twice: the same entities change sides."""
    entities = after(wanted("r1", a=1), wanted("r2", a=1), wanted("r1", a=1))
    before = EarlierRevision("r2", FIELDS)
    assert template(entities) == InstanceTemplate("r1", ("r2",), before)
    assert revision(entities, "r1").active == ("a",)
    assert revision(entities, "r2").drained == ("a",)


def test_zone_drains_and_comes_back_with_new_sizes() -> None:
    """The other zones are not touched."""
    entities = after(wanted("r1", a=1, b=2), wanted("r1", b=2))
    assert (revision(entities, "r1").active, revision(entities, "r1").drained) == (("b",), ("a",))
    entities = processed(entities, wanted("r1", a=5, b=2))
    assert revision(entities, "r1").drained == ()
    assert manager(entities, "r1", "a") == InstanceGroupManager(minimum_size=5, maximum_size=10)


def test_hazard_07_template_that_vanished_from_the_configuration_drains() -> None:
    """All of it, and it is not forgotten."""
    entities = after(wanted("r1", a=1), None)
    assert template(entities) == InstanceTemplate(active=None, drained=("r1",))
    assert revision(entities, "r1").drained == ("a",)


@pytest.mark.parametrize("goals", [[None], [wanted("r1")], [wanted("r1", a=1), wanted("r1")]])
def test_hazard_21_template_without_managers_and_first_import_do_no_harm(
    goals: list[WantedTemplate | None],
) -> None:
    """It has a revision, and no zone is active."""
    entities = after(*goals)
    check(entities, goals[-1])
    if goals[-1] is not None:
        assert revision(entities, "r1").active == ()


def test_decision_is_refused_on_half_of_the_picture() -> None:
    """What was not read is asked for, never taken to be absent."""
    entities = after(wanted("r1", a=1))
    with pytest.raises(UnreadEntityError) as caught:
        plan_template(BASE, None, {ROOT: entities[ROOT]}, {ROOT})
    assert caught.value.keys == (revision_key(BASE, "r1"),)
    known = dict(entities)
    assert entities_of(BASE, None, known) == set(entities)


UNDONE = (Undone(BASE, "r2", "r1"),)


def test_an_undone_revision_gives_way_to_the_one_before_with_the_managers_of_now() -> None:
    """Its fields are known also when its entity is gone."""
    old, new = wanted("r1", a=1), wanted("r2", a=2, b=3)
    old = msgspec.structs.replace(old, template=msgspec.structs.replace(FIELDS, tags=("old",)))
    entities = after(old, new)
    without = {key: one for key, one in entities.items() if key != revision_key(BASE, "r1")}
    for known in (entities, without):
        goal = with_undone({BASE: new}, UNDONE, known.get)[BASE]
        assert (goal.checksum, goal.template) == ("r1", old.template)
        assert goal.managers == new.managers
        undone = processed(known, goal)
        assert template(undone).active == "r1"
        again = with_undone({BASE: new}, UNDONE, undone.get)[BASE]
        assert processed(undone, again) == undone
        assert template(processed(undone, new)).active == "r2"


def test_a_revision_stays_undone_only_while_the_configuration_describes_it() -> None:
    """Another one, or none, ends that; a configuration that cannot be read does not."""
    entities = after(wanted("r1", a=1), wanted("r2", a=1))
    newer = {BASE: wanted("r3", a=1)}
    assert with_undone(newer, UNDONE, entities.get) == newer
    assert outdated(UNDONE, newer, ()) == outdated(UNDONE, {}, ()) == frozenset(UNDONE)
    assert not outdated(UNDONE, {BASE: wanted("r2", a=1)}, ())
    assert not outdated(UNDONE, {}, {BASE})
    assert with_undone({BASE: wanted("r2")}, UNDONE, lambda _: None) == {BASE: wanted("r2")}


@given(goals=st.lists(WANTED, max_size=6))
def test_the_revision_before_is_the_last_other_one(goals: list[WantedTemplate | None]) -> None:
    """Through any sequence of configurations that describe the template."""
    described = [goal for goal in goals if goal is not None]
    names: list[str] = []
    for goal in described:
        if names[-1:] != [goal.checksum]:
            names.append(goal.checksum)
    entities = after(*described)
    before = template(entities).previous if described else None
    assert (before.checksum if before else None) == (names[-2] if len(names) > 1 else None)
