"""Random lives of a small fleet, with faults: nobody's machine is destroyed, and all ends well."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import DeletionSettings
from support.deletions import delete_outside, mutations, settings
from support.fleet_harness import OTHER_ZONE, World, manager, template, world

OPTIONS = CloudOptions(
    operation_seconds=0.5, boot_seconds=3.0, delete_seconds=2.0, dispatch_seconds=0.2
)
TYPES = ("e2-small", "e2-medium")
STEPS = 40
FAULTS: tuple[dict[str, Any], ...] = (
    {"method": "compute.*", "status": 503, "times": 4},
    {"method": "compute.*", "kind": "drop", "when": "after", "times": 2},
    {"method": "compute.*", "kind": "html", "times": 2},
    {"method": "datastore.*", "status": 503, "reason": "UNAVAILABLE", "times": 3},
    {"method": "datastore.projects.commit", "kind": "drop", "when": "after", "times": 2},
    {"method": "machine_provider.catalog.*", "kind": "drop", "when": "after", "times": 3},
    {"method": "machine_provider.catalog.*", "status": 503, "times": 5},
    {"method": "machine_provider.catalog.*", "kind": "latency", "when": "after", "seconds": 8},
    {"method": "pubsub.*", "status": 503, "reason": "UNAVAILABLE", "times": 5},
    {"method": "pubsub.projects.subscriptions.acknowledge", "kind": "drop", "times": 3},
    {"method": "compute.instanceGroupManagers.listManagedInstances", "kind": "empty", "times": 2},
    {"method": "compute.instanceGroupManagers.aggregatedList", "kind": "unreachable", "times": 2},
    {
        "method": "compute.instanceGroupManagers.deleteInstances",
        "kind": "operation",
        "reason": "INTERNAL_ERROR",
        "times": 2,
    },
)


class Life:
    """What happens to the fleet, and who holds what meanwhile.

    Attributes:
        held: host name and VM id of every machine on lease, by lease request.
        unwanted: leases that are to end.
        outside: VMs that somebody else deleted.
        violations: machines that vanished while they were held.
    """

    def __init__(self, w: World, seed: int) -> None:
        self.w = w
        self.rng = random.Random(seed)
        self.held: dict[str, tuple[str, str]] = {}
        self.unwanted: set[str] = set()
        self.outside: set[str] = set()
        self.violations: list[str] = []
        self.leases = 0
        self.machine_type = TYPES[0]
        self.other_zone = True

    async def watch(self) -> None:
        """At every half second: each machine that is held is there, and is the same one."""
        while True:
            vms = await self.w.vms()
            for name, gce_id in list(self.held.values()):
                there = name in vms and vms[name]["id"] == gce_id
                if not there and name not in self.outside:
                    self.violations.append(f"{name} at {self.w.clock.monotonic():.1f} s")
            await asyncio.sleep(0.5)

    async def lease(self) -> None:
        """Somebody gets a machine; for as long as the test wants it."""
        self.leases += 1
        request_id = f"lease-{self.leases}"
        wanted = {"os_family": "LINUX"}
        body = {"request_id": request_id, "duration": 86400, "dimensions": wanted}
        for _ in range(6):
            # A fault may strike this call too; the same request gets the same answer.
            with contextlib.suppress(Exception):
                answer = await self.w.broker("machine_provider.lease", body)
                if name := answer.get("hostname"):
                    vm = (await self.w.vms()).get(name)
                    if vm is None:
                        break  # somebody else had deleted it
                    self.held[request_id] = (name, vm["id"])
                    return
            await asyncio.sleep(0.5)
        # It may have been given a machine, or be given one later, which nobody would know of.
        self.unwanted.add(request_id)

    async def release(self) -> None:
        """Somebody gives a machine back."""
        if self.held:
            request_id = self.rng.choice(sorted(self.held))
            del self.held[request_id]
            self.unwanted.add(request_id)

    async def end_leases(self) -> None:
        """Ends the leases that nobody wants, as soon as the Machine Provider lets it be done."""
        while True:
            for request_id in sorted(self.unwanted):
                with contextlib.suppress(Exception):
                    answer = await self.w.release(request_id)
                    if answer.get("error") in {None, "ALREADY_RECLAIMED", "NOT_FOUND"}:
                        self.unwanted.discard(request_id)
            await asyncio.sleep(2)

    async def change_template(self) -> None:
        """Forth, and back in the middle of it."""
        self.machine_type = self.rng.choice(TYPES)
        self.write()

    async def change_zones(self) -> None:
        """A manager is drained, or named again."""
        self.other_zone = not self.other_zone
        self.write()

    def write(self) -> None:
        """Writes the configuration."""
        managers = manager(minimum=3) + (manager(zone=OTHER_ZONE, minimum=2) * self.other_zone)
        self.w.write_config(template(machine_type=self.machine_type), managers)

    async def delete_one_outside(self) -> None:
        """Somebody deletes a VM that is free."""
        taken = {name for name, _ in self.held.values()}
        with contextlib.suppress(Exception):
            free = sorted(set(await self.w.vms()) - taken)
            if free:
                name = self.rng.choice(free)
                self.outside.add(name)
                await delete_outside(self.w, name)

    async def fault(self) -> None:
        """Something fails for a while."""
        await self.w.inject(**self.rng.choice(FAULTS))

    async def restart(self) -> None:
        """The daemon crashes."""
        await self.w.restart_daemon()
        await self._until_up()

    async def _until_up(self) -> None:
        await self.w.until(self._is_up, within=120)

    async def _is_up(self) -> bool:
        return self.w.daemon.context is not None

    async def live(self) -> None:
        """Random events at random moments."""
        events = [
            *(self.lease, self.lease, self.lease, self.release, self.release),
            *(self.change_template, self.change_zones, self.delete_one_outside),
            *(self.fault, self.fault, self.fault, self.restart),
        ]
        for _ in range(STEPS):
            await self.rng.choice(events)()
            await asyncio.sleep(self.rng.uniform(0.1, 12.0))


@pytest.mark.parametrize("seed", range(2))
async def test_no_held_machine_is_destroyed_and_the_fleet_comes_to_rest(
    tmp_path: Path, seed: int
) -> None:
    """S1 and L1: leases, releases, roll-outs, drains, crashes, faults; then quiet, and no write."""
    managers = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=2)
    lasting = DeletionSettings(tombstone_seconds=300.0, window_seconds=300.0)
    async with world(tmp_path, managers=managers, options=OPTIONS, settings=settings(lasting)) as w:
        life = Life(w, seed)
        tasks = [asyncio.create_task(task) for task in (life.watch(), life.end_leases())]
        await w.until_states(cataloged=5)
        await life.live()
        await w.clear_faults()
        wanted = 3 + 2 * life.other_zone
        await w.until(lambda: _at_rest(w, life, wanted), within=3600, every=5)
        await w.pass_time(700)
        assert await _at_rest(w, life, wanted)
        await w.reset_calls()
        await w.pass_time(300)
        assert (await w.calls())["datastore.projects.commit"] <= 1, "a sign of life"
        assert await mutations(w) == {}
        assert life.violations == []
        for task in tasks:
            task.cancel()


async def _at_rest(w: World, life: Life, wanted: int) -> bool:
    """What the configuration asks for is there, held machines stay, and there is nothing else."""
    states = await w.states()
    held = {name for name, _ in life.held.values()}
    active = [m for m in await w.machines() if m["state"] in {"cataloged", "leased"}]
    free = [m for m in active if m["name"] not in held]
    leased = {m["name"] for m in active} & held
    in_use = {m["zone"]: 0 for m in active}
    for machine in active:
        in_use[machine["zone"]] += 1
    states.pop("deleted", None)
    return (
        set(states) <= {"cataloged", "leased"}
        and leased == held
        and not life.unwanted
        and all(group["instances"] for group in (await w.groups()).values())
        and len(free) + len(leased) >= wanted
        and len(await w.vms()) == len(active)
    )
