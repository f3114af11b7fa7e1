"""Alternatives of machine type: one does what another cannot, and the first comes back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from support.fleet_harness import ZONE, World, manager, template, world

CREATE = "compute.instanceGroupManagers.createInstances"
SELDOM = {"import-config": "* * * * *"}
FIRST, SECOND = "e2-standard-4", "n2-standard-4"


def kinds(disk_size_gb: int = 20) -> str:
    """A template with one alternative."""
    text = template(machine_type=FIRST, disk_size_gb=disk_size_gb)
    return text.replace("templates {", f'templates {{ alternative_machine_types: "{SECOND}"')


async def usable(w: World) -> Counter[str]:
    """Machines that can be leased or are leased, by template."""
    states = ("cataloged", "leased")
    return Counter(one["template"] for one in await w.machines() if one["state"] in states)


async def test_an_alternative_carries_a_pool_through_a_stockout_and_a_broken_revision(
    tmp_path: Path,
) -> None:
    """Within 10 s and the boot time; the first type comes back as machines are replaced."""
    managers = manager(minimum=4, maximum=8, spare_size=0)
    async with world(
        tmp_path, templates=kinds(), managers=managers, crons=SELDOM, options=CloudOptions()
    ) as w:

        async def has(**wanted: int) -> bool:
            return await usable(w) == {name.replace("_", "-"): n for name, n in wanted.items()}

        await w.until(lambda: has(linux=4))
        for number in range(4):
            await w.lease(f"r{number}", duration=100_000)
        w.cloud.faults.add(Fault(kind="stockout", zone=ZONE, machine_type=FIRST, times=None))
        await w.reset_calls()
        for number in range(3):
            await w.release(f"r{number}")
        await w.until(lambda: has(linux=1))
        took = await w.until(lambda: has(linux=1, linux_n2=3), every=0.25)
        assert took <= 10 + CloudOptions().boot_seconds
        group = next(g for g in (await w.get("/api/groups"))["groups"] if g["template"] == "linux")
        assert "pool" in group["reason"] or "cannot" in group["reason"]
        await w.pass_time(600)
        assert await has(linux=1, linux_n2=3)
        assert (await w.calls())[CREATE] <= 12
        # A new revision that cannot be made of either type takes nothing from those who lease.
        w.cloud.faults.add(Fault(kind="stockout", zone=ZONE, machine_type=SECOND, times=None))
        old = set(await w.vms())
        w.write_config(kinds(disk_size_gb=30), managers)
        await w.pass_time(300)
        assert Counter((await w.catalog()).values()) == {"AVAILABLE": 3, "LEASED": 1}
        assert set(await w.vms()) == old
        # When the stockout is over, machines of the first type replace all that nobody holds.
        w.cloud.faults.clear()
        fewest = 3

        async def renewed() -> bool:
            nonlocal fewest
            states = Counter((await w.catalog()).values())
            fewest = min(fewest, states["AVAILABLE"])
            return len(old & set(await w.vms())) == 1 and await has(linux=5)

        await w.until(renewed, within=1800, every=1)
        assert fewest == 3, "a new machine is there before an old one leaves"
