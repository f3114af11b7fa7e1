"""What `plan` says is what the daemon then does."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.cli.comparison import compare
from gce_backend.cli.plan_text import Document
from gce_backend.configuration.types import NO_REVISION, ServiceAccount, TemplateConfig, checksum
from gce_backend.model.entities import (
    CatalogState,
    InFlight,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    Lease,
)
from gce_backend.model.keys import GroupKey, Key, manager_key, revision_key, template_key
from gce_backend.rules.activation import WantedManager, WantedTemplate
from gce_backend.rules.plan import Action, Present, TemplatePlan, differences, make, totals
from support.config_texts import FULL
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

NOW = 1_800_000_000.0


def fields(**changed: Any) -> TemplateConfig:
    """A template's fields."""
    plain = TemplateConfig(base_name="linux", project="p", machine_type="e2-small")
    return msgspec.structs.replace(plain, **changed)


def goal(*managers: WantedManager, **changed: Any) -> dict[str, WantedTemplate]:
    """A configuration of one template."""
    wanted = fields(**changed)
    return {"linux": WantedTemplate(checksum(wanted), wanted, managers)}


def settled(minimum: int = 3, maximum: int = 0, **machines: Instance) -> Present:
    """A fleet of one template with one group, as large as its minimum."""
    revision = checksum(fields())
    group = manager_key("linux", revision, ZONE)
    return Present(
        entities={
            template_key("linux"): InstanceTemplate(active=revision),
            revision_key("linux", revision): InstanceTemplateRevision(
                fields(), active=(ZONE,), url="u"
            ),
            group: InstanceGroupManager(minimum, maximum, url="u"),
        },
        machines={group: list(machines.items())},
        sizes={group: minimum},
        now=NOW,
    )


def actions(plans: tuple[TemplatePlan, ...]) -> list[tuple[str, str, int]]:
    """Each group's action, zone and goal."""
    return [(one.action.value, one.zone, one.goal) for plan in plans for one in plan.groups]


def test_a_fleet_as_wanted_has_no_plan() -> None:
    """Nothing is told of what stays."""
    assert make(goal(WantedManager(ZONE, 3, 0)), settled()) == ()


def test_another_machine_type_makes_a_group_beside_the_old_one() -> None:
    """The new group is created, the old one drained, and the field is told."""
    (plan,) = plans = make(goal(WantedManager(ZONE, 3, 0), machine_type="e2-medium"), settled())
    assert plan.action is Action.CHANGE
    assert [(one.name, one.before, one.after) for one in plan.fields] == [
        ("machine_type", "e2-small", "e2-medium")
    ]
    assert sorted(actions(plans)) == [("create", ZONE, 3), ("drain", ZONE, 0)]
    assert sorted(one.action.value for one in plan.templates) == ["create", "delete"]
    assert not any(one.under_way for one in plan.groups)


def test_a_maximum_that_has_no_room_for_both_is_told() -> None:
    """As many at first as fit beside the old ones."""
    wanted = goal(WantedManager(ZONE, 3, 4), machine_type="e2-medium")
    (plan,) = make(wanted, settled(maximum=4))
    (new,) = [one for one in plan.groups if one.action is Action.CREATE]
    assert (new.goal, new.at_first) == (3, 1)


@pytest.mark.parametrize(
    ("minimum", "maximum", "action", "after"),
    [(5, 0, "resize", 5), (2, 0, "shrink", 2), (3, 9, "change", 3)],
)
def test_other_limits_raise_a_group_and_take_its_idle_machines(
    minimum: int, maximum: int, action: str, after: int
) -> None:
    """A lowered minimum removes what it makes too many."""
    plans = make(goal(WantedManager(ZONE, minimum, maximum)), settled())
    assert actions(plans) == [(action, ZONE, after)]
    assert totals(plans).resize_machines == max(0, minimum - 3)


def test_what_is_taken_out_names_the_leases_that_it_waits_for() -> None:
    """Only leases that run; the end is that of the last one."""
    present = settled(
        a=Instance(catalog=CatalogState.CATALOGED, lease=Lease(1.0, NOW + 60)),
        b=Instance(catalog=CatalogState.CATALOGED, lease=Lease(1.0, NOW - 60)),
        c=Instance(lease=Lease(1.0, NOW + 90)),
    )
    (plan,) = plans = make({}, present)
    (group,) = plan.groups
    assert (plan.action, group.action, group.machines) == (
        Action.DELETE,
        Action.DRAIN,
        ("a", "b", "c"),
    )
    assert [(one.name, one.until) for one in group.held] == [("a", NOW + 60), ("c", NOW + 90)]
    found = totals(plans)
    assert (found.drain_machines, found.leased, found.leased_until) == (3, 2, NOW + 90)


def test_a_lease_without_a_known_end_leaves_the_end_open() -> None:
    """Nobody is told an hour at which it is not over."""
    present = settled(a=Instance(lease=Lease(1.0, NOW + 60)), b=Instance(lease=Lease(1.0)))
    assert totals(make({}, present)).leased_until is None


def test_a_group_that_somebody_deleted_is_created_again() -> None:
    """It is in the store and not at Compute."""
    present = msgspec.structs.replace(settled(), sizes={})
    plans = make(goal(WantedManager(ZONE, 3, 0)), present)
    assert actions(plans) == [("create", ZONE, 3)]
    step = plans[0].groups[0]
    assert (step.in_force, step.under_way) == (True, False)


def test_what_is_refused_again_and_again_is_not_under_way() -> None:
    """A zone that does not exist: the configuration asks for it, and nothing has begun."""
    present = msgspec.structs.replace(settled(), sizes={})
    wanted = goal(WantedManager(ZONE, 3, 0))
    assert not make(wanted, present)[0].groups[0].under_way
    key = manager_key("linux", checksum(fields()), ZONE)
    manager = present.entities[key]
    assert isinstance(manager, InstanceGroupManager)
    begun = msgspec.structs.replace(manager, in_flight=InFlight("insert", "id", NOW))
    present = msgspec.structs.replace(present, entities={**present.entities, key: begun})
    assert make(wanted, present)[0].groups[0].under_way


def test_what_drains_and_is_named_again_stays() -> None:
    """A configuration that was taken back."""
    revision = checksum(fields())
    drained: dict[Key, Any] = {
        **settled().entities,
        template_key("linux"): InstanceTemplate(active=None, drained=(revision,)),
        revision_key("linux", revision): InstanceTemplateRevision(
            fields(), drained=(ZONE,), url="u"
        ),
    }
    present = msgspec.structs.replace(settled(), entities=drained)
    assert actions(make(goal(WantedManager(ZONE, 3, 0)), present)) == [("keep", ZONE, 3)]
    (plan,) = make({}, present)
    assert [(one.action, one.under_way) for one in plan.groups] == [(Action.DRAIN, True)]
    paused = msgspec.structs.replace(present, is_paused=lambda _: True)
    (plan,) = make({}, paused)
    assert [(one.in_force, one.under_way) for one in plan.groups] == [(True, False)]


def test_fields_are_compared_by_meaning() -> None:
    """Order makes no difference but for the first account; files count by their texts."""
    before = fields(
        tags=("a", "b"),
        dimensions=(("os_family", "LINUX"), ("snapshot_labels", "x")),
        metadata=(("k", "v"), ("gone", "1")),
        service_accounts=(ServiceAccount("one", ("s", "t")), ServiceAccount("two")),
    )
    after = fields(
        tags=("b", "a"),
        dimensions=(("snapshot_labels", "x"), ("os_family", "LINUX")),
        metadata=(("k", "w"),),
        metadata_from_file=(("k", "path"),),
        service_accounts=(ServiceAccount("two"), ServiceAccount("one", ("t", "s"))),
    )
    assert [(one.name, one.before, one.after) for one in differences(before, after)] == [
        ("metadata.gone", "1", None),
        ("metadata.k", "v", "w"),
        ("service_accounts[0]", "one", "two"),
    ]
    assert differences(after, after) == ()


def test_every_field_that_makes_a_revision_is_told() -> None:
    """Of whatever type: those of lists by their keys, or all in one text."""
    told = {one.name: one.after for one in differences(None, FULL)}
    names = {name.partition(".")[0].partition("[")[0] for name in told}
    given = {one.name for one in msgspec.structs.fields(FULL) if getattr(FULL, one.name)}
    assert names == given - NO_REVISION
    assert told["resource_policies"] == "near, nightly"


def test_a_plan_of_ten_thousand_machines_takes_no_time() -> None:
    """Two hundred groups of fifty, all of them replaced: well below a second."""
    entities: dict[Key, Any] = {}
    machines: dict[GroupKey, list[tuple[str, Instance]]] = {}
    wanted = {}
    for number in range(50):
        name = f"t{number:02}"
        old, new = fields(base_name=name), fields(base_name=name, machine_type="e2-medium")
        revision, zones = checksum(old), [f"zone{zone}-a" for zone in range(4)]
        entities[template_key(name)] = InstanceTemplate(active=revision)
        entities[revision_key(name, revision)] = InstanceTemplateRevision(
            old, active=tuple(zones), url="u"
        )
        for zone in zones:
            group = manager_key(name, revision, zone)
            entities[group] = InstanceGroupManager(50, url="u")
            machines[group] = [(f"{name}-{zone}-{at}", Instance(gce_id=at)) for at in range(50)]
        limits = tuple(WantedManager(zone, 50, 0) for zone in zones)
        wanted[name] = WantedTemplate(checksum(new), new, limits)
    sizes = dict.fromkeys(machines, 50)
    begun = time.process_time()
    plans = make(wanted, Present(entities=entities, machines=machines, sizes=sizes, now=NOW))
    taken = time.process_time() - begun
    found = totals(plans)
    assert (found.create, found.drain, found.drain_machines) == (200, 200, 10_000)
    assert taken < 1.0


class Seen(msgspec.Struct, frozen=True):
    """What exists at Compute: groups with their sizes, VMs, instance templates."""

    groups: dict[str, int]
    vms: set[str]
    templates: set[str]


async def look(w: World) -> Seen:
    """What exists now."""
    compute = (await w.cloud_state())["compute"]["projects"].get("local-project", {})
    return Seen(
        {name.rpartition("/")[2]: one["targetSize"] for name, one in compute["groups"].items()},
        set(compute["instances"]),
        set(compute["instanceTemplates"]),
    )


def some_configuration(rng: random.Random) -> tuple[str, str]:
    """A configuration of up to two templates in up to two zones."""
    templates, managers = "", ""
    for name in rng.sample(["one", "two"], rng.randint(1, 2)):
        templates += template(name, machine_type=rng.choice(["e2-small", "e2-medium"]))
        for zone in rng.sample([ZONE, OTHER_ZONE], rng.randint(1, 2)):
            minimum = rng.randint(1, 3)
            maximum = rng.choice([None, minimum, minimum + 1])
            managers += manager(name, zone, minimum, maximum)
    return templates, managers


async def apply(w: World, document: Document) -> None:
    """Lets the configuration come into force, and waits until nothing is left to do."""

    async def done() -> bool:
        waits = (await w.get("/api/control")).get("held_revision")
        if document.held and waits == document.revision:
            assert await w.act("/api/approve", {"revision": waits}) == 200
        now = await compare(w.settings, None)
        return now.in_force == document.revision and not now.changes

    await w.until(done, within=1800, every=20.0)


@pytest.mark.parametrize("seed", range(2))
async def test_the_daemon_does_what_the_plan_said(tmp_path: Path, seed: int) -> None:
    """Any sequence of configurations: created, drained, resized and deleted are as foretold."""
    rng = random.Random(seed)
    proposed = tmp_path / "proposed"
    proposed.mkdir()
    first, second = some_configuration(rng)
    async with world(tmp_path, templates=first, managers=second) as w:
        await apply(w, await compare(w.settings, None))
        for _ in range(3):
            texts = some_configuration(rng)
            for name, text in zip(("templates.cfg", "managers.cfg"), texts, strict=True):
                (proposed / name).write_text(text)
            before = await look(w)
            document = await compare(w.settings, proposed)
            assert await look(w) == before
            w.write_config(*texts)
            await apply(w, document)
            after = await look(w)
            steps = [group for plan in document.templates for group in plan.groups]
            leaving = {one.name for one in steps if one.action in {Action.DRAIN, Action.DELETE}}
            expected = {name: size for name, size in before.groups.items() if name not in leaving}
            expected |= {one.name: one.goal for one in steps if one.name not in leaving}
            assert after.groups == expected
            created = {one.name for one in steps if one.action is Action.CREATE}
            assert created == after.groups.keys() - before.groups.keys()
            gone, named = before.vms - after.vms, {name for one in steps for name in one.machines}
            shrunk = [one for one in steps if one.action in {Action.SHRINK, Action.KEEP}]
            assert named <= gone
            assert len(gone - named) == sum((one.size or 0) - one.goal for one in shrunk)
            made = {
                (step.action, step.name) for plan in document.templates for step in plan.templates
            }
            assert made == {
                (Action.CREATE, name) for name in after.templates - before.templates
            } | {(Action.DELETE, name) for name in before.templates - after.templates}
