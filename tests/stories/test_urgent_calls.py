"""What is urgent does not wait behind what is many: the priorities of the call budget."""

from __future__ import annotations

from pathlib import Path

from gce_backend.settings.settings import ComputeSettings, Settings
from support.fleet_harness import manager, template, world

MACHINES = 120
CALLS_PER_MINUTE = 40
"""So few that the machines' metadata waits for minutes, as that of 100,000 does with 1,400."""
DELETE = "compute.instanceGroupManagers.deleteInstances"
SET_METADATA = "compute.instances.setMetadata"
SOON = 2.0
"""Seconds from the message to the call."""


async def test_reclaimed_machines_are_deleted_at_once_while_metadata_waits(tmp_path: Path) -> None:
    """Two groups with sixty updates each: none of those that wait backs off with a condition.

    Updates go on with three quarters of the calls, and each is sent once.
    """
    settings = Settings(compute=ComputeSettings(calls_per_minute=CALLS_PER_MINUTE))
    names = ("linux", "other")
    async with world(
        tmp_path,
        templates="".join(template(name) for name in names),
        managers="".join(manager(name, minimum=MACHINES // 2) for name in names),
        settings=settings,
    ) as w:
        await w.until_states(cataloged=MACHINES)
        await w.pass_time(5)
        assert w.daemon.context is not None
        context = w.daemon.context
        sent = (await w.calls())[SET_METADATA]
        assert CALLS_PER_MINUTE // 2 <= sent < CALLS_PER_MINUTE
        held = [await w.lease(f"r{number}") for number in range(4)]
        before = (await w.calls())[DELETE]
        for number in range(len(held)):
            await w.broker("machine_provider.release", {"request_id": f"r{number}"})

        async def asked() -> bool:
            return (
                all(
                    instance.deletion is not None
                    for key, instance in context.fleet.instances.items()
                    if key.name in held
                )
                and (await w.calls())[DELETE] > before
            )

        assert await w.until(asked, every=0.1) <= SOON
        waiting = [
            key
            for key, instance in context.fleet.instances.items()
            if instance.active_metadata_update is not None
        ]
        assert len(waiting) > MACHINES // 2
        assert not [key for key in waiting if context.conditions.of(key)]
        await w.pass_time(400)
        assert not any(
            instance.active_metadata_update or instance.pending_metadata_updates
            for instance in context.fleet.instances.values()
        )
        assert (await w.calls())[SET_METADATA] <= MACHINES + len(held)
        assert len(await w.vms()) == MACHINES
