"""process-config: templates, revisions and managers follow the configuration."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings, Settings
from support.fleet_harness import OTHER_ZONE, ZONE, manager, template, world
from support.fleet_views import shown
from support.templates_gone import templates


async def test_process_config(tmp_path: Path) -> None:
    """What the spec says of process-config.

    "Each time a template in templates.cfg with the same name has its other
    fields changed a new models.InstanceTemplateRevision is created for it." "At most one instance
    group manager in each zone may exist for each template."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        (first,) = (await shown(w, "linux"))["revisions"]
        w.write_config(template(disk_size_gb=30), manager() + manager(zone=OTHER_ZONE, minimum=1))

        async def has_two() -> bool:
            return len((await shown(w, "linux"))["revisions"]) == 2

        await w.until(has_two, within=60, every=0.1)
        revisions = {r["revision"]: r for r in (await shown(w, "linux"))["revisions"]}
        assert revisions[first["revision"]]["state"] == "draining"
        (new,) = [r for name, r in revisions.items() if name != first["revision"]]
        assert [group["zone"] for group in new["managers"]] == [OTHER_ZONE, ZONE]


async def test_managers_are_added_grown_and_removed(tmp_path: Path) -> None:
    """A zone comes, a minimum rises, a zone goes; machines elsewhere are not touched."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        first = set(await w.vms())
        w.write_config(template(), manager() + manager(zone=OTHER_ZONE, minimum=2))
        await w.until_states(cataloged=5)
        w.write_config(template(), manager(minimum=6) + manager(zone=OTHER_ZONE, minimum=2))
        await w.until_states(cataloged=8)
        assert first < set(await w.vms())
        here = {name for name, vm in (await w.vms()).items() if vm["zone"] == ZONE}
        w.write_config(template(), manager(minimum=6))

        async def other_zone_is_empty() -> bool:
            return set(await w.vms()) == here and len(await w.groups()) == 1

        await w.until(other_zone_is_empty)
        await w.until_states(cataloged=6)
        assert set(await w.catalog()) == here


async def test_a_removed_manager_may_come_back(tmp_path: Path) -> None:
    """A zone is drained and named again: its group is whole, and the catalog true."""
    two_zones = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=two_zones) as w:
        await w.until_states(cataloged=5)
        w.write_config(template(), manager(minimum=3))

        async def is_draining() -> bool:
            return (await w.states())["cataloged"] == 3

        await w.until(is_draining)
        w.write_config(template(), two_zones)
        await w.until_states(cataloged=5)
        assert set(await w.catalog()) == set(await w.vms())
        assert len(await w.vms()) == 5


async def test_a_reverted_change_brings_the_old_revision_back(tmp_path: Path) -> None:
    """Reverting in the middle wedges nothing: the fleet is whole and the catalog true."""
    wide = Settings(deletion=DeletionSettings(permitted_count=500))
    managers = manager(minimum=4)
    async with world(tmp_path, managers=managers, options=CloudOptions(), settings=wide) as w:
        await w.until_states(cataloged=4)
        [before] = await templates(w)
        w.write_config(template(machine_type="e2-medium"), manager(minimum=4))

        async def half_way() -> bool:
            return bool((await w.states())["deleting"]) or len(await w.catalog()) != 4

        await w.until(half_way)
        w.write_config(template(), manager(minimum=4))

        async def settled() -> bool:
            return await templates(w) == {before} and len(await w.groups()) == 1

        await w.until(settled)
        await w.until_states(cataloged=4)
        assert set(await w.catalog()) == set(await w.vms())
