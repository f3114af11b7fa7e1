"""actions.phantom_entries: no entry of a deleted VM stays in the catalog."""

from __future__ import annotations

from pathlib import Path

from support.broker_messages import key_of
from support.deletions import (
    DELETE_MACHINE,
    TWO_TEMPLATES,
    add_late,
    has_no_entry,
    is_tombstone,
    two_templates,
)
from support.fleet_harness import world


async def test_hole_16_the_entry_that_a_late_addition_makes_of_a_deleted_vm_is_taken_out(
    tmp_path: Path,
) -> None:
    """A replica that was stopped adds what is deleted by now, once early and once late."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1)) as w:
        await w.until_states(cataloged=2)
        (machine,) = await w.machines("other")
        name = machine["name"]
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.until(lambda: is_tombstone(w, name))
        for seconds in (0, 200):
            await w.pass_time(seconds)
            await add_late(w, name, key=key_of(machine), gce_id=machine["id"])
            await w.until(lambda: has_no_entry(w, name), within=200)
        assert set(await w.catalog()) == set(await w.vms())
        await w.reset_calls()
        await w.pass_time(600)
        assert (await w.calls())[DELETE_MACHINE] == 0


async def test_hole_16_an_entry_under_the_name_of_a_deleted_vm_that_is_another_s_stays(
    tmp_path: Path,
) -> None:
    """It carries the id of another VM: it is not ours to take out."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1)) as w:
        await w.until_states(cataloged=2)
        (machine,) = await w.machines("other")
        name = machine["name"]
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.until(lambda: is_tombstone(w, name))
        await add_late(w, name, key=key_of(machine), gce_id="1")
        await w.reset_calls()
        await w.pass_time(600)
        assert name in await w.catalog()
        assert (await w.calls())[DELETE_MACHINE] == 0
