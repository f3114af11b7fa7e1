"""What somebody else does at Compute behind the daemon's back: for tests of its reaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gce_backend.configuration import parsing, types
from gce_backend.model.keys import manager_key
from gce_backend.rules import compute_bodies
from gce_backend.rules.ownership import Mark
from support.fleet_harness import PROJECT, ZONE, World, manager, template

MANAGERS = f"zones/{ZONE}/instanceGroupManagers"


async def make_template(w: World, name: str) -> None:
    """Somebody else makes an instance template."""
    disk = {"boot": True, "initializeParams": {"sourceImage": "global/images/debian-12"}}
    properties = {
        "machineType": "e2-small",
        "disks": [disk],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    answer = await w.compute(
        "POST", "global/instanceTemplates", {"name": name, "properties": properties}
    )
    assert "error" not in answer, answer
    await w.pass_time(0.1)


async def make_group(w: World, name: str, zone: str, instance_template: str) -> None:
    """Somebody else makes an empty group."""
    body = {
        "name": name,
        "targetSize": 0,
        "instanceTemplate": f"projects/{PROJECT}/global/instanceTemplates/{instance_template}",
    }
    answer = await w.compute("POST", f"zones/{zone}/instanceGroupManagers", body)
    assert "error" not in answer, answer


async def make_marked_group(w: World, mark: Mark, *, size: int, policy: str = "DO_NOTHING") -> None:
    """The template and the group that a daemon with this mark would make of the configuration.

    Args:
        w: the world, with one template and one manager.
        mark: what they carry.
        size: VMs of the group.
        policy: its `defaultActionOnFailure`.
    """
    wanted = parsing.parse(template(), manager(), {}).templates[0]
    key = manager_key(wanted.base_name, types.checksum(wanted), ZONE)
    body = compute_bodies.template_body(mark, key.revision, wanted)
    await w.compute("POST", "global/instanceTemplates", body)
    group = compute_bodies.group_body(mark, key, PROJECT, size, body["name"])
    group["instanceLifecyclePolicy"] = {"defaultActionOnFailure": policy}
    await w.pass_time(1)
    answer = await w.compute("POST", f"zones/{ZONE}/instanceGroupManagers", group)
    assert "error" not in answer, answer
    await w.pass_time(1)


async def replace_group(w: World, at: str, names: list[str]) -> dict[str, Any]:
    """Somebody deletes a group, and makes one of its name with VMs of these names."""
    name = at.rpartition("/")[2]
    before = await w.compute("GET", f"{MANAGERS}/{name}")
    await w.compute("DELETE", f"{MANAGERS}/{name}")
    await w.until(lambda: _has_no(w, name), every=0.1)
    body = {
        "name": name,
        "description": "made by hand",
        "baseInstanceName": before["baseInstanceName"],
        "instanceTemplate": before["instanceTemplate"],
        "targetSize": 0,
    }
    answer = await w.compute("POST", MANAGERS, body)
    assert "error" not in answer, answer
    await w.pass_time(0.1)
    instances = {"instances": [{"name": each} for each in names]}
    answer = await w.compute("POST", f"{MANAGERS}/{name}/createInstances", instances)
    assert "error" not in answer, answer
    made = await w.compute("GET", f"{MANAGERS}/{name}")
    assert made["id"] != before["id"]
    found: dict[str, Any] = made
    return found


async def _has_no(w: World, group: str) -> bool:
    return all(at.rpartition("/")[2] != group for at in await w.groups())


async def ids(w: World) -> dict[str, str]:
    """The VMs' numeric ids by name."""
    return {name: vm["id"] for name, vm in (await w.vms()).items()}


async def cataloged(w: World, count: int) -> dict[str, str]:
    """Waits until so many machines can be leased; returns the ids of their VMs by name."""

    async def reached() -> bool:
        return list((await w.catalog()).values()).count("AVAILABLE") == count

    await w.until(reached)
    await w.until_states(cataloged=count)
    return await ids(w)


async def delete_vm(w: World, name: str) -> None:
    """Somebody deletes a VM."""
    zone = (await w.vms())[name]["zone"]
    await w.compute("DELETE", f"zones/{zone}/instances/{name}")

    async def gone() -> bool:
        return name not in await w.vms()

    await w.until(gone)


def whole(w: World, count: int, *, without: set[str]) -> Callable[[], Awaitable[bool]]:
    """Whether so many VMs run, all of them can be leased, and none of `without` is known."""

    async def reached() -> bool:
        catalog, vms = await w.catalog(), await w.vms()
        return (
            len(vms) == count
            and catalog == dict.fromkeys(vms, "AVAILABLE")
            and not without & vms.keys()
        )

    return reached


async def abandon(w: World, name: str) -> None:
    """Somebody takes a VM out of its group."""
    groups = await w.groups()
    [group] = [place for place, found in groups.items() if name in found["instances"]]
    zone, _, group_name = group.partition("/")
    path = f"zones/{zone}/instanceGroupManagers/{group_name}/abandonInstances"
    await w.compute("POST", path, {"instances": [f"zones/{zone}/instances/{name}"]})

    async def gone() -> bool:
        return name not in (await w.groups())[group]["instances"]

    await w.until(gone)


@contextlib.asynccontextmanager
async def reaper(w: World, every: float) -> AsyncIterator[list[str]]:
    """Somebody deletes all VMs that run, again and again; what it deleted."""
    deleted: list[str] = []

    async def reap() -> None:
        while True:
            for name, vm in (await w.vms()).items():
                if vm["status"] == "RUNNING" and name not in deleted:
                    await w.compute("DELETE", f"zones/{ZONE}/instances/{name}")
                    deleted.append(name)
            await asyncio.sleep(every)

    task = asyncio.create_task(reap())
    try:
        yield deleted
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
