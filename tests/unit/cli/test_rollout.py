"""`rollout`: how far a roll-out is, and a wait for its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gce_backend.base.errors import UnknownNameError
from gce_backend.cli.rollout import RolloutProgress, fleet_of, progress_of, told
from gce_backend.localcloud.faults import Fault
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.served_fleet import served_fleet


async def test_a_template_of_many_machines_is_read_page_by_page(tmp_path: Path) -> None:
    """The pages together say what one page says."""
    managers = manager(minimum=2) + manager(zone=OTHER_ZONE, minimum=1)
    async with world(tmp_path, managers=managers) as w:
        await w.until_states(cataloged=3)

        async def get(path: str, parameters: Mapping[str, str]) -> Any:
            return await w.get(f"{path}?{urlencode({**parameters, 'limit': '1'})}")

        paged = progress_of(await fleet_of(get, "linux"), "linux")
        assert paged == await progress(w)
        assert paged.new == 3


async def progress(w: World) -> RolloutProgress:
    """How far the daemon says it is."""
    return progress_of(await w.get("/api/fleet"), "linux")


async def is_complete(w: World) -> bool:
    """Whether it is complete."""
    return (await progress(w)).complete


async def test_it_is_complete_when_only_leased_machines_of_the_old_revision_are_left(
    tmp_path: Path,
) -> None:
    """Until then it says what it waits for."""
    async with world(tmp_path) as w:
        assert not await is_complete(w)
        await w.until_states(cataloged=3)
        await w.until(lambda: is_complete(w))
        before = await progress(w)
        assert (before.new, before.old, before.old_leased, before.waits_for) == (3, 0, 0, ())
        await w.lease(duration=100_000)
        w.cloud.faults.add(Fault(kind="stockout", zone=ZONE, times=None))
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.pass_time(60)
        held_up = await progress(w)
        assert (held_up.complete, held_up.new, held_up.old, held_up.old_leased) == (False, 0, 2, 1)
        assert held_up.revision != before.revision
        assert f"  {ZONE}: Compute cannot do what it asks for" in told(held_up)
        w.cloud.faults.clear()
        await w.until(lambda: is_complete(w), within=1800)
        after = await progress(w)
        assert (after.new, after.old, after.old_leased) == (3, 0, 1)
        assert "complete" in told(after)
        with pytest.raises(UnknownNameError, match="windows"):
            progress_of(await w.get("/api/fleet"), "windows")


def test_the_command_says_by_its_exit_code_whether_it_is_complete(tmp_path: Path) -> None:
    """For CI: 0 when it is complete, 1 when there is no such template."""
    with served_fleet(tmp_path) as fleet:
        done = fleet.run("rollout", "status", "linux", "--wait", "--timeout", "60s")
        assert done.exit_code == 0, done.output
        assert done.output.startswith("linux: complete. Revision ")
        assert fleet.run("rollout", "status", "windows").exit_code == 1
        paused = fleet.run("rollout", "pause", "linux", "--reason", "a look", "--json")
        assert [one["reason"] for one in json.loads(paused.output)["rollout_pauses"]] == ["a look"]
        assert "linux continues" in fleet.run("rollout", "resume", "linux").output
        assert "neither paused nor undone" in fleet.run("rollout", "resume", "linux").output
        refused = fleet.run("rollout", "undo", "linux")
        assert refused.exit_code == 1
        assert "no earlier revision" in refused.output
