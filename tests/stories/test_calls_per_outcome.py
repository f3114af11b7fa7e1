"""What a burst costs in calls to Compute: hardly more than what each machine needs of its own.

That is one setMetadata. Fingerprints, operations and the ends of deletions come in lists.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from support.broker_messages import settled
from support.fleet_harness import manager, world

BURST = 100
SET_METADATA = "compute.instances.setMetadata"
MADE_TO_LEASABLE = 1.2
RECLAIMED_AND_REPLACED = 1.3
RETURNED = 20
UNTIL_GONE = 16
"""Calls until 20 VMs are gone; a third of them make the machines that take their places."""


def _of_compute(calls: Counter[str]) -> Counter[str]:
    return Counter({name: n for name, n in calls.items() if name.startswith("compute.")})


async def test_calls_per_machine_in_a_burst(tmp_path: Path) -> None:
    """A hundred are made, leased, released, and replaced, with Compute's latencies."""
    async with world(tmp_path, managers=manager(minimum=1), options=CloudOptions()) as w:
        await w.until_states(cataloged=1)

        async def all_free() -> bool:
            return list((await w.catalog()).values()).count("AVAILABLE") == len(await w.vms())

        await w.until(all_free)
        await settled(w)
        await w.reset_calls()
        w.write_config((w.config_dir / "templates.cfg").read_text(), manager(minimum=BURST + 1))

        await w.until(lambda: w.has_vms(BURST + 1), every=2)
        await w.until(all_free, every=2)
        await settled(w)
        made = _of_compute(await w.calls())

        for number in range(BURST):
            order = {"duration": 3600, "dimensions": {"os_family": "LINUX"}}
            await w.broker("machine_provider.lease", {"request_id": f"r{number}", **order})
        await settled(w)
        old = set(await w.vms())
        await w.reset_calls()
        for number in range(BURST):
            await w.broker("machine_provider.release", {"request_id": f"r{number}"})

        async def replaced() -> bool:
            return len(set(await w.vms()) - old) == BURST and await all_free()

        await w.until(replaced, every=2)
        await settled(w)
        again = _of_compute(await w.calls())

    assert made[SET_METADATA] == again[SET_METADATA] == BURST
    assert made.total() <= MADE_TO_LEASABLE * BURST, made
    assert again.total() <= RECLAIMED_AND_REPLACED * BURST, again


async def test_calls_until_returned_machines_are_gone(tmp_path: Path) -> None:
    """Twenty at once; a look that has shown a growth is not made again when the growth ends."""
    sizes = manager(minimum=10, maximum=300)
    async with world(tmp_path, managers=sizes, options=CloudOptions()) as w:
        await w.until_states(cataloged=10)
        await settled(w)
        for number in range(RETURNED):
            order = {"duration": 3600, "dimensions": {"os_family": "LINUX"}}
            await w.broker("machine_provider.lease", {"request_id": f"r{number}", **order})

        async def held() -> set[str]:
            return {name for name, state in (await w.catalog()).items() if state == "LEASED"}

        async def all_held() -> bool:
            return len(await held()) == RETURNED

        await w.until(all_held)
        await settled(w)
        leased = await held()
        await w.reset_calls()
        for number in range(RETURNED):
            await w.broker("machine_provider.release", {"request_id": f"r{number}"})

        async def gone() -> bool:
            return leased.isdisjoint(await w.vms())

        await w.until(gone, every=0.1)
        calls = _of_compute(await w.calls())

    assert calls.total() <= UNTIL_GONE, calls
