"""Fault 12: the service account may not do something. Only an operator can mend that."""

from __future__ import annotations

from pathlib import Path

from fleet_harness import World, manager, template, world

INSERT = "compute.instanceGroupManagers.insert"


async def reasons(w: World) -> set[str]:
    """The reasons of all conditions shown."""
    return {condition["reason"] for condition in (await w.get("/api/fleet"))["conditions"]}


async def test_fault_12_what_is_forbidden_is_shown_and_not_stormed(tmp_path: Path) -> None:
    """An hour without the permission to make groups: a condition, few calls, then recovery."""
    async with world(tmp_path, templates=template(), managers=manager(), start=False) as w:
        message = "Required 'compute.instanceGroupManagers.create' permission"
        await w.inject(INSERT, status=403, reason="forbidden", message=message, times=None)
        await w.start_daemon()
        await w.pass_time(3600)
        assert "PermissionDenied" in await reasons(w)
        assert message in str(await w.get("/api/fleet"))
        assert 5 <= await w.fired() <= 30
        assert (await w.calls())[INSERT] == await w.fired()
        await w.clear_faults()
        await w.until_states(cataloged=3, within=700)
        assert "PermissionDenied" not in await reasons(w)
