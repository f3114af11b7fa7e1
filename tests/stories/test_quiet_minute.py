"""What a settled fleet costs: calls per minute, counted by the embedded cloud."""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.store import Store, Write
from gce_backend.model.entities import (
    MACHINE_PROVIDER_KEY,
    MachineProviderAddress,
    SetAsideMessage,
)
from gce_backend.model.keys import Key
from gce_backend.settings.settings import Settings
from support.fleet_harness import PROJECT, World, manager, template, world
from support.outside import delete_vm

MACHINES = 1000
GROUPS = 10
MINUTES = 12
RESYNC_SECONDS = 600.0
"""In which time every entity is read again, at least once in what is looked at."""
PRODUCTION = {"import-config": "* * * * *"}
"""run --local looks at the configuration every two seconds; production every minute."""
SETTLING = 180.0
SELF_LOOK = "cloudresourcemanager.projects.testIamPermissions"
"""What the daemon calls only when it looks at itself."""


def _fleet(machines: int, groups: int) -> tuple[str, str]:
    names = [f"t{number}" for number in range(groups)]
    return (
        "".join(template(name) for name in names),
        "".join(manager(name, minimum=machines // groups) for name in names),
    )


async def _minutes(w: World, count: int) -> list[Counter[str]]:
    """The calls of each of the next minutes."""
    found = []
    for _ in range(count):
        await w.reset_calls()
        await w.pass_time(60.0)
        found.append(await w.calls())
    return found


def _of(calls: Counter[str], service: str) -> Counter[str]:
    return Counter({name: n for name, n in calls.items() if name.startswith(service + ".")})


async def test_a_quiet_minute_of_a_thousand_machines_costs_a_handful_of_calls(
    tmp_path: Path,
) -> None:
    """Each minute one list of groups, one of stopped VMs, one group's members, one read.

    The slow review of the whole store is spread over the time of a resync.
    """
    settings = Settings()
    store = msgspec.structs.replace(settings.store, resync_seconds=RESYNC_SECONDS)
    settings = msgspec.structs.replace(settings, store=store)
    templates, managers = _fleet(MACHINES, GROUPS)
    async with world(
        tmp_path, templates=templates, managers=managers, settings=settings, crons=PRODUCTION
    ) as w:
        await w.until_states(cataloged=MACHINES)
        await w.pass_time(SETTLING)
        minutes = await _minutes(w, MINUTES)
        sweep = w.settings.machine_provider.sweep_per_minute

    for calls in minutes:
        compute = _of(calls, "compute")
        compute.pop("compute.instanceTemplates.list", None)  # both once in ten minutes, see below
        compute.pop("compute.instances.aggregatedList", None)
        assert compute.pop("compute.instanceGroupManagers.aggregatedList") == 1
        assert compute.pop("compute.instanceGroupManagers.listManagedInstances", 0) <= 2
        assert not compute, "nothing else is asked of Compute, and nothing changed"

        datastore = _of(calls, "datastore")
        assert datastore.total() <= 10
        if not calls[SELF_LOOK]:  # once in ten minutes the daemon looks at itself
            assert not datastore["datastore.projects.commit"]
            assert _of(calls, "pubsub").keys() == {"pubsub.projects.subscriptions.pull"}

        assert _of(calls, "machine_provider").keys() <= {"machine_provider.catalog.get"}
        assert calls["machine_provider.catalog.get"] <= sweep + 1
        assert calls["pubsub.projects.subscriptions.pull"] <= 4

    total = sum(minutes, Counter())
    assert total["datastore.projects.runQuery"] >= 9 + MACHINES // 300, "the whole store was read"
    assert total["compute.instanceGroupManagers.listManagedInstances"] in range(
        GROUPS - 2, GROUPS + 5
    ), "every group's members are listed once in the time of a slow resync"
    assert total["compute.instanceTemplates.list"] <= math.ceil(MINUTES / 10)
    assert sum(calls[SELF_LOOK] > 0 for calls in minutes) <= math.ceil(MINUTES / 9)
    assert total["datastore.projects.commit"] <= math.ceil(MINUTES / 9), "its signs of life"
    # Once a minute those that do not run, which are none; once in ten all of them.
    all_of_them = math.ceil(MINUTES / 10) * math.ceil(MACHINES / 500)
    assert total["compute.instances.aggregatedList"] <= MINUTES + all_of_them


async def test_a_pool_at_rest_costs_one_call_a_minute_to_compute(tmp_path: Path) -> None:
    """One page of VMs shows that all is as known; groups are listed once in a slow resync.

    In that time one list each of groups, of the group's members and of templates comes on top.
    """
    async with world(tmp_path, managers=manager(minimum=20), crons=PRODUCTION) as w:
        await w.until_states(cataloged=20)
        await w.pass_time(SETTLING)
        minutes = [_of(calls, "compute") for calls in await _minutes(w, 30)]

    alone = Counter({"compute.instances.aggregatedList": 1})
    assert sum(calls == alone for calls in minutes) >= 21, "the others have one list more or two"
    assert all(calls["compute.instances.aggregatedList"] == 1 for calls in minutes)
    total = sum(minutes, Counter())
    assert total["compute.instanceGroupManagers.aggregatedList"] <= 4
    assert total.total() <= 40, total


async def test_at_rest_a_deleted_vm_is_found_by_the_next_look(tmp_path: Path) -> None:
    """Its group does not change; the VMs are listed every minute."""
    async with world(tmp_path, managers=manager(minimum=3), crons=PRODUCTION) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(SETTLING)
        for phase in (0.0, 17.0, 41.0):
            await w.pass_time(phase)
            name = min(await w.vms())
            await delete_vm(w, name)

            async def out(gone: str = name) -> bool:
                return gone not in await w.catalog()

            assert await w.until(out, within=76.0) <= 76.0
            await w.until_states(cataloged=3)
            await w.pass_time(SETTLING)


@contextlib.asynccontextmanager
async def _another_process(w: World) -> AsyncIterator[Store]:
    """The same store, as somebody else has it open."""
    clients = Clients(w.settings, w.clock, random.Random(7), Metrics())
    try:
        yield Store(clients.datastore(PROJECT))
    finally:
        await clients.close()


async def test_what_another_process_wrote_or_removed_is_seen_by_the_slow_review(
    tmp_path: Path,
) -> None:
    """Entities changed, added and removed behind our back are in the picture in the end."""
    settings = Settings()
    store = msgspec.structs.replace(settings.store, resync_seconds=120.0)
    seldom = {"import-config": "0 0 1 1 *"}  # which would read the operator's entities itself
    settings = msgspec.structs.replace(settings, store=store)
    async with world(tmp_path, settings=settings, crons=seldom) as w, _another_process(w) as other:
        await w.until_states(cataloged=3)
        assert w.daemon.context is not None
        fleet = w.daemon.context.fleet
        moved = MachineProviderAddress(instance_url="http://127.0.0.1:9")
        added = Key(SetAsideMessage.KIND, "by-hand")
        version = (await other.read([MACHINE_PROVIDER_KEY]))[MACHINE_PROVIDER_KEY].version
        written = await other.write(
            [
                Write(MACHINE_PROVIDER_KEY, moved, version),
                Write(added, SetAsideMessage(reason="by hand", received=1.0), None),
            ]
        )
        await w.pass_time(150.0)
        assert fleet.machine_provider == moved
        assert list(fleet.set_aside) == [added]
        await other.write([Write(added, None, written[1])])
        await w.pass_time(150.0)
        assert not fleet.set_aside


async def test_many_small_calls_leave_room_for_the_few_that_the_fleet_depends_on(
    tmp_path: Path,
) -> None:
    """While metadata updates use up the minute's budget, groups are looked at and VMs deleted."""
    settings = Settings()
    compute = msgspec.structs.replace(settings.compute, calls_per_minute=60)
    settings = msgspec.structs.replace(settings, compute=compute)
    async with world(tmp_path, managers=manager(minimum=300), settings=settings) as w:
        await w.until_states(cataloged=300)
        gone = await w.lease()
        await w.release()
        await w.reset_calls()

        async def replaced() -> bool:
            return gone not in await w.vms() and len(await w.vms()) == 300

        await w.until(replaced, within=60.0)
        await w.pass_time(65.0)
        calls = await w.calls()
        assert calls["compute.instances.setMetadata"] >= 20, "the updates were still under way"
