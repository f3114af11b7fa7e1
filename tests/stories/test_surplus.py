"""Idle machines beyond what a group needs leave, by the one path that asks delete_machine."""

from __future__ import annotations

from pathlib import Path

from gce_backend.model.entities import Permit
from gce_backend.settings.settings import MachineProviderSettings, Settings
from support.deletions import DELETE_MACHINE, entity
from support.fleet_harness import World, manager, template, world


async def group(w: World) -> tuple[str, str]:
    """The state of the one group, and why."""
    [row] = (await w.get("/api/status"))["fleet"]
    return row["state"], row["reason"]


async def test_a_lowered_minimum_removes_idle_machines_and_no_leased_one(tmp_path: Path) -> None:
    """At once, each with the Machine Provider's permit; status and events tell of it."""
    settings = Settings(machine_provider=MachineProviderSettings(batch_size=1))
    async with world(tmp_path, managers=manager(minimum=6), settings=settings) as w:
        await w.until_states(cataloged=6)
        held = [await w.lease("a", duration=100_000), await w.lease("b", duration=100_000)]
        before = set(await w.vms())
        told: set[tuple[str, str]] = set()

        async def shrunk() -> bool:
            told.add(await group(w))
            return len(await w.vms()) == 3 and len(await w.catalog()) == 3

        w.write_config(template(), manager(minimum=3))
        assert await w.until(shrunk, every=0.02) < 60
        await w.until_states(leased=2, cataloged=1)
        vms = set(await w.vms())
        assert set(held) < vms < before
        gone = sorted(before - vms)
        assert (await w.calls())[DELETE_MACHINE] >= len(gone)
        for name in gone:
            found = entity(w, name)
            assert found is not None
            assert found.deletion is not None
            assert found.deletion.permit is Permit.REMOVED
        assert "surplus" in {state for state, _ in told}
        events = (await w.get(f"/api/events?name={gone[0]}"))["events"]
        assert "Surplus: its group has more machines than it needs." in {
            event["reason"] for event in events
        }
        await w.until(lambda: has_what_it_needs(w))
        await w.pass_time(1200)
        assert set(await w.vms()) == vms


async def has_what_it_needs(w: World) -> bool:
    """Whether the one group has neither too few nor too many machines."""
    return await group(w) == ("active", "It has what the configuration asks for.")


async def test_machines_that_somebody_added_leave_after_the_time(tmp_path: Path) -> None:
    """The manager says how long, also when the daemon restarts in between."""
    managers = manager(minimum=2, surplus_seconds=300)
    async with world(tmp_path, managers=managers) as w:
        await w.until_states(cataloged=2)
        (name,) = [key.partition("/")[2] for key in await w.groups()]
        zone = next(iter(await w.groups())).partition("/")[0]
        await w.compute("POST", f"zones/{zone}/instanceGroupManagers/{name}/resize?size=5")
        await w.until_states(cataloged=5)
        await w.pass_time(200)
        await w.restart_daemon()
        await w.until(w.is_loaded)
        await w.pass_time(60)
        assert len(await w.vms()) == 5
        assert (await group(w))[0] == "surplus"
        assert await w.until(lambda: w.has_vms(2)) < 100
