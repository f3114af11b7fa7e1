"""cleanup-entities: what nothing needs any more is removed, bottom up, and not too early."""

from __future__ import annotations

from pathlib import Path

from gce_backend.settings.settings import DeletionSettings, Settings
from support.deletions import TWO_TEMPLATES, settings, two_templates
from support.fleet_harness import World, template, world

DAY = 86400.0


async def _kept(w: World, *names: str) -> bool:
    assert w.daemon.context is not None
    return {key.base_name for key in w.daemon.context.fleet.templates} == set(names)


async def test_what_nothing_needs_any_more_goes_bottom_up(tmp_path: Path) -> None:
    """Spec: "Deletes entities that are no longer needed."; tombstones go first."""
    short = DeletionSettings(tombstone_seconds=60.0, window_seconds=60.0)
    managers = two_templates()
    async with world(
        tmp_path, templates=TWO_TEMPLATES, managers=managers, settings=settings(short)
    ) as w:
        await w.until_states(cataloged=6)
        w.write_config(template(), two_templates(other=False))
        await w.until(lambda: _kept(w, "linux"), within=900)
        assert w.daemon.context is not None
        fleet = w.daemon.context.fleet
        kept = {key.path[0][1] for key in (*fleet.instances, *fleet.managers, *fleet.revisions)}
        assert kept == {"linux"}
        state = await w.cloud_state()
        assert list(state["compute"]["projects"]["local-project"]["groups"]) == [
            next(iter(await w.groups()))
        ]
        await w.until_states(cataloged=3)


async def test_fault_27_a_clock_that_jumps_purges_no_tombstone(tmp_path: Path) -> None:
    """A day forth and a day back: a tombstone stays for its hour of undisturbed time."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.release()
        await w.until(lambda: w.is_in(name, "deleted"))
        w.clock.epoch += DAY
        await w.pass_time(185)
        assert await w.is_in(name, "deleted")
        w.clock.epoch -= 2 * DAY
        await w.pass_time(185)
        assert await w.is_in(name, "deleted")


async def test_tombstones_outlive_a_clock_that_jumps_a_day(tmp_path: Path) -> None:
    """A wall clock a day ahead makes no tombstone older, and frees no cap (fault 27)."""
    settings = Settings(deletion=DeletionSettings(tombstone_seconds=900.0))
    async with world(tmp_path, settings=settings, crons={"import-config": "* * * * *"}) as w:
        await w.until_states(cataloged=3)
        gone = await w.lease()
        await w.release()
        await w.until_states(cataloged=3)
        w.jump(DAY)
        await w.pass_time(180.0)
        assert await w.is_in(gone, "deleted"), "it is still remembered"
        await w.pass_time(w.settings.deletion.tombstone_seconds)
        assert gone not in {machine["name"] for machine in await w.machines()}
