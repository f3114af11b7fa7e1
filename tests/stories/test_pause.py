"""The one switch: nothing that changes the world is done, and observing continues."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from gce_backend.clients.datastore.client import Delete, Mutation, Unindexed, Upsert
from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.settings.settings import Settings
from support.deletions import delete_outside, entity, mutations
from support.fleet_harness import PROJECT, World, manager, template, world


async def commit(w: World, mutations: Sequence[Mutation]) -> None:
    """What somebody writes into the store by hand."""
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    try:
        await clients.datastore(PROJECT).commit(mutations)
    finally:
        await clients.close()


async def test_a_daemon_that_may_not_actuate_changes_nothing(tmp_path: Path) -> None:
    """Setting `actuate`: it reads the configuration and the world, and calls nothing else."""
    async with world(tmp_path, settings=Settings(actuate=False)) as w:
        await w.pass_time(180)
        assert await mutations(w) == {}
        fleet = await w.get("/api/fleet")
        assert [shown["base_name"] for shown in fleet["templates"]] == ["linux"]


async def test_the_switch_stops_all_actuation_while_observing_goes_on(tmp_path: Path) -> None:
    """Reclaimed and missing machines wait; what happens is seen; then all goes on."""
    async with world(tmp_path, managers=manager(minimum=4)) as w:
        await w.until_states(cataloged=4)
        reclaimed = await w.lease("first")
        assert await w.act("/api/pause", {"reason": "looking"}) == 200
        await w.reset_calls()
        await w.release("first")
        await w.until(lambda: w.is_in(reclaimed, "pending-deletion"))
        leased = await w.lease("second")
        lost = next(name for name in await w.vms() if name not in {reclaimed, leased})
        await delete_outside(w, lost)
        await w.pass_time(700)
        gone = entity(w, lost)
        assert gone is not None
        assert gone.missing_since is not None
        w.write_config((w.config_dir / "templates.cfg").read_text(), manager(minimum=5))
        await w.pass_time(60)
        only_theirs = await mutations(w)
        assert only_theirs == {"compute.instances.delete": 1}
        assert reclaimed in await w.vms()
        assert await w.act("/api/resume", {}) == 200
        await w.until_states(cataloged=4, leased=1)
        assert reclaimed not in await w.vms()
        assert leased in await w.vms()


async def test_the_switch_outlives_the_daemon(tmp_path: Path) -> None:
    """A daemon that starts while actuation is paused does not actuate."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.act("/api/pause", {})
        await w.crash_daemon()
        await w.release()
        await w.reset_calls()
        await w.start_daemon()
        await w.until(lambda: w.is_in(name, "pending-deletion"))
        await w.pass_time(130)
        assert await mutations(w) == {}
        assert name in await w.vms()


async def test_orders_that_cannot_be_understood_pause_until_they_are_mended(tmp_path: Path) -> None:
    """They may be a pause: nothing is changed, no order looks obeyed, and all say what helps."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert await w.act("/api/pause", {"reason": "looking"}) == 200
        spoiled = {"paused": Unindexed(True), "pauses": Unindexed("{")}
        await commit(w, [Upsert(CONTROL_KEY.path, spoiled)])
        w.write_config(template(), manager(minimum=4))
        await w.pass_time(70)
        await w.reset_calls()
        await w.pass_time(300)
        assert await mutations(w) == {}
        assert (await w.get("/api/control"))["paused"]
        for order in ("pause", "resume"):
            assert await w.act(f"/api/{order}", {}) == 503
        problems = (await w.get("/api/status"))["problems"]
        assert [found["reason"] for found in problems] == ["CorruptEntity"]
        await w.restart_daemon()
        await w.pass_time(120)
        assert await mutations(w) == {}
        await commit(w, [Delete(CONTROL_KEY.path, None)])
        await w.until_states(cataloged=4)
        assert (await w.get("/api/status"))["problems"] == []
        assert await w.act("/api/pause", {"reason": "looking"}) == 200
        assert (await w.get("/api/control"))["paused"]
