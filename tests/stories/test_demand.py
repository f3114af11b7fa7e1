"""Requests make a group grow, once; a group whose minimum is 0 exists while somebody asks."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import OTHER_ZONE, World, manager, template, world


def request(name: str, **dimensions: Any) -> dict[str, Any]:
    """A request for a Linux machine for an hour."""
    wanted = {"os_family": "LINUX", **dimensions}
    return {"request_id": name, "duration": 3600, "dimensions": wanted}


async def ask(w: World, *names: str) -> None:
    """Makes these requests, in one call."""
    body = {"requests": [request(name) for name in names]}
    await w.broker("machine_provider.batched_lease", body)


async def waits(w: World, *names: str) -> dict[str, float]:
    """Seconds from now until each of these requests has its machine."""
    start, found = w.clock.monotonic(), dict[str, float]()

    async def served() -> bool:
        for name in names:
            if name not in found:
                answer = await w.broker("machine_provider.lease", request(name))
                if answer.get("hostname"):
                    found[name] = w.clock.monotonic() - start
        return len(found) == len(names)

    await w.until(served, every=0.25)
    return found


async def target(w: World) -> int:
    """Target size of all groups."""
    return sum(group["targetSize"] for group in (await w.groups()).values())


async def why(w: World, name: str) -> tuple[str, str]:
    """Why a request waits: the reason, and its sentence."""
    leases = (await w.call("GET", "/api/v1/leases"))["leases"]
    [waiting] = [one["waiting"] for one in leases if one["request_id"] == name]
    return waiting["reason"], waiting["message"]


async def test_an_empty_pool_is_known_to_who_asks(tmp_path: Path) -> None:
    """Its machines can be made: only what no template has is unsatisfiable."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=36000.0)
    managers = manager(minimum=0, maximum=5, spare_size=0)
    async with world(tmp_path, managers=managers, options=options) as w:
        await w.pass_time(60)
        await ask(w, "made")
        await w.broker("machine_provider.lease", request("none", num_cpus=64))
        await w.pass_time(5)
        assert await why(w, "made") == (
            "starting",
            "no machine in the catalog fits yet; up to 5 are made on demand",
        )
        assert await why(w, "none") == (
            "unsatisfiable",
            "no machine fits: the nearest differs in num_cpus (2)",
        )
        w.write_config(template(), manager(minimum=0, maximum=3, spare_size=0))

        async def is_told() -> bool:
            return (await why(w, "made"))[1].endswith("up to 3 are made on demand")

        await w.until(is_told)


async def test_an_empty_pool_serves_a_request_and_is_empty_again(tmp_path: Path) -> None:
    """Within the boot time plus 3 s, with the cloud's own latencies; nothing is left after."""
    options = CloudOptions()
    managers = manager(minimum=0, maximum=5, spare_size=0)
    async with world(tmp_path, managers=managers, options=options) as w:

        async def stands() -> bool:
            return len(await w.groups()) == 1

        await w.until(stands)
        await w.pass_time(180)
        await w.reset_calls()
        await w.pass_time(600)
        # A list of groups a minute, and the three slow looks of ten minutes.
        calls = {name: n for name, n in (await w.calls()).items() if name.startswith("compute.")}
        assert calls.pop("compute.instanceGroupManagers.aggregatedList") == 10
        assert sum(calls.values()) <= 3
        assert await w.has_no_vms()
        took = await waits(w, "r1")
        assert took["r1"] <= options.boot_seconds + 3, took
        assert len(await w.vms()) == 1
        await w.release("r1")
        assert await w.until(w.has_no_vms) < 60
        await w.pass_time(1200)
        assert await w.has_no_vms()
        assert await target(w) == 0


async def test_more_requests_than_machines_are_all_served(tmp_path: Path) -> None:
    """20 requests on a pool of 10: ten at once, ten as soon as their machines have booted."""
    options = CloudOptions()
    async with world(tmp_path, managers=manager(minimum=10, maximum=70), options=options) as w:
        await w.until_states(cataloged=10)
        names = [f"r{number}" for number in range(20)]
        await ask(w, *names)
        took = sorted((await waits(w, *names)).values())
        assert took[9] <= 1
        assert took[-1] <= options.boot_seconds + 3
        await w.until_states(leased=20, cataloged=2)
        await w.pass_time(60)
        assert await target(w) == 22


async def test_a_step_of_demand_grows_once_and_shrinks_once(tmp_path: Path) -> None:
    """A request is cancelled while its machines boot: these leave, together, after the time."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=60.0)
    managers = manager(minimum=2, maximum=20, spare_size=0, surplus_seconds=300)
    async with world(tmp_path, managers=managers, options=options) as w:
        await w.until_states(cataloged=2)
        sizes = [await target(w)]
        await ask(w, "r1", "r2")
        await w.until_states(leased=2)
        many = {**request("many"), "count": 4}
        lease = await w.call("POST", "/api/v1/leases", many)

        async def watch(seconds: float) -> None:
            for _ in range(int(seconds)):
                sizes.append(await target(w))
                await asyncio.sleep(1)

        await watch(30)
        await w.until_states(leased=2, starting=4)
        await w.call("POST", f"/api/v1/leases/{lease['id']}:release")
        await watch(270)
        await w.until_states(leased=2, cataloged=4)
        assert (await w.get("/api/status"))["fleet"][0]["state"] == "surplus"
        await watch(600)
        steps = [after - before for before, after in pairwise(sizes) if after != before]
        assert steps == [4, -4]
        await w.until_states(leased=2)


async def test_requests_go_to_the_group_that_has_such_machines(tmp_path: Path) -> None:
    """By their dimensions, evenly over its zones; what nobody has is counted."""
    templates = template("small") + template("large", machine_type="e2-standard-8")
    managers = "".join(
        manager(name, zone, minimum=0, maximum=5, spare_size=0)
        for name in ("small", "large")
        for zone in ("us-central1-a", OTHER_ZONE)
    )
    async with world(tmp_path, templates=templates, managers=managers) as w:

        async def stand() -> bool:
            return len(await w.groups()) == 4

        await w.until(stand)
        for number in range(4):
            body = request(f"r{number}", num_cpus=8)
            await w.broker("machine_provider.lease", body)
        await w.broker("machine_provider.lease", request("never", num_cpus=1000))
        await w.until_states(leased=4)
        machines = await w.machines()
        assert {machine["template"] for machine in machines} == {"large"}
        assert sorted(machine["zone"] for machine in machines) == [
            OTHER_ZONE,
            OTHER_ZONE,
            "us-central1-a",
            "us-central1-a",
        ]
        async with w.session.get(w.daemon.url + "/metrics") as response:
            text = await response.text()
        assert "gce_backend_requests_unserved 1.0" in text
