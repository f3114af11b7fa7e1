"""actions.aging: old machines are replaced one by one, those that do not come up are given up."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import World, manager, template, world

SELDOM = {"import-config": "* * * * *"}


async def leasable(w: World) -> int:
    """Machines that the Machine Provider leases out."""
    return list((await w.catalog()).values()).count("AVAILABLE")


async def test_old_machines_are_replaced_and_the_number_to_lease_does_not_drop(
    tmp_path: Path,
) -> None:
    """A leased one goes after its lease; with no room, one leaves first."""
    managers = manager(minimum=3, max_age_seconds=1200)
    async with world(tmp_path, managers=managers, crons=SELDOM, options=CloudOptions()) as w:
        await w.until_states(cataloged=3)
        first = set(await w.vms())
        held = await w.lease(duration=86400)
        await w.until_states(cataloged=2, leased=1)
        await w.pass_time(1100)
        assert set(await w.vms()) == first
        fewest, most = 3, 0

        async def renewed() -> bool:
            nonlocal fewest, most
            fewest = min(fewest, await leasable(w))
            most = max(most, len(await w.vms()))
            return set(await w.vms()) & first == {held}

        await w.until(renewed, 900, 2)
        assert (fewest, most) == (2, 4)
        await w.until_states(cataloged=2, leased=1)
        assert "max_age_seconds" in str(await w.get(f"/api/events?name={min(first - {held})}"))


async def test_machines_that_never_run_are_replaced_ever_more_slowly_until_one_does(
    tmp_path: Path,
) -> None:
    """At full pace, an hour would cost hundreds."""
    asleep = msgspec.structs.replace(CloudOptions(), boot_seconds=1e7)
    managers = manager(minimum=4, boot_seconds=60)
    async with world(tmp_path, managers=managers, crons=SELDOM, options=asleep) as w:
        made: set[str] = set()

        async def told() -> bool:
            made.update(machine["name"] for machine in await w.machines())
            problems = (await w.get("/api/status"))["problems"]
            return any(found["reason"] == "BootFailing" for found in problems)

        await w.until(w.is_loaded)
        await w.until(told, 900, 5)
        assert len(made) <= 8
        for _ in range(8):
            await w.pass_time(150)
            await told()
        assert 6 <= len(made) <= 12
        w.cloud.options = CloudOptions()
        await w.until_states(cataloged=4, within=1800)
        await w.pass_time(60)
        assert not (await w.get("/api/status"))["problems"]


async def test_machines_whose_agents_never_report_are_replaced_ever_more_slowly(
    tmp_path: Path,
) -> None:
    """Where the template wants an agent, and it is said so; a machine that is up stays."""
    managers = manager(minimum=3, boot_seconds=120)
    templates = template(require_agent=True)
    async with world(tmp_path, templates=templates, managers=managers, crons=SELDOM) as w:
        await w.until_states(cataloged=3)
        first = set(await w.vms())
        made = set(first)
        waits = set()
        for _ in range(16):
            await w.pass_time(100)
            made.update(await w.vms())
            for name in await w.vms():
                for found in (await w.get(f"/api/explain?name={name}"))["found"]:
                    waits.add(found["waits_for"])
                    assert found["facts"]["agent"] == "required"
        assert not first & set(await w.vms())
        assert 5 <= len(made) <= 12
        assert "Its agent has to report to the Machine Provider: nobody gets it before." in waits
        [told] = (await w.get("/api/status"))["problems"]
        assert told["reason"] == "BootFailing"
