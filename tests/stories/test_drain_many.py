"""Many machines are drained at a time: as few are lacking as the operator allows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gce_backend.fleet.picture import Change
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.rules.orders import MAX_MACHINE_ORDERS, drain, mention
from gce_backend.settings.settings import DeletionSettings
from support.deletions import settings
from support.fleet_harness import World, manager, world
from support.others import somebody_else
from support.pools import pool

EACH_MINUTE = {"import-config": "* * * * *"}
PLENTY = DeletionSettings(permitted_count=100, permitted_share=1.0)


async def drain_all(w: World, names: set[str], limit: int | None, mentioned: int = 0) -> None:
    """What `gce-backend drain --selector --max-unavailable` stores."""
    async with somebody_else(w) as fleet:
        keys, now = [key for key in fleet.instances if key.name in names], w.clock.now()
        told = keys * max(1, mentioned // len(keys))
        changes = [Change(key, drain(key, "old", now, limit)) for key in keys]
        await fleet.change([*changes, Change(CONTROL_KEY, mention(told, now))])


@pytest.mark.parametrize(
    ("managers", "number"), [(manager(minimum=5), 5), (pool(6, 6), 6)], ids=["group", "full pool"]
)
async def test_so_many_are_lacking_at_a_time_and_all_are_replaced(
    tmp_path: Path, managers: str, number: int
) -> None:
    """The number to lease from never falls below the minimum minus what is allowed.

    In a pool at its maximum, machines that wait to leave take up its room: it needs as many.
    """
    slow = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=60.0)
    chosen = settings(PLENTY)
    async with world(tmp_path, managers=managers, settings=chosen, options=slow) as w:
        await w.until_states(cataloged=number)
        old = set(await w.vms())
        await drain_all(w, old, 2)
        fewest = number

        async def replaced() -> bool:
            nonlocal fewest
            free = list((await w.catalog()).values()).count("AVAILABLE")
            fewest = min(fewest, free)
            return free == number and not old & set(await w.vms())

        await w.until(replaced, within=3600)
        assert fewest == number - 2


async def test_a_machine_that_waits_to_leave_can_be_leased(tmp_path: Path) -> None:
    """It is offered until its turn comes; then its lessee is waited for, and the others go on."""
    async with world(tmp_path, settings=settings(PLENTY), crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        old = set(await w.vms())
        held = await w.lease()
        await drain_all(w, old, 1)

        async def others_replaced() -> bool:
            names = set(await w.vms())
            return old & names == {held} and len(names) == 3

        await w.until(others_replaced, within=3600)
        assert (await w.catalog())[held] == "LEASED"


async def test_an_order_about_more_machines_than_are_remembered_is_heard(tmp_path: Path) -> None:
    """The daemon reads all machines once, within a minute, and no more often."""
    async with world(tmp_path, settings=settings(PLENTY), crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        old = set(await w.vms())
        await drain_all(w, old, None, MAX_MACHINE_ORDERS + 3)

        async def replaced() -> bool:
            return not old & set(await w.vms())

        assert await w.until(replaced, within=600) < 200
