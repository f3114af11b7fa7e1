"""actions.permit_check: a permit that leaves a doubt is confirmed just before its use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gce_backend.settings.settings import DeletionSettings, MachineProviderSettings
from support.deletions import (
    DELETE_MACHINE,
    TWO_TEMPLATES,
    denied,
    settings,
    two_templates,
)
from support.fleet_harness import World, world

HASTY = MachineProviderSettings(sweep_per_minute=600, lost_seconds=10.0)


async def _asked(w: Any) -> bool:
    return bool((await w.calls())[DELETE_MACHINE])


async def _catalog(w: World, state: str, number: int) -> bool:
    return [machine["catalog"] for machine in await w.machines()].count(state) == number


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


async def test_a_machine_that_the_catalog_knows_again_is_not_deleted(tmp_path: Path) -> None:
    """A not-found of long ago is no permit: the Machine Provider is asked again just before."""
    none = DeletionSettings(unconfirmed_count=0, unconfirmed_share=0.0)
    async with world(tmp_path, settings=settings(none, HASTY)) as w:
        await w.until_states(cataloged=3)
        before = set(await w.vms())
        await denied(w)
        await w.until(lambda: _catalog(w, "absent", 3))
        await w.clear_faults()
        assert await w.act("/api/lift-cap", {"seconds": 300}) == 200
        await w.until_states(cataloged=3)
        assert before == set(await w.vms())
        await w.until(lambda: _catalog(w, "cataloged", 3))
        assert await w.lease() in before
