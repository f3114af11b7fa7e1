"""delete-drained-instances: what left the catalog is deleted, on a fresh permit only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.deletions import (
    DELETE_INSTANCES,
    DELETE_MACHINE,
    TWO_TEMPLATES,
    groups_are,
    lease_all,
    only_vms,
    two_templates,
)
from support.fleet_harness import OTHER_ZONE, manager, world


async def _asked(w: Any) -> bool:
    return bool((await w.calls())[DELETE_MACHINE])


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


async def test_an_answer_older_than_a_new_entry_is_no_permit(tmp_path: Path) -> None:
    """ENTRY_NOT_FOUND arrives when the machine has been added again: it stays in the catalog."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1)) as w:
        await w.inject("machine_provider.catalog.add_machines", times=None)
        await w.until_states(running=2)
        name = (await w.machines("other"))[0]["name"]
        await w.inject(DELETE_MACHINE, kind="latency", when="after", seconds=25, times=1)
        await w.reset_calls()
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.until(lambda: _asked(w))
        w.write_config(TWO_TEMPLATES, two_templates(1))
        await w.pass_time(5)
        await w.clear_faults()
        await w.until_states(cataloged=2)
        await w.pass_time(120)
        assert name in await w.vms()
        assert await w.is_in(name, "cataloged")


async def test_fault_32_a_lease_that_lands_between_check_and_delete_keeps_the_vm(
    tmp_path: Path,
) -> None:
    """The daemon takes the machines for free when it asks; by then one is leased."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates()) as w:
        await w.until_states(cataloged=6)
        await w.inject(DELETE_MACHINE, kind="latency", seconds=5, times=None)
        await w.reset_calls()
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.until(lambda: _asked(w))
        request = {"request_id": "late", "duration": 3600, "dimensions": {"disk_gb": 20}}
        names: set[str] = set()
        for index in range(6):
            request["request_id"] = f"late{index}"
            names.add((await w.broker("machine_provider.lease", request)).get("hostname", ""))
            await w.pass_time(0.2)
            names.add((await w.broker("machine_provider.lease", request)).get("hostname", ""))
        held = names - {""}
        assert any(name.startswith("other") for name in held)
        await w.pass_time(300)
        assert await w.fired() >= 1
        assert held <= set(await w.vms())
