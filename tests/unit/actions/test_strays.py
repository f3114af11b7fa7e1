"""actions.strays: what carries this store's own mark is tracked again, whatever its name."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.fleet.picture import Change
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CONFIGURATION_KEY
from gce_backend.model.keys import Key
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.outside import cataloged, ids, make_group, make_template

SOON = Settings(fetch=FetchSettings(resync_seconds=60))
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
MANAGERS = f"zones/{ZONE}/instanceGroupManagers"


async def untracked(w: World) -> set[str]:
    """What is reported as nobody's."""
    fleet = await w.get("/api/fleet")
    return {c["subject"] for c in fleet.get("conditions", ()) if c["reason"] == "Untracked"}


async def remove_by_hand(w: World, *kinds: str) -> None:
    """Somebody removes all entities of these kinds from the store while the daemon is down."""
    await w.crash_daemon()
    async with w.fleet() as fleet:
        tree = [*fleet.templates, *fleet.revisions, *fleet.managers, *fleet.instances]
        keys: list[Key] = [CONFIGURATION_KEY, *tree]
        await fleet.change([Change(key, lambda _: None) for key in keys if key.kind in kinds])
    await w.start_daemon()


async def test_row_41_a_group_of_a_later_name_is_adopted_though_a_stranger_has_the_first(
    tmp_path: Path,
) -> None:
    """Its entity is removed by hand: nothing is doubled, and what is held stays held."""
    async with world(tmp_path, settings=SOON, options=CALM) as w:
        await cataloged(w, 3)
        (first,) = await w.groups()
        name = first.rpartition("/")[2]
        await w.compute("DELETE", f"{MANAGERS}/{name}")

        async def made_again() -> bool:
            return set(await w.groups()) == {f"{first}-g1"}

        await w.until(made_again, within=900)
        await make_template(w, "theirs")
        await make_group(w, name, ZONE, "theirs")
        before = await cataloged(w, 3)
        held = await w.lease()
        await remove_by_hand(w, "InstanceGroupManager", "Instance")
        found: set[str] = set()
        for _ in range(18):
            await w.pass_time(10)
            found |= await untracked(w)
        assert not found
        await w.until_states(cataloged=2, leased=1)
        assert await ids(w) == before
        assert set(await w.groups()) == {first, f"{first}-g1"}
        await w.release()
        w.write_config(template(machine_type="e2-medium"), manager())

        async def rolled() -> bool:
            return not before.items() & (await ids(w)).items() and len(await w.vms()) == 3

        await w.until(rolled, within=900)
        assert held not in await w.vms()

        async def is_gone() -> bool:
            return f"{first}-g1" not in await w.groups()

        await w.until(is_gone, within=900)
        assert first in await w.groups(), "theirs is left alone"


async def test_row_41_what_the_configuration_no_longer_names_is_adopted_and_drains(
    tmp_path: Path,
) -> None:
    """The store has lost all of a template: its group and its own cost nothing in the end."""
    both = manager() + manager("windows", zone=OTHER_ZONE, minimum=2)
    async with world(
        tmp_path,
        templates=template() + template("windows", machine_type="e2-medium"),
        managers=both,
        settings=SOON,
        options=CALM,
    ) as w:
        await cataloged(w, 5)
        held = await w.lease(memory_gb=4.0)
        w.write_config("nonsense", "")
        tree = ("InstanceTemplate", "InstanceTemplateRevision", "InstanceGroupManager", "Instance")
        await remove_by_hand(w, "Configuration", *tree)
        await w.pass_time(200)
        assert len(await w.vms()) == 5, "nothing is concluded without a configuration"
        assert len([what for what in await untracked(w) if what.startswith("group")]) == 2
        w.write_config(template(), manager())

        async def drained() -> bool:
            return len(await w.vms()) == 4 and held in await w.vms()

        await w.until(drained, within=900)
        await w.pass_time(300)
        assert await drained()
        await w.release()

        async def has_left() -> bool:
            listed = await w.compute("GET", "global/instanceTemplates")
            return len(listed["items"]) == len(await w.groups()) == 1

        await w.until(has_left, within=1500)
        await w.pass_time(180)
        fleet = await w.get("/api/fleet")
        assert [shown["base_name"] for shown in fleet["templates"]] == ["linux"]
        assert not await untracked(w)
        assert len(await w.vms()) == 3
