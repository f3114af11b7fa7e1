"""actions.rollouts: a roll-out keeps to its limits, pauses and is undone."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import World, manager, template, world

NEW = template(machine_type="e2-medium")
CURED = "e2-standard-2"


async def sizes(w: World, known: set[str]) -> tuple[int, int]:
    """Target sizes of the old groups and of the new ones."""
    groups = await w.groups()
    old = sum(group["targetSize"] for name, group in groups.items() if name in known)
    return old, sum(group["targetSize"] for group in groups.values()) - old


async def types(w: World) -> list[str]:
    """The machine types of all VMs, sorted."""
    found = []
    for name, vm in (await w.vms()).items():
        shown = await w.compute("GET", f"zones/{vm['zone']}/instances/{name}")
        found.append(shown["machineType"].rpartition("/")[2])
    return sorted(found)


async def test_a_roll_out_keeps_to_its_surge_and_stops_where_it_is_paused(tmp_path: Path) -> None:
    """With max_surge 0, there are never more than four: an old machine leaves first."""
    managers = manager(minimum=4, max_surge=0, max_unavailable=1)
    async with world(tmp_path, managers=managers, options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        known, first = set(await w.groups()), set(await w.vms())
        w.write_config(NEW, managers)
        most = 0

        async def reached(number: int) -> bool:
            nonlocal most
            old, new = await sizes(w, known)
            most = max(most, old + new)
            return new == number

        await w.until(lambda: reached(2), every=2)
        assert await w.act("/api/rollout-pause", {"template": "windows"}) == 404
        assert await w.act("/api/rollout-pause", {"template": "linux", "reason": "look"}) == 200
        await w.pass_time(60)
        there = await sizes(w, known)
        await w.pass_time(300)
        assert await sizes(w, known) == there
        assert len(first & set(await w.vms())) == there[0] > 0
        told = str((await w.get("/api/status"))["problems"])
        assert "RolloutPaused" in told
        assert "Reason: look" in told
        assert await w.act("/api/rollout-resume", {"template": "linux"}) == 200
        await w.until(lambda: reached(4), every=2)
        await w.until_states(cataloged=4)
        assert not first & set(await w.vms())
        assert most == 4


async def test_an_undone_revision_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    """Also when nothing of that is left; another revision in templates.cfg ends it."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        first = await types(w)
        assert await w.act("/api/rollout-undo", {"template": "linux"}) == 409

        async def consists_of(machine_type: str) -> bool:
            return await types(w) == [machine_type] * 3 and len(await w.groups()) == 1

        w.write_config(NEW, manager())
        await w.until(lambda: consists_of("e2-medium"), 900, every=10)
        assert await w.act("/api/rollout-undo", {"template": "linux", "reason": "slow"}) == 200
        await w.until(lambda: consists_of(first[0]), 900, every=10)
        assert [one["reason"] for one in (await w.get("/api/control"))["undone"]] == ["slow"]
        w.write_config(template(machine_type=CURED), manager())
        await w.until(lambda: consists_of(CURED), 900, every=10)
        assert (await w.get("/api/control"))["undone"] == []
