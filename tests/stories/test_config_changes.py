"""A configuration that changes under a running fleet: what follows it, and what is held back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.clients.config_source import ConfigBundle, DirectorySource
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.daemon import Daemon
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CONFIGURATION_KEY, CONTROL_KEY, StoredConfiguration
from gce_backend.model.orders import Control
from gce_backend.settings.settings import DeletionSettings, JobSettings, Settings, StoreSettings
from support.deletions import DELETE_INSTANCES, DELETE_MACHINE
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world

UNREVIEWED = Settings(store=StoreSettings(resync_seconds=86_400.0))
"""What others write is not found by looking through the store."""
EPOCH = 1_800_000_005.0
"""Five seconds after a minute has turned."""
RESIZE = "compute.instanceGroupManagers.resize"
TWO = template("one") + template("two")
FORGETFUL = Settings(deletion=DeletionSettings(tombstone_seconds=30.0, window_seconds=30.0))
"""Deleted machines are not remembered for an hour: what becomes of a template is seen soon."""


async def approve(w: World, revision: str) -> None:
    """What `gce-backend approve` does: an operator's word, in the store."""
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    try:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONTROL_KEY])

        def apply(control: Control | None) -> Control:
            return msgspec.structs.replace(control or Control(), approved_revision=revision)

        await fleet.change([Change(CONTROL_KEY, apply)])
    finally:
        await clients.close()


async def condition(w: World, subject: str) -> dict[str, Any] | None:
    """A condition that the daemon shows now."""
    fleet = await w.get("/api/fleet")
    return next((c for c in fleet.get("conditions", ()) if c["subject"] == subject), None)


def has_condition(w: World, subject: str, reason: str) -> Callable[[], Awaitable[bool]]:
    """Whether a condition is shown with this reason."""

    async def shown() -> bool:
        found = await condition(w, subject)
        return found is not None and found["reason"] == reason

    return shown


async def templates(w: World) -> set[str]:
    """The instance templates that exist at Compute."""
    state = await w.cloud_state()
    found: list[str] = state["compute"]["projects"].get(PROJECT, {}).get("instanceTemplates", [])
    return set(found)


def of(names: set[str], base_name: str) -> set[str]:
    """Those that begin with a template's name."""
    return {name for name in names if name.rpartition("/")[2].startswith(f"{base_name}-")}


async def nothing_left_of(w: World, base_name: str) -> bool:
    """Whether Compute, the catalog and the daemon know nothing of a template any more."""
    fleet = await w.get("/api/fleet")
    shown = any(t["base_name"] == base_name for t in fleet["templates"])
    everything = {*await w.vms(), *await w.groups(), *await templates(w), *await w.catalog()}
    return not shown and not of(everything, base_name)


async def test_a_changed_field_drains_the_old_revision_and_catalogs_the_new_one(
    tmp_path: Path,
) -> None:
    """In the end only the new revision exists, and there was always something to lease."""
    async with world(tmp_path, managers=manager(minimum=4), options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        old_vms, old_groups, old_templates = await w.vms(), await w.groups(), await templates(w)
        w.write_config(template(machine_type="e2-medium"), manager(minimum=4))
        fewest = 4

        async def rolled() -> bool:
            nonlocal fewest
            fewest = min(fewest, len(await w.catalog()))
            gone = not (await w.vms()).keys() & old_vms.keys()
            return gone and not (await templates(w)) & old_templates

        await w.until(rolled)
        await w.until_states(cataloged=4)
        assert fewest == 4
        assert len(await w.vms()) == 4
        assert len(await w.groups()) == 1
        assert not (await w.groups()).keys() & old_groups.keys()
        assert set(await w.catalog()) == set(await w.vms())
        for name in await w.vms():
            vm = await w.compute("GET", f"zones/{ZONE}/instances/{name}")
            assert vm["machineType"].endswith("/e2-medium")


async def test_a_fresh_revision_takes_the_place_of_one_that_never_came_up(tmp_path: Path) -> None:
    """A template that was wrong is mended in the configuration; the wrong one leaves no trace."""
    wrong, right = template(image_name="missing-image"), template()
    async with world(tmp_path, templates=wrong) as w:
        await w.pass_time(60.0)
        assert not await w.vms()
        w.write_config(right, manager())
        await w.until_states(cataloged=3)

        async def one_revision() -> bool:
            [shown] = (await w.get("/api/fleet"))["templates"]
            return len(shown["revisions"]) == 1

        await w.until(one_revision, within=60.0)


async def test_a_reverted_change_brings_the_old_revision_back(tmp_path: Path) -> None:
    """Reverting in the middle wedges nothing: the fleet is whole and the catalog true."""
    async with world(tmp_path, managers=manager(minimum=4), options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        [before] = await templates(w)
        w.write_config(template(machine_type="e2-medium"), manager(minimum=4))

        async def half_way() -> bool:
            return bool((await w.states())["deleting"]) or len(await w.catalog()) != 4

        await w.until(half_way)
        w.write_config(template(), manager(minimum=4))

        async def settled() -> bool:
            return await templates(w) == {before} and len(await w.groups()) == 1

        await w.until(settled)
        await w.until_states(cataloged=4)
        assert set(await w.catalog()) == set(await w.vms())


async def test_a_removed_template_goes_with_all_that_it_had(tmp_path: Path) -> None:
    """Catalog entries, VMs, groups, the instance template, the entities; the other one stays."""
    managers = manager("one") + manager("two")
    async with world(tmp_path, templates=TWO, managers=managers, settings=FORGETFUL) as w:
        await w.until_states(cataloged=6)
        kept = of(set(await w.vms()), "one")
        w.write_config(template("one"), manager("one"))
        await w.until(lambda: nothing_left_of(w, "two"), every=5.0)
        assert set(await w.vms()) == kept
        assert set(await w.catalog()) == kept
        state = await w.cloud_state()
        assert not set(state["compute"]["projects"][PROJECT]["disks"]) - kept


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
    async with world(tmp_path, templates=TWO, managers=manager("one") + manager("two")) as w:
        await w.until_states(cataloged=6)
        w.write_config(TWO, manager("one", minimum=1) + manager("two", minimum=1))
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
        assert minimums == {3}


async def test_managers_are_added_grown_and_removed(tmp_path: Path) -> None:
    """A zone comes, a minimum rises, a zone goes; machines elsewhere are not touched."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        first = set(await w.vms())
        w.write_config(template(), manager() + manager(zone=OTHER_ZONE, minimum=2))
        await w.until_states(cataloged=5)
        w.write_config(template(), manager(minimum=6) + manager(zone=OTHER_ZONE, minimum=2))
        await w.until_states(cataloged=8)
        assert first < set(await w.vms())
        here = {name for name, vm in (await w.vms()).items() if vm["zone"] == ZONE}
        w.write_config(template(), manager(minimum=6))

        async def other_zone_is_empty() -> bool:
            return set(await w.vms()) == here and len(await w.groups()) == 1

        await w.until(other_zone_is_empty)
        await w.until_states(cataloged=6)
        assert set(await w.catalog()) == here


async def test_a_removed_manager_may_come_back(tmp_path: Path) -> None:
    """A zone is drained and named again: its group is whole, and the catalog true."""
    two_zones = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=two_zones) as w:
        await w.until_states(cataloged=5)
        w.write_config(template(), manager(minimum=3))

        async def is_draining() -> bool:
            return (await w.states())["cataloged"] == 3

        await w.until(is_draining)
        w.write_config(template(), two_zones)
        await w.until_states(cataloged=5)
        assert set(await w.catalog()) == set(await w.vms())
        assert len(await w.vms()) == 5


async def test_a_group_is_never_lowered_when_its_minimum_falls(tmp_path: Path) -> None:
    """Compute would pick arbitrary victims: what is there stays, and no resize is sent."""
    two_zones = manager(minimum=5) + manager(zone=OTHER_ZONE, minimum=5)
    async with world(tmp_path, managers=two_zones) as w:
        await w.until_states(cataloged=10)
        before = await w.vms()
        await w.reset_calls()
        w.write_config(template(), manager(minimum=2) + manager(zone=OTHER_ZONE, minimum=5))

        async def is_known() -> bool:
            [shown] = (await w.get("/api/fleet"))["templates"]
            groups = shown["revisions"][0]["managers"]
            return {2, 5} == {group["minimum_size"] for group in groups}

        await w.until(is_known)
        await w.pass_time(300.0)
        assert await w.vms() == before
        calls = await w.calls()
        assert calls["compute.instanceGroupManagers.resize"] == 0
        assert calls["compute.instanceGroupManagers.deleteInstances"] == 0
        assert {group["targetSize"] for group in (await w.groups()).values()} == {5}


async def test_a_maximum_bounds_old_and_new_revision_together(tmp_path: Path) -> None:
    """Never more than the maximum's VMs in the zone while a template changes; yet it changes."""
    bounded = manager(minimum=4, maximum=5)
    async with world(tmp_path, managers=bounded, options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), bounded)
        most = 0

        async def rolled() -> bool:
            nonlocal most
            vms = set(await w.vms())
            most = max(most, len(vms))
            targets = sum(group["targetSize"] for group in (await w.groups()).values())
            most = max(most, targets)
            return not vms & old and len(vms) == 4

        await w.until(rolled, within=1800.0, every=0.25)
        await w.until_states(cataloged=4)
        assert most == 5


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


async def test_a_second_change_during_a_roll_out_leaves_only_the_last_revision(
    tmp_path: Path,
) -> None:
    """Two changes, one after the other, and the zone's machines are of the third revision."""
    async with world(tmp_path, options=CloudOptions()) as w:
        await w.until_states(cataloged=3)
        for machine_type in ("e2-medium", "e2-micro"):
            w.write_config(template(machine_type=machine_type), manager())
            await asyncio.sleep(7.0)

        async def only_the_last() -> bool:
            return len(await templates(w)) == 1 and len(await w.groups()) == 1

        await w.until(only_the_last)
        await w.until_states(cataloged=3)
        for name in await w.vms():
            vm = await w.compute("GET", f"zones/{ZONE}/instances/{name}")
            assert vm["machineType"].endswith("/e2-micro")


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


async def test_a_daemon_that_has_not_heard_yet_undoes_nothing_of_a_newer_configuration(
    tmp_path: Path,
) -> None:
    """Fault 26: two daemons, of which one reads the configuration 50 seconds after the other."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    crons = {"import-config": "40 * * * * *"}
    async with world(
        tmp_path, managers=both, options=CloudOptions(), crons=crons, epoch=EPOCH
    ) as w:
        await w.until_states(cataloged=5)
        async with _second_daemon(w, "50 * * * * *"):
            for number in range(5):
                await w.lease(f"r{number}", duration=80_000)
            w.write_config(template(), manager())
            await w.pass_time(180.0)  # both know that the zone drains, and wait for the leases
            await w.reset_calls()
            await w.pass_time(45.0 - w.clock.now() % 60.0 + 60.0)  # the second one reads it first
            w.write_config(template(), manager() + manager(zone=OTHER_ZONE, minimum=4))
            await w.until_states(leased=5, cataloged=2)
            await w.pass_time(120.0)
            calls = await w.calls()
            assert await w.states() == {"leased": 5, "cataloged": 2}
    assert calls[RESIZE] == 1
    assert calls[DELETE_MACHINE] == calls[DELETE_INSTANCES] == 0


@pytest.mark.parametrize("held", [False, True])
async def test_a_daemon_that_has_not_heard_looks_before_it_takes_a_machine_away(
    tmp_path: Path, *, held: bool
) -> None:
    """Fault 26: it believes that a zone drains, which another one has named again meanwhile."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    crons = {"import-config": "0 0 1 1 *"}
    async with world(tmp_path, managers=both, settings=UNREVIEWED, crons=crons, epoch=EPOCH) as w:
        await w.until_states(cataloged=5)
        for number in range(5 * held):
            await w.lease(f"r{number}", duration=80_000)
        assert await w.act("/api/pause", {"zone": OTHER_ZONE}) == 200
        w.write_config(template(), manager())
        await w.restart_daemon()
        await w.until(lambda: _drains(w, OTHER_ZONE))
        group = next(name for name in await w.groups() if name.startswith(OTHER_ZONE))
        zone, name = group.split("/")
        await w.compute("POST", f"zones/{zone}/instanceGroupManagers/{name}/resize?size=3")
        await w.until(lambda: _shows(w, 6))
        w.write_config(template(), both)
        async with _second_daemon(w, "* * * * *"):
            await w.pass_time(10.0)
        await w.reset_calls()
        assert await w.act("/api/resume", {"zone": OTHER_ZONE}) == 200
        await w.until_states(leased=5 * held, cataloged=6 - 5 * held)
        calls = await w.calls()
    assert calls[DELETE_MACHINE] == calls[DELETE_INSTANCES] == 0


async def _drains(w: World, zone: str) -> bool:
    fleet = await w.get("/api/status")
    return any((row["zone"], row["state"]) == (zone, "draining") for row in fleet.get("fleet", ()))


async def _shows(w: World, machines: int) -> bool:
    return len(await w.machines()) == machines


@contextlib.asynccontextmanager
async def _second_daemon(w: World, cron: str) -> AsyncIterator[None]:
    """Another daemon of the same fleet, which reads the configuration at these times."""
    jobs = {**w.settings.jobs, "import-config": JobSettings(cron=cron)}
    settings = msgspec.structs.replace(w.settings, jobs=jobs)
    second = Daemon(settings, clock=w.clock, rng=random.Random(99))
    try:
        await second.start()
        yield
    finally:
        await second.abort()


async def test_what_was_judged_against_an_older_configuration_is_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 26: while one fetches, another imports so much that the former would take it away."""
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
        await w.until(has_condition(w, "configuration", "HeldForApproval"))
        await w.until_states(cataloged=10)
        assert imported == [1]
