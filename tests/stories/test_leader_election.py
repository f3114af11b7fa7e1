"""Several daemons on one store: one leads, the others stand by and take over."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.base.errors import LeadershipLostError
from gce_backend.clients.datastore.client import Delete
from gce_backend.clients.datastore.leadership import BEATS
from gce_backend.clients.datastore.terms import EPOCH
from gce_backend.clients.datastore.values import Upsert
from gce_backend.daemon.daemon import Daemon
from gce_backend.fleet.schema import SCHEMA
from gce_backend.model.entities import STORE_SCHEMA_KEY
from gce_backend.settings.settings import Settings, StoreSettings
from support.fleet_harness import CONTROL_TOKEN, World, manager, template, world
from support.simulation import ProcessClock

SHARED = Settings(store=StoreSettings(leader_election=True))
PAGES = ("/", "/machines", "/jobs", "/messages", "/events", "/configuration")
CREATE = "compute.instanceGroupManagers.createInstances"
DELETE = "compute.instanceGroupManagers.deleteInstances"


@asynccontextmanager
async def standby(w: World) -> AsyncIterator[Daemon]:
    """One more daemon on the store of the first."""
    daemon = Daemon(w.settings, clock=ProcessClock(w.clock), rng=random.Random(77))
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.abort()


async def asked(w: World, daemon: Daemon, path: str) -> tuple[int, Any]:
    """What a daemon answers."""
    async with w.session.get(daemon.url + path) as response:
        return response.status, await response.text()


async def refused_order(w: World, daemon: Daemon) -> str:
    """What a daemon says to an order that it does not carry out."""
    headers = {"Authorization": f"Bearer {CONTROL_TOKEN}"}
    order = w.session.post(daemon.url + "/api/pause", json={"reason": "x"}, headers=headers)
    async with order as response:
        assert response.status == 503
        return await response.text()


def leads(w: World, daemon: Daemon) -> Callable[[], Awaitable[bool]]:
    """Whether it says that it leads, and works."""

    async def found() -> bool:
        is_leader = "gce_backend_leader 1.0" in (await asked(w, daemon, "/metrics"))[1]
        return is_leader and daemon.context is not None

    return found


async def test_one_leads_and_the_other_says_that_it_stands_by_and_who_leads(tmp_path: Path) -> None:
    """No machine twice, no call of the other; it shows the fleet, who leads, how old that is."""
    async with world(tmp_path, settings=SHARED) as w:
        await w.until_states(cataloged=3)
        async with standby(w) as second:
            await w.pass_time(60.0)
            status, text = await asked(w, second, "/readyz")
            assert status == 503
            assert w.daemon.url in text
            assert (await asked(w, second, "/healthz"))[0] == 200
            assert "its picture is 0 s old" in text or "its picture is 1 s old" in text
            assert "stands by" in await refused_order(w, second)
            metrics = (await asked(w, second, "/metrics"))[1]
            assert "gce_backend_leader 0.0" in metrics
            assert "gce_backend_picture_age_seconds" in metrics
            assert "gce_backend_ready{" not in metrics  # that it stands by is no trouble
            assert "gce_backend_machines{" not in metrics  # else a sum would count them twice
            w.write_config(template(), manager(minimum=5))
            await w.until_states(cataloged=5)
            await w.pass_time(2.0)
            assert len(await w.vms()) == 5
            assert w.daemon.context is not None
            assert second.context is None
            shown = msgspec.json.decode((await asked(w, second, "/api/status"))[1])
            assert shown["standby"]["leader"].endswith(w.daemon.url)
            assert shown["standby"]["age"] <= 2.0
            assert shown["machines"]["cataloged"] == 5
            assert shown["problems"] == []
            for path in PAGES:
                status, page = await asked(w, second, path)
                assert status == 200
                assert "This daemon stands by" in page
                assert w.daemon.url in page
                assert "s old" in page
            assert "This daemon stands by" not in (await asked(w, w.daemon, "/"))[1]


@pytest.mark.parametrize("kind", ["killed", "stopped"])
async def test_the_other_takes_over_within_seconds(tmp_path: Path, kind: str) -> None:
    """15 s after kill -9, 2 s after SIGTERM in the middle of a call; the fleet goes on."""
    async with world(tmp_path, settings=SHARED) as w:
        await w.until_states(cataloged=3)
        before = await w.vms()
        async with standby(w) as second:
            await w.pass_time(30.0)
            await w.inject(CREATE, kind="latency", seconds=15.0)
            w.write_config(template(), manager(minimum=4))
            await w.pass_time(5.0)
            await w.reset_calls()
            begun = w.clock.monotonic()
            await (w.daemon.abort() if kind == "killed" else w.daemon.stop())
            await w.until(leads(w, second), every=0.1)
            assert w.clock.monotonic() - begun <= (15 if kind == "killed" else 2)
            assert (await w.calls())["datastore.projects.runQuery"] <= 1, "a load asks once a kind"
            w.daemon = second
            await w.until_states(cataloged=4)
            assert set(before) < set(await w.vms())
            assert (await w.calls())[DELETE] == 0


async def test_a_leader_that_cannot_show_that_it_leads_stops_working_before_another_does(
    tmp_path: Path,
) -> None:
    """Its heartbeats fail: it stops sending in time, and stands by when it can be heard again."""
    async with world(tmp_path, settings=SHARED) as w:
        await w.until_states(cataloged=3)
        first = w.daemon
        await w.inject("datastore.projects.beginTransaction", status=503, times=None)
        await w.pass_time(25.0)
        assert first.context is None
        assert first.leadership is not None
        with pytest.raises(LeadershipLostError):
            first.leadership.assure()
        await w.clear_faults()
        async with standby(w) as second:
            both = [leads(w, first), leads(w, second)]

            async def one_of_them() -> bool:
                return [await leading() for leading in both].count(True) == 1

            await w.until(one_of_them)
            w.write_config(template(), manager(minimum=4))
            await w.pass_time(60.0)
            assert len(await w.vms()) == 4


class _SleepyClock(ProcessClock):
    """The clock of a process that can be stopped for a while.

    Attributes:
        slept: for how many seconds it was.
    """

    slept = 0.0

    def monotonic(self) -> float:
        """Monotonic seconds: they go on while the process is stopped."""
        return super().monotonic() + self.slept


async def test_a_leader_that_slept_stands_by_whatever_it_does_first(tmp_path: Path) -> None:
    """It wakes up in the middle of a pull, a job, a heartbeat: it goes on, and leads again."""
    async with world(tmp_path, settings=SHARED, start=False) as w:
        clock = _SleepyClock(w.clock)
        w.daemon = Daemon(w.settings, clock=clock, rng=random.Random(7))
        await w.daemon.start()
        await w.until_states(cataloged=3)
        for turn in range(5):
            clock.slept += 100.0
            await w.pass_time(20.0 + 0.7 * turn)
            await w.until(leads(w, w.daemon), within=60.0)
        w.write_config(template(), manager(minimum=4))
        await w.until_states(cataloged=4)


async def test_a_leader_of_an_earlier_term_writes_nothing_and_sends_nothing(tmp_path: Path) -> None:
    """It slept, and was thought dead: what it does with its old picture has no effect."""
    async with world(tmp_path, settings=SHARED) as w:
        await w.until_states(cataloged=3)
        async with w.datastore() as store:
            epoch = (await store.lookup([EPOCH]))[EPOCH].properties["epoch"]
            assert epoch == 1
            async with standby(w) as second:
                sleeper = w.daemon
                context, leadership = sleeper.context, sleeper.leadership
                assert context is not None
                assert leadership is not None
                term = leadership.term
                await sleeper.abort()
                await w.until(leads(w, second))
                leadership.term = term  # as if it had only slept
                [machine, *_] = context.fleet.instances
                with pytest.raises(LeadershipLostError):
                    leadership.assure()
                assert term is not None
                late = store.within(term)
                before = await store.lookup([machine.path])
                with pytest.raises(LeadershipLostError):
                    await late.commit([Delete(machine.path, None)])
                assert await store.lookup([machine.path]) == before


async def test_a_burst_costs_two_calls_for_each_of_few_commits(tmp_path: Path) -> None:
    """Epoch and journal cost no commit of their own, no retry, and one read for each commit."""
    async with world(tmp_path, settings=SHARED) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(30.0)
        await w.reset_calls()
        w.write_config(template(), manager(minimum=63))
        took = await w.until_states(cataloged=63)
        async with w.session.get(w.daemon.url + "/metrics") as answer:
            metrics = await answer.text()
        calls = await w.calls()
        beats = took / SHARED.store.takeover_seconds * BEATS + 2
        assert calls["datastore.projects.commit"] <= 40 + beats
        begun = calls["datastore.projects.beginTransaction"]
        assert begun <= 4 + beats, "only transactions that read more than the epoch"
        read = calls["datastore.projects.lookup"]
        assert read <= calls["datastore.projects.commit"] + beats + 15
        assert 'gce_backend_call_retries_total{method="datastore.projects.commit"' not in metrics


async def test_a_daemon_that_is_older_than_the_store_never_leads_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    """A newer release led and stopped. The older one leads once the store is its own again."""
    async with world(tmp_path, settings=SHARED) as w:
        await w.until_states(cataloged=3)
        async with w.datastore() as store, standby(w) as second:
            path = STORE_SCHEMA_KEY.path
            await store.commit([Upsert(path, {"version": SCHEMA + 1, "release": "9.0.0"})])
            await w.daemon.abort()
            await w.pass_time(60.0)
            assert second.leadership is not None
            assert second.leadership.term is None
            assert (await store.lookup([EPOCH]))[EPOCH].properties["epoch"] == 1
            status, text = await asked(w, second, "/readyz")
            assert status == 503
            assert f"schema version {SCHEMA + 1}" in text
            assert "use the release that wrote it, or a newer one" in text
            await store.commit([Delete(path, None)])
            await w.until(leads(w, second))


async def test_without_leader_election_nothing_is_stored_of_it(tmp_path: Path) -> None:
    """One daemon: no heartbeat, no transaction for a commit."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        async with w.datastore() as store:
            assert not await store.lookup([EPOCH])
        assert "gce_backend_leader 1.0" in (await asked(w, w.daemon, "/metrics"))[1]
