"""Hole 22: a peer slower than a job's deadline, for ever. Every run gets further than the last.

Of the 17 jobs one is not in the table: import-config stores one configuration in one transaction,
so it has nothing to be cut short in. The two that store up to 499 changes with one call store one
here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from gce_backend.fleet import picture
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import MetadataUpdate
from gce_backend.settings.settings import (
    ComputeSettings,
    DeletionSettings,
    JobSettings,
    MachineProviderSettings,
    Settings,
)
from support.broker_messages import about, publish
from support.deletions import lease_all, release_all
from support.fleet_harness import PROJECT, World, manager, template, world
from support.scraped import scrape

NUMBER = 5
"""Templates, each with a group of one machine."""
DEADLINE = 10.0
LATENCY = 3.0
"""Three calls fit into a deadline, one after the other."""
TEMPLATES = "".join(template(f"t{index}") for index in range(NUMBER))
CAPPED = DeletionSettings(
    reclaimed_count=0,
    reclaimed_share=0.0,
    permitted_count=0,
    permitted_share=0.0,
    tombstone_seconds=30.0,
)


def _managers(minimum: int = 1) -> str:
    return "".join(manager(f"t{index}", minimum=minimum) for index in range(NUMBER))


async def _updated(w: World) -> None:
    """Metadata updates wait in the store for a daemon."""
    await w.daemon.stop()
    update = MetadataUpdate({"k": "v"})
    add = when_present(lambda it: replace(it, pending_metadata_updates=(update,)))
    async with w.fleet() as fleet:
        await fleet.change([Change(key, add) for key in fleet.instances])


async def _start(w: World) -> None:
    await w.start_daemon()


async def _compressed(w: World) -> int:
    """Machines whose updates were compressed."""
    context = w.daemon.context
    instances = context.fleet.instances.values() if context is not None else ()
    return sum(not instance.pending_metadata_updates for instance in instances)


async def _lease_messages(w: World) -> None:
    """The Machine Provider says of each machine that it is leased, and not until when."""
    await publish(w, *(about(machine, "LEASED") for machine in await w.machines()))


async def _leased(w: World) -> int:
    return (await w.states())["leased"]


async def _nothing(_: World) -> None:
    """No trigger: it has work from the start."""


async def _grow(w: World) -> None:
    w.write_config(TEMPLATES, _managers(2))


async def _drain(w: World) -> None:
    for name in await w.vms():
        assert await w.act("/api/drain", {"name": name}) == 200


async def _drained(w: World) -> None:
    await _drain(w)

    async def out() -> bool:
        return not await w.catalog()

    await w.until(out)


async def _reclaimed(w: World) -> None:
    await lease_all(w, NUMBER)
    await release_all(w, NUMBER)
    await w.until_states(pending_deletion=NUMBER)


async def _lift(w: World) -> None:
    assert await w.act("/api/lift-cap", {"seconds": 3600}) == 200


async def _empty(w: World) -> None:
    assert await w.act("/api/lift-cap", {"seconds": 3600}) == 200
    w.write_config(TEMPLATES, "")

    async def held() -> bool:
        return (await w.get("/api/control"))["held_revision"] is not None

    await w.until(held)
    revision = (await w.get("/api/control"))["held_revision"]
    assert await w.act("/api/approve", {"revision": revision}) == 200


async def _without_templates(w: World) -> None:
    await _lift(w)
    w.write_config("", "")

    async def held() -> bool:
        return (await w.get("/api/control"))["held_revision"] is not None

    await w.until(held)
    revision = (await w.get("/api/control"))["held_revision"]
    assert await w.act("/api/approve", {"revision": revision}) == 200


async def _templates(w: World) -> int:
    projects = (await w.cloud_state())["compute"]["projects"]
    return len(projects.get(PROJECT, {}).get("instanceTemplates", {}))


async def _groups(w: World) -> int:
    return len(await w.groups())


async def _target(w: World) -> int:
    return sum(group["targetSize"] for group in (await w.groups()).values())


async def _known(w: World) -> int:
    return len(await w.machines())


async def _cataloged(w: World) -> int:
    return len(await w.catalog())


async def _sent(w: World) -> int:
    """Machines whose update was sent; another job finds out whether it has ended."""
    context = w.daemon.context
    return sum(
        instance.subscribed is not None
        and not instance.pending_metadata_updates
        and ((update := instance.active_metadata_update) is None or update.operation is not None)
        for instance in (context.fleet.instances.values() if context is not None else ())
    )


async def _told(w: World) -> int:
    """Machines that were told of their subscription."""
    context = w.daemon.context
    return sum(
        instance.subscribed is not None
        and not instance.pending_metadata_updates
        and instance.active_metadata_update is None
        for instance in (context.fleet.instances.values() if context is not None else ())
    )


async def _planned(w: World) -> int:
    return len(w.daemon.context.fleet.templates) if w.daemon.context is not None else 0


async def _entities(w: World) -> int:
    context = w.daemon.context
    return len(context.fleet.managers) + len(context.fleet.revisions) if context is not None else -1


async def _cut_short(w: World, job: str) -> float:
    """Runs of a job that have met their deadline."""
    name = "job_runs_total"
    return (await scrape(w, name)).sum(name, job_name=job, outcome="timeout")


async def _to_delete(w: World) -> int:
    """Machines that are to go, and whose deletion has not been asked for."""
    context = w.daemon.context
    return sum(
        (instance.pending_deletion or instance.drain) is not None and instance.deletion is None
        for instance in (context.fleet.instances.values() if context is not None else ())
    )


@dataclasses.dataclass(frozen=True)
class Slow:
    """A job, and what makes it slow.

    Attributes:
        job: its name.
        methods: what takes `LATENCY` seconds a call.
        achieved: what it does, as a number.
        goal: where that number ends.
        alone: whether each change of an entity is stored by a call of its own.
        prepare: what happens before anything is slow; None: the daemon has not been started.
        trigger: what gives the job its work.
    """

    job: str
    methods: Sequence[str]
    achieved: Callable[[World], Awaitable[int]]
    goal: int
    prepare: Callable[[World], Awaitable[None]] | None = None
    trigger: Callable[[World], Awaitable[None]] = _nothing
    alone: bool = False


COMMIT = "datastore.projects.commit"
GROUPS = "compute.instanceGroupManagers"
DELETE_MACHINE = "machine_provider.catalog.delete_machine"
SLOW = (
    Slow("process-config", ["datastore.projects.beginTransaction"], _planned, NUMBER),
    Slow("create-instance-templates", ["compute.instanceTemplates.insert"], _templates, NUMBER),
    Slow("create-instance-group-managers", [f"{GROUPS}.insert"], _groups, NUMBER),
    Slow("fetch-instances", [f"{GROUPS}.listManagedInstances"], _known, NUMBER),
    Slow("catalog-instances", ["machine_provider.catalog.add_machines"], _cataloged, NUMBER),
    Slow("update-instance-metadata", ["compute.instances.setMetadata"], _sent, NUMBER),
    Slow("check-instance-metadata-operations", ["compute.zoneOperations.get"], _told, NUMBER),
    Slow(
        "resize-instance-groups",
        [f"{GROUPS}.createInstances"],
        _target,
        2 * NUMBER,
        _nothing,
        _grow,
    ),
    Slow(
        "process-pubsub-messages", [COMMIT], _leased, NUMBER, _nothing, _lease_messages, alone=True
    ),
    Slow(
        "compress-instance-metadata-updates",
        [COMMIT],
        _compressed,
        NUMBER,
        _updated,
        _start,
        alone=True,
    ),
    Slow("remove-cataloged-instances", [DELETE_MACHINE], _cataloged, 0, _nothing, _drain),
    Slow("delete-drained-instances", [f"{DELETE_MACHINE}*"], _to_delete, 0, _drained, _lift),
    Slow("delete-instances-pending-deletion", [DELETE_MACHINE], _to_delete, 0, _reclaimed, _lift),
    Slow("delete-instance-group-managers", [f"{GROUPS}.delete"], _groups, 0, _nothing, _empty),
    Slow(
        "delete-instance-templates",
        ["compute.instanceTemplates.delete"],
        _templates,
        0,
        _nothing,
        _without_templates,
    ),
    Slow(
        "cleanup-entities",
        ["datastore.projects.beginTransaction"],
        _entities,
        0,
        _without_templates,
    ),
)


@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: slow.job)
async def test_hole_22_every_run_that_meets_its_deadline_has_got_further(
    tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In spite of a peer of which only three calls fit into a deadline."""
    if slow.alone:
        monkeypatch.setattr(picture, "BATCH", 1)
    settings = Settings(
        compute=ComputeSettings(max_concurrency=1),
        deletion=CAPPED,
        machine_provider=MachineProviderSettings(batch_size=1),
        jobs={slow.job: JobSettings(timeout=DEADLINE)},
    )
    async with world(
        tmp_path, templates=TEMPLATES, managers=_managers(), settings=settings, start=False
    ) as w:
        if slow.prepare is not None:
            await w.start_daemon()
            await w.until_states(cataloged=NUMBER)
            await slow.prepare(w)
        for method in slow.methods:
            await w.inject(method, kind="latency", seconds=LATENCY, times=None)
        if slow.prepare is None:
            await w.start_daemon()
        await slow.trigger(w)
        cut, before = await _cut_short(w, slow.job), None
        seen = cut
        start = w.clock.monotonic()
        while True:
            # In this order: what a run that was cut short has achieved was stored before.
            now, achieved = await _cut_short(w, slow.job), await slow.achieved(w)
            if achieved == slow.goal:
                break
            assert w.clock.monotonic() - start < 900, f"{achieved} of {slow.goal}"
            if now > seen:
                assert achieved != before, "a run was cut short, and had achieved nothing"
                seen, before = now, achieved
            await w.pass_time(2.0)
        assert await w.fired() >= NUMBER
        assert await _cut_short(w, slow.job) > cut, "no deadline was met"
