"""Two daemons with one owner and a store each: neither touches what the other made (hole 7)."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from gce_backend.fleet.picture import Change, when_present
from gce_backend.fleet.store import KINDS
from gce_backend.rules.ownership import Mark
from gce_backend.settings.settings import FetchSettings, Settings
from gce_backend.setup import adoption
from support.fleet_harness import World, manager, prepare, template, world
from support.outside import cataloged, ids, make_marked_group
from support.second_daemon import second_daemon

SOON = Settings(fetch=FetchSettings(resync_seconds=30))


async def _untracked(w: World) -> list[str]:
    fleet = await w.get("/api/fleet")
    return [c["subject"] for c in fleet["conditions"] if c["reason"] == "Untracked"]


async def test_hole_07_a_second_daemon_with_the_same_owner_touches_nothing(tmp_path: Path) -> None:
    """It reads a copy of templates.cfg, then rolls a change: it says NameTaken, by whom."""
    async with world(tmp_path, settings=SOON) as w:
        before = await cataloged(w, 3)
        held = await w.lease()
        catalog, groups = await w.catalog(), await w.groups()
        async with second_daemon(w, tmp_path) as second:
            await w.pass_time(120)
            (taken,) = await second.conditions("NameTaken")
            first = await w.mark()
            assert f"owner '{first.owner}', store '{first.store}'" in taken["message"]
            assert await ids(w) == before
            fleet = await second.get("/api/fleet")
            assert not [
                group["instances"]
                for shown in fleet["templates"]
                for revision in shown["revisions"]
                for group in revision["managers"]
                if group["instances"]
            ]

            second.write_config(template(machine_type="e2-medium"), manager(minimum=2))
            await w.until(lambda: w.has_vms(5))
            await w.pass_time(600)
            after = await ids(w)
            assert before.items() <= after.items()
            assert len(after) == 5, "its own two, and no more"
            assert groups.items() <= (await w.groups()).items()
            assert catalog.items() <= (await w.catalog()).items()
            assert (await w.catalog())[held] == "LEASED"
            assert await second.conditions("Untracked") == []
            assert await _untracked(w) == [], "what the second one made is not unmanaged"
            second.write_config("", "")
            second.write_config(template("other"), "")
            await w.pass_time(300)
            assert before.items() <= (await ids(w)).items()
        await w.until_states(cataloged=2, leased=1)


async def test_hole_07_what_an_earlier_release_made_is_adopted_once_by_order(
    tmp_path: Path,
) -> None:
    """It names no store, and no entity knows it: the daemon leaves it alone until it is told."""
    async with world(tmp_path, settings=SOON, start=False) as w:
        await make_marked_group(w, Mark("gce-backend"), size=3)
        before = await ids(w)
        await w.start_daemon()
        await w.pass_time(120)
        fleet = await w.get("/api/fleet")
        (taken,) = [c for c in fleet["conditions"] if c["reason"] == "NameTaken"]
        assert "`gce-backend adopt`" in taken["message"]
        assert await w.catalog() == {}

        for _ in range(2):  # the template, then the group, which was not looked for before
            await _adopt(w)
            await w.pass_time(700)
        await cataloged(w, 3)
        assert await ids(w) == before


async def test_hole_07_an_upgrade_rolls_nothing(tmp_path: Path) -> None:
    """Entities of an earlier release hold links without ids: what they mean stays as it is."""
    async with world(tmp_path, settings=SOON, start=False) as w:
        await make_marked_group(w, Mark("gce-backend"), size=3)
        await w.start_daemon()
        for _ in range(2):
            await w.pass_time(60)
            await _adopt(w)
        await w.until_states(cataloged=3, within=1500)
        held = await w.lease()
        before, groups = await ids(w), await w.groups()
        await w.crash_daemon()
        async with w.fleet() as fleet:
            await fleet.change(
                [
                    Change(key, when_present(lambda entity: replace(entity, gce_id=None)))
                    for key in (*fleet.revisions, *fleet.managers)
                ]
            )
        await w.start_daemon()
        await w.until(w.is_loaded)
        await w.pass_time(300)
        assert await ids(w) == before
        assert await w.groups() == groups
        await w.until_states(cataloged=2, leased=1)
        assert await w.is_in(held, "leased")
        async with w.fleet() as fleet:
            known = [one.gce_id for one in fleet.revisions.values()]
            known += [one.gce_id for one in fleet.managers.values()]
        assert len(known) == 2
        assert all(known), "learned once"


async def _adopt(w: World) -> None:
    """`gce-backend adopt --yes`."""
    async with w.fleet() as fleet, w.compute_client() as compute:
        mark = Mark(w.settings.owner, fleet.identity)
        await adoption.adopt(fleet, await adoption.find_unmarked(fleet, compute, mark))


async def test_hole_07_a_lost_store_gives_its_id_to_the_next_one(tmp_path: Path) -> None:
    """The new store meets NameTaken, takes the id over, and finds all that the old one made."""
    async with world(tmp_path, settings=SOON) as w:
        before = await cataloged(w, 3)
        held = await w.lease()
        lost = (await w.mark()).store
        await w.crash_daemon()
        async with w.fleet() as fleet:
            keys = [key for kind in KINDS for key in fleet._pictures[kind.KIND]]
            await fleet.change([Change(key, lambda _: None) for key in keys])
        await prepare(w, w.settings)
        await w.start_daemon()

        async def is_taken() -> bool:
            found = (await w.get("/api/fleet")).get("conditions", ())
            return any(c["reason"] == "NameTaken" and lost in c["message"] for c in found)

        await w.until(is_taken)
        assert (await w.mark()).store != lost
        async with w.fleet() as fleet, w.compute_client() as compute:
            found = await adoption.find_of_store(fleet, compute, Mark(w.settings.owner, lost))
            assert [one.kind for one in found] == ["instance template", "group"]
            await adoption.take_over(fleet, lost)
        await w.restart_daemon()
        await w.until_states(cataloged=2, leased=1)
        assert await ids(w) == before
        assert await w.is_in(held, "leased")
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.pass_time(600)
        assert (await ids(w))[held] == before[held]
        assert (await w.catalog())[held] == "LEASED"
