"""import-config: what may become the configuration, what is held, and what is refused."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from gce_backend.clients.config_source import ConfigBundle, DirectorySource
from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import CONFIGURATION_KEY, StoredConfiguration
from gce_backend.settings.settings import (
    ConfigSettings,
    DeletionSettings,
    FetchSettings,
    Settings,
)
from support.approving import approve
from support.crashing import OneBlow
from support.every_field import (
    EVERY_FIELD,
    ONE_OF_EACH,
    instance_template,
    write_script,
)
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world
from support.fleet_views import condition, has_condition
from support.templates_gone import nothing_left_of

TWO_ZONES = manager(minimum=2) + manager(zone=OTHER_ZONE, minimum=2)
OTHER_TEMPLATE = template("other")
TWO = template("one") + template("two")
FORGETFUL = Settings(deletion=DeletionSettings(tombstone_seconds=30.0, window_seconds=30.0))
"""Deleted machines are not remembered for an hour: what becomes of a template is seen soon."""


async def held(w: World) -> dict[str, Any] | None:
    """The condition that holds a configuration, as /api/fleet shows it."""
    shown = (await w.get("/api/fleet")).get("configuration", {})  # nothing while it starts
    conditions = shown.get("conditions", ())
    return next((c for c in conditions if c["reason"] == "HeldForApproval"), None)


async def is_held(w: World) -> bool:
    """Whether a configuration is held."""
    return await held(w) is not None


async def is_free(w: World) -> bool:
    """Whether none is."""
    return await held(w) is None


async def metric(w: World) -> float:
    """The metric that an alert watches."""
    async with w.session.get(f"{w.daemon.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(
        next(line for line in lines if "config_held" in line and line[0] != "#").split()[1]
    )


async def assert_nothing_happens(w: World, seconds: float = 300.0) -> None:
    """The fleet is as it was, for as long as nobody says a word."""
    vms, catalog = await w.vms(), await w.catalog()
    await w.reset_calls()
    await w.pass_time(seconds)
    assert (await w.vms(), await w.catalog()) == (vms, catalog)
    calls = await w.calls()
    assert calls["machine_provider.catalog.delete_machine"] == 0
    assert calls["compute.instanceGroupManagers.deleteInstances"] == 0


@pytest.mark.parametrize(
    ("templates", "managers"),
    [
        pytest.param(template(), "", id="no managers"),
        pytest.param("", "", id="nothing at all"),
        pytest.param(template(), manager(zone="us-central1-b"), id="all in another zone"),
        pytest.param(
            OTHER_TEMPLATE, manager("other", minimum=4), id="as many, but none of the old ones"
        ),
    ],
)
async def test_what_takes_most_away_is_held_until_it_is_approved(
    tmp_path: Path, templates: str, managers: str
) -> None:
    """Reason and remedy are shown, the metric is up, nothing drains; afterwards all of it does."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.write_config(templates, managers)
        await w.until(lambda: is_held(w))
        await assert_nothing_happens(w)
        found = await held(w)
        assert found is not None
        revision = found["message"].split()[1]
        assert f"gce-backend approve {revision}" in found["message"]
        assert "of 4 machines" in found["message"]
        assert await metric(w) == 1
        assert await w.act("/api/approve", {"revision": revision}) == 200

        async def drained() -> bool:
            return len(old & (await w.vms()).keys()) == (2 if "minimum_size: 1" in managers else 0)

        await w.until(drained)
        assert await is_free(w)
        assert await metric(w) == 0


async def test_half_of_the_fleet_may_go_without_a_word(tmp_path: Path) -> None:
    """The setting's default share: one zone of two."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        w.write_config(template(), manager(minimum=2))
        await w.until_states(cataloged=2)
        assert {vm["zone"] for vm in (await w.vms()).values()} == {ZONE}
        assert await is_free(w)


async def test_new_revision_of_the_whole_fleet_is_no_loss(tmp_path: Path) -> None:
    """Every machine is replaced, and none is taken away: nobody needs to be asked."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), TWO_ZONES)

        async def rolled() -> bool:
            return not old & (await w.vms()).keys()

        await w.until(rolled)
        assert await is_free(w)


async def test_restart_does_not_let_a_held_configuration_in(tmp_path: Path) -> None:
    """The last good one is stored; the held one is held again."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        w.write_config(template(), "")
        await w.until(lambda: is_held(w))
        await w.restart_daemon()
        await w.until(lambda: is_held(w))
        await assert_nothing_happens(w)
        await w.until_states(cataloged=4)


async def test_configuration_that_is_taken_back_is_not_held_any_more(tmp_path: Path) -> None:
    """The condition and the metric end with the mistake."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        w.write_config(template(), "")
        await w.until(lambda: is_held(w))
        w.write_config(template(), TWO_ZONES)
        await w.until(lambda: is_free(w))
        assert await metric(w) == 0
        await assert_nothing_happens(w, 60.0)


async def test_file_that_is_missing_or_cut_is_no_configuration(tmp_path: Path) -> None:
    """An absent managers.cfg says nothing, and half a file is invalid: the last good one stays."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=4)
        path = w.config_dir / "managers.cfg"
        path.unlink()
        await assert_nothing_happens(w, 120.0)
        path.write_text(TWO_ZONES[: len(TWO_ZONES) // 4])
        await assert_nothing_happens(w, 120.0)
        path.write_text(TWO_ZONES)
        await assert_nothing_happens(w, 60.0)
        assert await is_free(w)


async def test_files_of_two_revisions_are_never_mixed(tmp_path: Path) -> None:
    """LUCI Config v2: whoever writes between the two readings is waited for, not half believed."""
    # Mixed, the new template would be without managers, and the old manager without a template.
    async with world(tmp_path, managers=TWO_ZONES, start=False) as w:
        source = ConfigSettings(source="luci-v2")
        w.settings = msgspec.structs.replace(w.settings, config=source)
        await w.start_daemon()
        await w.until_states(cataloged=4)
        await w.inject("luci_config.Configs.GetConfig", kind="latency", seconds=1.0, times=None)

        async def keep_writing() -> None:
            for number in range(240):
                templates = template() + template("other") * (number % 2)
                managers = TWO_ZONES + manager("other", minimum=1) * (number % 2)
                w.write_config(f"# {number}\n{templates}", f"# {number}\n{managers}")
                await asyncio.sleep(0.5)

        writing = asyncio.create_task(keep_writing())
        await assert_nothing_happens(w, 110.0)
        assert await w.fired() > 4
        conditions = (await w.get("/api/fleet"))["configuration"]["conditions"]
        assert "InvalidConfiguration" not in {c["reason"] for c in conditions}
        await writing
        w.write_config(template() + template("other"), TWO_ZONES + manager("other", minimum=1))
        await w.until_states(cataloged=5)


async def test_import_config(tmp_path: Path) -> None:
    """What the spec says of import-config.

    "When a new config is detected, the local copy of the config in the datastore
    is updated."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = (await w.get("/api/fleet"))["configuration"]["revision"]
        w.write_config(template() + "# nothing but a comment\n", manager())

        async def is_new() -> bool:
            return bool((await w.get("/api/fleet"))["configuration"]["revision"] != before)

        await w.until(is_new, within=60)
        path = [{"kind": "Configuration", "name": "singleton"}]
        key = {"partitionId": {"projectId": PROJECT}, "path": path}
        answer = await w.call("POST", f"/v1/projects/{PROJECT}:lookup", {"keys": [key]})
        stored = answer["found"][0]["entity"]["properties"]["template_config"]["stringValue"]
        assert stored == (w.config_dir / "templates.cfg").read_text()


async def test_a_configuration_that_takes_most_away_waits_for_an_operator(tmp_path: Path) -> None:
    """Held, shown with the command that approves it, and done once it is approved."""
    both = manager("one", minimum=1) + manager("two", minimum=5)
    async with world(tmp_path, templates=TWO, managers=both, settings=FORGETFUL) as w:
        await w.until_states(cataloged=6)
        before = await w.vms()
        w.write_config(template("one"), manager("one", minimum=1))
        await w.until(has_condition(w, "configuration", "HeldForApproval"))
        await w.pass_time(300.0)
        assert await w.vms() == before
        assert (await w.states()) == {"cataloged": 6}
        held = await condition(w, "configuration")
        assert held is not None
        revision = held["message"].split()[1]
        assert f"gce-backend approve {revision}" in held["message"]
        await approve(w, revision)
        await w.until(lambda: nothing_left_of(w, "two"), every=5.0)
        assert (await w.states()) == {"cataloged": 1}
        assert await condition(w, "configuration") is None


async def test_an_approval_of_one_configuration_does_not_approve_the_next(tmp_path: Path) -> None:
    """An operator's word is for the revision that was looked at."""
    both = manager("one", minimum=2) + manager("two", minimum=3)
    async with world(tmp_path, templates=TWO, managers=both) as w:
        await w.until_states(cataloged=5)
        w.write_config(TWO, manager("one", minimum=2))
        await w.until(has_condition(w, "configuration", "HeldForApproval"))
        await approve(w, "0123456789")
        await w.pass_time(120.0)
        assert await has_condition(w, "configuration", "HeldForApproval")()
        fleet = await w.get("/api/fleet")
        minimums = {
            group["minimum_size"]
            for shown in fleet["templates"]
            for revision in shown["revisions"]
            for group in revision["managers"]
        }
        assert minimums == {2, 3}


async def test_a_slip_whose_machines_never_existed_is_corrected_at_once(tmp_path: Path) -> None:
    """What counts is what would be deleted: `plan` and the guard agree, and nobody is asked."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        w.write_config(template(), manager(minimum=150))
        await w.until(lambda: w.shows_minimum(150))
        w.write_config(template(), manager(minimum=3))
        await w.until(lambda: w.shows_minimum(3), within=60.0)
        assert await condition(w, "configuration") is None


async def test_hole_15_an_approval_is_for_one_import(tmp_path: Path) -> None:
    """A directory's revisions are its contents: what was approved once waits the second time."""
    async with world(tmp_path, settings=FORGETFUL) as w:
        await w.until_states(cataloged=3)
        w.write_config(template(), "")
        await w.until(has_condition(w, "configuration", "HeldForApproval"))
        held = await condition(w, "configuration")
        assert held is not None
        revision = held["message"].split()[1]
        assert await w.act("/api/approve", {"revision": revision}) == 200
        await w.until(w.has_no_vms)
        assert (await w.get("/api/control"))["approved_revision"] is None
        w.write_config(template(), manager())
        await w.until_states(cataloged=3)
        w.write_config(template(), "")
        await w.until(has_condition(w, "configuration", "HeldForApproval"))
        await w.pass_time(300.0)
        assert await w.states() == {"cataloged": 3}
        told = [event["reason"] for event in (await w.get("/api/events?kind=control"))["events"]]
        assert told == [f"Revision {revision} of the configuration was approved."]


@pytest.mark.parametrize("at", range(1, 6))
async def test_hole_15_a_crash_around_the_approved_import_uses_it_up_once(
    tmp_path: Path, at: int
) -> None:
    """Whichever call was the daemon's last, and lost its answer: it is imported, and no more."""
    async with world(tmp_path, settings=FORGETFUL) as w:
        await w.until_states(cataloged=3)
        w.write_config(template(), "")
        await w.until(has_condition(w, "configuration", "HeldForApproval"))
        held = await condition(w, "configuration")
        assert held is not None
        approval = 1
        w.cloud.faults = faults = OneBlow(approval + at, "after", only="!", deadly=True)
        await approve(w, held["message"].split()[1])
        await asyncio.wait_for(faults.struck.wait(), 120)
        await w.crash_daemon()
        faults.dead = False
        await w.start_daemon()
        await w.until(w.has_no_vms)
        assert (await w.get("/api/control"))["approved_revision"] is None


async def test_an_invalid_configuration_is_held_back_until_it_is_mended(tmp_path: Path) -> None:
    """Shown with every problem; the last good one stays in force, also after a restart."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = await w.vms()
        good = (await w.get("/api/fleet"))["configuration"]["revision"]
        w.write_config(template(disk_size_gb=5), manager(minimum=5) + manager(zone="nowhere"))
        await w.until(has_condition(w, "configuration", "InvalidConfiguration"))
        shown = (await w.get("/api/fleet"))["configuration"]
        assert shown["revision"] == good
        message = shown["conditions"][0]["message"]
        assert "disk_size_gb" in message
        assert "nowhere" in message
        await w.restart_daemon()
        await w.until(has_condition(w, "configuration", "InvalidConfiguration"))
        await w.until_states(cataloged=3)
        assert await w.vms() == before
        # The last good one is not only shown but kept up: a reclaimed machine is replaced.
        await w.lease()
        await w.release()
        await w.until_states(cataloged=3)
        w.write_config(template(), manager(minimum=5))
        await w.until_states(cataloged=5)
        assert await condition(w, "configuration") is None


async def test_a_configuration_that_vanishes_changes_nothing(tmp_path: Path) -> None:
    """A missing file is no empty configuration."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = await w.vms()
        (w.config_dir / "managers.cfg").unlink()
        await w.pass_time(120.0)
        assert await w.vms() == before
        assert (await w.states()) == {"cataloged": 3}
        jobs = {job["name"]: job for job in (await w.get("/api/jobs"))["jobs"]}
        assert "managers.cfg" in str(jobs["import-config"])


async def test_a_configuration_too_large_to_be_stored_is_held_back_and_says_so(
    tmp_path: Path,
) -> None:
    """What counts is what is stored: each line end of a named file takes two bytes there."""
    names = [f"t{number}" for number in range(4)]
    templates = "".join(
        template(name).replace("{", f'{{ metadata_from_file: "notes:{name}.txt"', 1)
        for name in names
    )
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        for name in names:
            (w.config_dir / f"{name}.txt").write_text(name + "\n" * 200_000)
        w.write_config(templates, "".join(manager(name) for name in names))
        await w.until(has_condition(w, "configuration", "InvalidConfiguration"))
        message = (await w.get("/api/fleet"))["configuration"]["conditions"][0]["message"]
        assert "do not fit into one entity" in message
        await w.until_states(cataloged=3)


async def test_what_was_judged_against_an_older_configuration_is_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 26: while one fetches, another imports; what was fetched comes after it, or not."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        fetch = DirectorySource.fetch
        many = {"manager_config": manager(minimum=10), "revision": "f" * 40}
        imported: list[int] = []

        async def overtaken(
            self: DirectorySource, known_revision: str | None
        ) -> ConfigBundle | None:
            bundle = await fetch(self, known_revision)
            if bundle is not None and not imported:
                clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
                other = Fleet(Store(clients.datastore(PROJECT)))
                await other.refresh([CONFIGURATION_KEY])
                imported.append(await other.change([Change(CONFIGURATION_KEY, import_many)]))
                await clients.close()
            return bundle

        def import_many(stored: StoredConfiguration | None) -> StoredConfiguration:
            return msgspec.structs.replace(stored or StoredConfiguration(), **many)

        monkeypatch.setattr(DirectorySource, "fetch", overtaken)
        w.write_config(template(), manager(minimum=4))
        await w.until(lambda: w.shows_minimum(4))
        assert imported == [1]
        assert w.daemon.context is not None
        assert w.daemon.context.fleet.configuration.previous_revision == "f" * 40


@pytest.mark.parametrize("source", ["luci-v1", "luci-v2"])
async def test_the_configuration_can_come_from_a_luci_config_service(
    tmp_path: Path, source: Literal["luci-v1", "luci-v2"]
) -> None:
    """Files, script included, arrive over the protocol that the settings name; changes follow."""
    write_script(tmp_path)
    settings = Settings(fetch=FetchSettings(poll_seconds=0.2))
    async with world(
        tmp_path, templates=EVERY_FIELD, managers=ONE_OF_EACH, settings=settings, start=False
    ) as w:
        w.settings = msgspec.structs.replace(w.settings, config=ConfigSettings(source=source))
        await w.start_daemon()
        await w.until_states(cataloged=3)
        calls = await w.calls()
        v1 = calls["luci_config.config.get_config"] + calls["luci_config.config.get_config_by_hash"]
        v2 = calls["luci_config.Configs.GetConfig"]
        assert (v1 > 0, v2 > 0) == (source == "luci-v1", source == "luci-v2")
        items = (await instance_template(w, "whole"))["properties"]["metadata"]["items"]
        assert {"key": "startup-script", "value": "#!/bin/sh\necho hello\n"} in items
        w.write_config(EVERY_FIELD, ONE_OF_EACH.replace("minimum_size: 1", "minimum_size: 2", 1))
        await w.until_states(cataloged=4, within=70.0)


async def test_an_unchanged_luci_config_costs_one_small_call_per_look(tmp_path: Path) -> None:
    """A quiet minute transfers no file again."""
    async with world(tmp_path, start=False) as w:
        w.settings = msgspec.structs.replace(w.settings, config=ConfigSettings(source="luci-v1"))
        await w.start_daemon()
        await w.until_states(cataloged=3)
        await w.reset_calls()
        await w.pass_time(60.0)
        calls = await w.calls()
        assert calls["luci_config.config.get_config"] > 0
        assert calls["luci_config.config.get_config_by_hash"] == 0


async def test_configuration_that_does_not_fit_the_store_is_refused_with_its_size(
    tmp_path: Path,
) -> None:
    """The last good one stays in force, and the reason is shown."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        texts = []
        for index in range(5):
            (w.config_dir / f"f{index}.sh").write_text("x" * 209_000)
            field = f'  metadata_from_file: "k:f{index}.sh"\n}}\n'
            texts.append(template(f"t{index}").rstrip().removesuffix("}") + field)
        w.write_config("".join(texts), manager("t0"))
        await w.pass_time(30)
        (condition,) = (await w.get("/api/fleet"))["configuration"]["conditions"]
        assert condition["reason"] == "InvalidConfiguration"
        assert "bytes" in condition["message"]
        assert await w.states() == {"cataloged": 3}
