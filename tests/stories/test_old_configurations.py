"""Configurations of other releases and other rules, through the whole daemon."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import CONFIGURATION_KEY, StoredConfiguration
from support.fleet_harness import PROJECT, ZONE, World, manager, template, world


async def test_a_minimum_of_none_makes_an_empty_group_that_never_shrinks(tmp_path: Path) -> None:
    """It exists, holds what somebody adds to it, and goes when the manager does."""
    async with world(tmp_path, managers=manager(minimum=0)) as w:
        await w.pass_time(300.0)
        [(place, group)] = (await w.groups()).items()
        assert group["targetSize"] == 0
        name = place.partition("/")[2]
        await w.compute("POST", f"zones/{ZONE}/instanceGroupManagers/{name}/resize?size=2")
        await w.until_states(cataloged=2)
        await w.pass_time(600.0)
        assert await w.states() == {"cataloged": 2}
        w.write_config(template(), manager(minimum=3))
        await w.until_states(cataloged=3)
        w.write_config(template(), manager(minimum=0))
        await w.pass_time(600.0)
        assert await w.states() == {"cataloged": 3}


async def test_a_slip_is_used_and_shown(tmp_path: Path) -> None:
    """A manager of an unknown template is skipped; the page and the log say so."""
    async with world(tmp_path, managers=manager() + manager("nobody")) as w:
        await w.until_states(cataloged=3)
        (warning,) = (await w.get("/api/fleet"))["configuration"]["warnings"]
        assert "nobody" in warning
        assert "skipped" in warning
        assert (await w.get("/api/fleet"))["configuration"]["conditions"] == []


async def store_configuration(w: World, templates: str, managers: str) -> None:
    """What a daemon of an older release may have stored: its rules were others."""
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    try:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONFIGURATION_KEY])

        def apply(stored: StoredConfiguration | None) -> StoredConfiguration:
            return replace(
                stored or StoredConfiguration(),
                template_config=templates,
                manager_config=managers,
                revision="f" * 40,
            )

        await fleet.change([Change(CONFIGURATION_KEY, apply)])
    finally:
        await clients.close()


@pytest.mark.parametrize(
    "spoiled",
    [
        (template("one", image_name=""), manager("one")),
        (template("one"), manager("one", zone=f"us-central{'1' * 1590}-a")),
        (template("one") + template("one"), manager("one")),
    ],
    ids=["old-meaning", "long-zone", "twice"],
)
async def test_line_02_a_template_that_cannot_be_processed_stays_as_it_is_and_the_others_go_on(
    tmp_path: Path, spoiled: tuple[str, str]
) -> None:
    """It has a condition; nothing of it drains, because what it wants is not known."""
    both = manager("one") + manager("two")
    one = template("one", machine_type="e2-standard-2")
    one = one.replace("{", '{ alternative_machine_types: "n2-standard-2"', 1)
    async with world(tmp_path, templates=one + template("two"), managers=both) as w:
        await w.until_states(cataloged=6)
        before = {machine["name"] for machine in await w.machines("one")}
        (w.config_dir / "managers.cfg").unlink()
        templates, managers = spoiled
        await store_configuration(
            w, templates + template("two"), managers + manager("two", minimum=5)
        )
        await w.until_states(cataloged=8)
        await w.pass_time(300.0)
        assert {machine["name"] for machine in await w.machines("one")} == before
        assert await w.states("one") == {"cataloged": 3}
        fleet = await w.get("/api/fleet")
        states = {shown["base_name"]: shown["state"] for shown in fleet["templates"]}
        assert states == {"one": "active", "one-n2": "active", "two": "active"}
        found = [c for c in fleet["conditions"] if c["job"] == "process-config"]
        assert {c["reason"] for c in found} == {"InvalidConfiguration"}
        assert {c["subject"]["name"] for c in found} == {"one", "one-n2"}


@pytest.mark.parametrize(
    "templates",
    [
        'templates { base_name: "' + "a" * 10_000_000,
        template("x" * 90_000),
        template("tagged").replace("}\n", 'tags: "A"\n' * 5_000 + "}\n"),
        "x" * 90_000 + ': "y"',
    ],
    ids=["10 MB", "long-name", "many-problems", "long-word"],
)
async def test_line_04_a_monstrous_configuration_is_told_of_in_few_words(
    tmp_path: Path, templates: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log, in conditions, on pages and in documents; the machines stay."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        capsys.readouterr()
        w.write_config(templates, manager())
        await w.pass_time(180.0)
        conditions = (await w.get("/api/fleet"))["configuration"]["conditions"]
        assert len(conditions) == 1
        assert len(conditions[0]["message"]) < 2_000
        for path in ("/", "/configuration", "/jobs", "/api/fleet", "/api/status", "/api/jobs"):
            async with w.session.get(w.daemon.url + path) as response:
                assert len(await response.text()) < 60_000, path
        lines = "".join(capsys.readouterr()).splitlines()
        assert any("import-config" in line or "config.invalid" in line for line in lines)
        assert max(map(len, lines)) < 10_000
        assert await w.states() == {"cataloged": 3}
