"""A group or template deleted and made again by hand under our name is not ours (hole 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import ZONE, World, manager, template, world
from support.outside import cataloged, ids, make_template, replace_group

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
SELDOM = {"import-config": "* * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
MANAGERS = f"zones/{ZONE}/instanceGroupManagers"


async def strangers(w: World, group: dict[str, Any]) -> dict[str, str]:
    """The ids of the VMs of a group that somebody else made, by name."""
    found = (await w.groups())[f"{ZONE}/{group['name']}"]["instances"]
    vms = await ids(w)
    return {name: vms[name] for name in found}


@pytest.mark.parametrize("same_names", [False, True])
async def test_hole_08_a_group_made_again_by_hand_is_not_ours(
    tmp_path: Path, same_names: bool
) -> None:
    """Its VMs are neither cataloged nor deleted; ours are replaced in a group of another name."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        held = await w.lease()
        free = sorted(before.keys() - {held})
        names = free if same_names else ["by-hand-1", "by-hand-2"]
        (at,) = await w.groups()
        group = await replace_group(w, at, names)
        await w.until(lambda: w.has_vms(5))
        theirs = await strangers(w, group)
        assert theirs.keys() == set(names)
        assert not theirs.items() & before.items()

        async def whole() -> bool:
            catalog, vms = await w.catalog(), await w.vms()
            ours = vms.keys() - theirs.keys()
            return len(ours) == 3 and all(catalog.get(name) == "AVAILABLE" for name in ours)

        await w.until(whole, within=900)
        assert await strangers(w, group) == theirs
        await w.pass_time(900)
        assert held not in await w.catalog(), "its lease ended with its VM"
        assert await strangers(w, group) == theirs
        assert not theirs.keys() & (await w.catalog()).keys()
        assert await whole()
        assert len(await w.catalog()) == 3


async def test_hole_08_a_draining_group_made_again_by_hand_is_told_of_and_left_alone(
    tmp_path: Path,
) -> None:
    """Somebody holds one of its machines; what has its name is neither emptied nor deleted."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        held = await w.lease()
        w.write_config(template(machine_type="e2-medium"), manager())

        async def rolled() -> bool:
            return before.keys() & (await w.vms()).keys() == {held} and len(await w.vms()) == 4

        await w.until(rolled)
        new = await ids(w)
        old_group = next(at for at, one in (await w.groups()).items() if held in one["instances"])
        other = {at: one for at, one in (await w.groups()).items() if at != old_group}
        await replace_group(w, old_group, [held])
        await w.until(lambda: w.has_vms(4))
        theirs = (await ids(w))[held]
        assert theirs != new[held]

        async def told() -> bool:
            fleet = await w.get("/api/fleet")
            return any(c["reason"] == "Replaced" for c in fleet["conditions"])

        await w.until(told)
        await w.release()
        await w.pass_time(900)
        assert (await ids(w))[held] == theirs
        assert held not in await w.catalog()
        assert old_group in await w.groups()
        assert other.keys() <= (await w.groups()).keys()
        await w.restart_daemon()
        await w.pass_time(300)
        assert (await ids(w))[held] == theirs
        await w.until_states(cataloged=3)


async def test_hole_08_a_template_made_again_by_hand_is_not_ours(tmp_path: Path) -> None:
    """Another takes its place under another name; theirs is not deleted when the revision goes."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM, start=False) as w:
        w.write_config(template(), "")
        await w.start_daemon()

        async def templates() -> dict[str, Any]:
            listed = await w.compute("GET", "global/instanceTemplates")
            return {one["name"]: one for one in listed.get("items", ())}

        async def has(number: int) -> bool:
            return len(await templates()) == number

        await w.until(lambda: has(1))
        ((name, ours),) = (await templates()).items()
        await w.compute("DELETE", f"global/instanceTemplates/{name}")
        await w.until(lambda: has(0), every=0.05)
        await make_template(w, name)
        await w.until(lambda: has(2), within=300)
        assert f"{name}-g1" in await templates()
        theirs = (await templates())[name]["id"]
        assert theirs != ours["id"]
        w.write_config(template(machine_type="e2-medium"), "")
        await w.pass_time(300)
        found = await templates()
        assert found[name]["id"] == theirs
        assert f"{name}-g1" not in found
        assert len(found) == 2


async def test_hole_19_a_group_deleted_by_hand_under_a_lease_makes_room(tmp_path: Path) -> None:
    """Its VM is really gone: the new revision does not stay short until the lease ends."""
    limited = manager(minimum=3, maximum=3)
    async with world(tmp_path, managers=limited, settings=SOON, crons=SELDOM, options=CALM) as w:
        before = await cataloged(w, 3)
        held = await w.lease(duration=20 * 86400)
        w.write_config(template(machine_type="e2-medium"), limited)

        async def has_room_for_two() -> bool:
            vms = await w.vms()
            return before.keys() & vms.keys() == {held} and len(vms) == 3

        await w.until(has_room_for_two)
        await w.pass_time(120)
        assert len(await w.vms()) == 3, "the maximum holds while the leased one exists"
        at = next(at for at, one in (await w.groups()).items() if held in one["instances"])
        await w.compute("DELETE", f"{MANAGERS}/{at.rpartition('/')[2]}")

        async def whole() -> bool:
            free = [n for n, state in (await w.catalog()).items() if state == "AVAILABLE"]
            return len(await w.vms()) == 3 and len(free) == 3

        await w.until(whole, within=900)

        async def ended() -> bool:
            return held not in await w.catalog()

        await w.until(ended, within=900)
