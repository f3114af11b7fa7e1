"""The whole life of a machine, once."""

from __future__ import annotations

from pathlib import Path

from support.fleet_harness import template, world


async def test_a_fleet_rises_is_leased_from_and_replaces_what_was_reclaimed(tmp_path: Path) -> None:
    """From an empty store to cataloged; a lease ends, and another machine takes its place."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.release()
        await w.until_states(cataloged=3)
        assert name not in await w.vms()
        assert len(await w.vms()) == 3


async def test_a_new_revision_replaces_the_old_one(tmp_path: Path) -> None:
    """All machines are of the new machine type in the end, and nothing is left of the old one."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        old = set(await w.vms())
        w.write_config(
            template(machine_type="e2-medium"), (w.config_dir / "managers.cfg").read_text()
        )

        async def rolled() -> bool:
            names = set(await w.vms())
            return not names & old and len(names) == 3 and len(await w.groups()) == 1

        await w.until(rolled)
        await w.until_states(cataloged=3)
