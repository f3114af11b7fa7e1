"""What tests of deleting share: machines, their entities, and what a group lists.

Use it for a test of how machines are deleted, or are not.
"""

from __future__ import annotations

import urllib.parse
from typing import Any

from gce_backend.model.entities import Instance
from gce_backend.settings.settings import (
    DeletionSettings,
    FetchSettings,
    JobSettings,
    MachineProviderSettings,
    Settings,
)
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template

DELETE_INSTANCES = "compute.instanceGroupManagers.deleteInstances"
LIST_MEMBERS = "compute.instanceGroupManagers.listManagedInstances"
DELETE_MACHINE = "machine_provider.catalog.delete_machine"
REMOVALS = f"{DELETE_MACHINE}*"
"""A removal alone, and many together."""
GET_MACHINE = "machine_provider.catalog.get"
MUTATIONS = (
    "insert",
    "delete",
    "deleteInstances",
    "createInstances",
    "setMetadata",
    "add_machines",
    "delete_machine",
)
NOT_CATALOGED = {"status": 404, "reason": "notFound", "message": "CatalogMachineEntry not found"}
TWO_ZONES = manager(minimum=3) + manager(zone=OTHER_ZONE, minimum=3)
TWO_TEMPLATES = template() + template("other")


def two_templates(minimum: int = 3, *, other: bool = True, zone: str = ZONE) -> str:
    """managers.cfg for the templates `linux` and `other`; without `other`, it drains."""
    managers = manager(minimum=minimum)
    return managers + manager("other", zone=zone, minimum=minimum) if other else managers


def settings(
    deletion: DeletionSettings | None = None,
    broker: MachineProviderSettings | None = None,
    *,
    resync_seconds: float = 600.0,
) -> Settings:
    """Settings with these sections; `resync_seconds` is how often unchanged groups are listed."""
    fetch = JobSettings(cron="*/5 * * * * *" if resync_seconds < 60 else None)
    return Settings(
        deletion=deletion or DeletionSettings(),
        machine_provider=broker or MachineProviderSettings(),
        fetch=FetchSettings(resync_seconds=resync_seconds),
        jobs={"fetch-instances": fetch, "import-config": JobSettings(cron="*/15 * * * * *")},
    )


def entity(w: World, name: str) -> Instance | None:
    """A machine's entity in the daemon's picture; None when there is none."""
    assert w.daemon.context is not None
    instances = w.daemon.context.fleet.instances
    return next((found for key, found in instances.items() if key.name == name), None)


async def lease_all(w: World, number: int) -> list[str]:
    """Leases that many machines, as r0, r1, ...; returns their host names."""
    return [await w.lease(f"r{index}") for index in range(number)]


async def release_all(w: World, number: int) -> None:
    """Ends the leases of `lease_all`."""
    requests = [{"request_id": f"r{index}"} for index in range(number)]
    await w.broker("machine_provider.batched_release", {"requests": requests})


async def listed(w: World, name: str) -> dict[str, Any]:
    """What the group of a machine lists now: the answer of listManagedInstances."""
    groups = (await w.groups()).items()
    zone, _, group = next(key for key, group in groups if name in group["instances"]).partition("/")
    path = f"zones/{zone}/instanceGroupManagers/{group}/listManagedInstances"
    answer: dict[str, Any] = await w.compute("POST", path, {})
    return answer


def without(page: dict[str, Any], name: str) -> dict[str, Any]:
    """A page of listManagedInstances that does not show a machine."""
    return {"managedInstances": [m for m in page["managedInstances"] if m["name"] != name]}


async def delete_outside(w: World, name: str) -> None:
    """Somebody deletes a VM behind its group's back."""
    zone = next(m["zone"] for m in await w.machines() if m["name"] == name)
    await w.compute("DELETE", f"zones/{zone}/instances/{urllib.parse.quote(name)}")


async def denied(w: World) -> None:
    """From now on the Machine Provider knows no machine; it is asked about each alone."""
    await w.inject(f"{DELETE_MACHINE}s", status=404, reason="notFound", times=None)
    await w.inject(GET_MACHINE, times=None, **NOT_CATALOGED)
    await w.inject(DELETE_MACHINE, kind="answer", body={"error": "ENTRY_NOT_FOUND"}, times=None)


async def mutations(w: World) -> dict[str, int]:
    """The calls since the last reset that change the world at Compute or in the catalog."""
    calls = await w.calls()
    return {
        method: count
        for method, count in calls.items()
        if method.startswith(("compute.", "machine_provider.catalog."))
        and method.rpartition(".")[2] in MUTATIONS
    }


async def held(w: World) -> list[str]:
    """The messages of the alarm that the caps hold deletions back."""
    fleet = await w.get("/api/fleet")
    return [c["message"] for c in fleet["conditions"] if c["reason"] == "DeletionCap"]


async def metric(w: World, name: str) -> float:
    """The value of a metric, of all its labels together."""
    async with w.session.get(f"{w.daemon.url}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert lines, name
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def groups_are(w: World, number: int) -> bool:
    """Whether there are so many groups."""
    return len(await w.groups()) == number


async def only_vms(w: World, names: set[str]) -> bool:
    """Whether these are all VMs."""
    return set(await w.vms()) == names


async def add_late(w: World, name: str, **attributes: str) -> None:
    """A call that was sent long ago takes effect: the catalog has an entry of that machine."""
    late = {
        "dimensions": {"backend": "GCE", "hostname": name, "os_family": "LINUX"},
        "policies": {
            "backend_project": PROJECT,
            "backend_topic": "machine-provider",
            "backend_attributes": [{"key": k, "value": v} for k, v in attributes.items()],
        },
    }
    answer = await w.broker("catalog.add_machines", {"requests": [late]})
    assert "error" not in answer["responses"][0]


async def is_tombstone(w: World, name: str) -> bool:
    """Whether a machine's VM is proven gone."""
    found = entity(w, name)
    return found is not None and found.is_tombstone


async def has_no_entry(w: World, name: str) -> bool:
    """Whether the catalog does not hold a machine."""
    return name not in await w.catalog()


async def removals(w: World) -> int:
    """Calls that remove entries from the catalog since the last reset."""
    calls = await w.calls()
    return calls[DELETE_MACHINE] + calls[f"{DELETE_MACHINE}s"]
