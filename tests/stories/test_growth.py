"""What growth and bursts cost: calls counted by the embedded cloud, so batches are proven used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from gce_backend.settings.settings import Settings
from support.fleet_harness import World, manager, template, world

MACHINES = 400
"""Several of what a call for each machine would make of any bound below."""
GROUPS = 4
LEASE_BATCH = 100


def _fleet() -> tuple[str, str]:
    names = [f"t{number}" for number in range(GROUPS)]
    return (
        "".join(template(name) for name in names),
        "".join(manager(name, minimum=MACHINES // GROUPS) for name in names),
    )


def _settings() -> Settings:
    """Caps on deletions that let a burst of the whole fleet through."""
    settings = Settings()
    deletion = msgspec.structs.replace(settings.deletion, reclaimed_count=2 * MACHINES)
    return msgspec.structs.replace(settings, deletion=deletion)


async def _lease_all(w: World) -> None:
    """Leases every machine, and waits until the daemon knows of all leases."""
    for start in range(0, MACHINES, LEASE_BATCH):
        requests = [
            {
                "request_id": f"r{number}",
                "duration": 3600,
                "dimensions": {"os_family": "LINUX"},
            }
            for number in range(start, start + LEASE_BATCH)
        ]
        answer = await w.broker("machine_provider.batched_lease", {"requests": requests})
        assert len(answer["responses"]) == LEASE_BATCH
    await w.until_states(leased=MACHINES)


async def _release_all(w: World) -> None:
    for start in range(0, MACHINES, LEASE_BATCH):
        numbers = range(start, start + LEASE_BATCH)
        requests = [{"request_id": f"r{number}"} for number in numbers]
        await w.broker("machine_provider.batched_release", {"requests": requests})


async def _settle(w: World) -> Counter[str]:
    """The calls until metadata updates and the like have come to rest as well."""
    await w.pass_time(90.0)
    return await w.calls()


async def test_many_machines_rise_are_leased_and_replaced_in_batches(tmp_path: Path) -> None:
    """Commits, additions, listings, acknowledgements and deletions are of many machines each."""
    templates, managers = _fleet()
    async with world(tmp_path, templates=templates, managers=managers, settings=_settings()) as w:
        await w.until_states(cataloged=MACHINES)
        batch = w.settings.machine_provider.batch_size
        rising = await _settle(w)

        first = set(await w.vms())
        await w.reset_calls()
        await _lease_all(w)
        leasing = await w.calls()

        await w.reset_calls()
        await _release_all(w)
        await w.until_states(cataloged=MACHINES)
        assert not first & set(await w.vms())
        replacing = await _settle(w)

    assert rising["machine_provider.catalog.add_machines"] <= MACHINES / batch + 2
    assert not rising["machine_provider.catalog.add_machine"]
    assert rising["compute.instanceTemplates.insert"] == GROUPS
    assert rising["compute.instanceGroupManagers.insert"] == GROUPS
    assert rising["compute.instanceGroupManagers.listManagedInstances"] <= 3 * GROUPS
    # Each machine's entity is written about six times over: found, being added, cataloged, told of
    # its subscription, updated, done. One commit for each would be thousands.
    assert rising["datastore.projects.commit"] <= 200
    assert rising["datastore.projects.lookup"] + rising["datastore.projects.runQuery"] <= 100
    # setMetadata has no batches: one for each machine, and not one more.
    assert rising["compute.instances.setMetadata"] == MACHINES

    assert leasing["datastore.projects.commit"] <= 20
    assert leasing["datastore.projects.lookup"] <= 20, "nothing is read for each machine"
    assert leasing["pubsub.projects.subscriptions.acknowledge"] <= 20

    # The messages come in a few deliveries; each may find the group's next machines.
    assert GROUPS <= replacing["compute.instanceGroupManagers.deleteInstances"] <= 6 * GROUPS
    assert replacing["machine_provider.catalog.add_machines"] <= MACHINES / batch + 20
    assert replacing["datastore.projects.commit"] <= 300
    assert replacing["pubsub.projects.subscriptions.acknowledge"] <= 50
    assert replacing["compute.instances.setMetadata"] == MACHINES, "of the new machines"
