"""delete-drained-instances: what left the catalog is deleted, on a fresh permit only."""

from __future__ import annotations

from pathlib import Path

from support.deletions import (
    DELETE_INSTANCES,
    TWO_TEMPLATES,
    groups_are,
    lease_all,
    only_vms,
    two_templates,
)
from support.fleet_harness import OTHER_ZONE, ZONE, manager, template, world


async def test_drained_machines_that_left_the_catalog_are_deleted_in_one_call(
    tmp_path: Path,
) -> None:
    """Spec: "Deletes GCE instances for each models.Instance that was removed from the catalog".

    "... for being created from an instance template not currently referenced in the config." The
    others stay, and so do those that somebody holds.
    """
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates()) as w:
        await w.until_states(cataloged=6)
        leased = await lease_all(w, 6)
        for index in (1, 2, 3, 4, 5):
            await w.release(f"r{index}")
        await w.until_states(leased=1, cataloged=5)
        held = leased[0]
        drains = "other" if held.startswith("other") else "linux"
        stays = "linux" if drains == "other" else "other"
        others = {name for name in await w.vms() if name.startswith(stays)}
        await w.reset_calls()
        w.write_config(TWO_TEMPLATES, manager(stays))
        await w.until(lambda: only_vms(w, {*others, held}))
        assert (await w.calls())[DELETE_INSTANCES] == 1
        await w.pass_time(300)
        assert set(await w.vms()) >= {*others, held}
        await w.release("r0")
        await w.until(lambda: only_vms(w, others))
        await w.until(lambda: groups_are(w, 1))


async def test_drained_machines_that_never_came_up_are_deleted(tmp_path: Path) -> None:
    """A stockout keeps them CREATING for ever: they go, and so does their group."""
    managers = two_templates(zone=OTHER_ZONE)
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers, start=False) as w:
        await w.inject("*", kind="stockout", zone=OTHER_ZONE, times=None)
        await w.start_daemon()
        await w.until_states(cataloged=3, creating=3)
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.until_states(cataloged=3)
        await w.until(lambda: groups_are(w, 1))
        assert await w.fired() >= 1


async def test_hole_12_members_that_cannot_be_made_go_when_they_are_not_wanted_any_more(
    tmp_path: Path,
) -> None:
    """A stockout kept them waiting; the minimum was lowered: only what is wanted is made later."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = set(await w.vms())
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        w.write_config(template(), manager(minimum=8))
        await w.until_states(cataloged=3, creating=5)
        await w.pass_time(120)
        assert (await w.states())["creating"] == 5, "they are wanted: the group goes on trying"
        w.write_config(template(), manager(minimum=4))
        await w.until_states(cataloged=3, creating=1)
        assert [group["targetSize"] for group in (await w.groups()).values()] == [4]
        assert set(await w.vms()) >= before
        await w.clear_faults()
        await w.until_states(cataloged=4)
        await w.pass_time(300)
        assert len(await w.vms()) == 4
        assert before <= set(await w.vms())


async def test_hole_12_members_that_cannot_be_made_go_however_many_they_are(tmp_path: Path) -> None:
    """A size by mistake: the caps on deletions keep VMs, and these were never any."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        w.write_config(template(), manager(minimum=40))
        await w.until_states(cataloged=3, creating=37)
        w.write_config(template(), manager(minimum=3))
        await w.until_states(cataloged=3, within=120)
        assert [group["targetSize"] for group in (await w.groups()).values()] == [3]
        await w.clear_faults()
        await w.pass_time(120)
        assert len(await w.vms()) == 3


async def test_hole_12_a_group_raised_by_hand_keeps_what_it_could_make(tmp_path: Path) -> None:
    """What exists is never taken; what cannot be made beyond the minimum is given up."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        (at,) = await w.groups()
        path = f"zones/{ZONE}/instanceGroupManagers/{at.rpartition('/')[2]}/resize"
        await w.compute("POST", f"{path}?size=5")
        await w.until_states(cataloged=5)
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        await w.compute("POST", f"{path}?size=7")
        await w.pass_time(300)
        assert [group["targetSize"] for group in (await w.groups()).values()] == [5]
        await w.until_states(cataloged=5)
