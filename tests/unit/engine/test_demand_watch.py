"""engine.demand_watch: one call a minute at rest, and no trouble with an old Machine Provider."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import World, manager, template, world

METHOD = "machine_provider.demand.get"


async def asked(w: World, seconds: float) -> int:
    """How often the Machine Provider is asked within this time."""
    await w.reset_calls()
    await w.pass_time(seconds)
    return (await w.calls())[METHOD]


async def has_size(w: World, size: int) -> bool:
    """Whether the one group has this target size."""
    return [group["targetSize"] for group in (await w.groups()).values()] == [size]


async def test_it_asks_about_once_a_minute_and_only_while_a_group_can_grow(tmp_path: Path) -> None:
    """Without a maximum_size, requests change nothing."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert await asked(w, 300) == 0
        w.write_config(template(), manager(maximum=9))
        await w.pass_time(30)
        assert 5 <= await asked(w, 300) <= 7


async def test_a_machine_provider_without_the_method_is_left_alone(tmp_path: Path) -> None:
    """Its groups follow their leases."""
    async with world(tmp_path, managers=manager(minimum=1, maximum=9), start=False) as w:
        await w.inject(METHOD, status=404, times=None)
        await w.start_daemon()
        await w.until_states(cataloged=1)
        assert await asked(w, 1200) <= 2
        await w.lease(duration=100_000)
        await w.until_states(leased=1, cataloged=1)


async def test_an_old_answer_is_not_believed_for_ever(tmp_path: Path) -> None:
    """The machines for it become surplus like others; failures are repeated with back-off."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=36000.0)
    managers = manager(minimum=0, maximum=9, spare_size=0, surplus_seconds=60)
    async with world(tmp_path, managers=managers, options=options) as w:
        request = {"request_id": "r1", "duration": 60, "dimensions": {"num_cpus": 2}}
        await w.broker("machine_provider.lease", request)
        await w.until(lambda: has_size(w, 1))
        await w.inject(METHOD, status=503, times=None)
        await w.pass_time(100)
        assert await has_size(w, 1)
        await w.until(lambda: has_size(w, 0), within=600)
        assert await asked(w, 600) <= 12
        await w.clear_faults()
        await w.until(lambda: has_size(w, 1), within=120)


async def test_line_03_one_that_does_not_wait_for_news_is_not_stormed(tmp_path: Path) -> None:
    """It answers at once, each time with the same: one question a second, not as many as can be."""
    async with world(tmp_path, managers=manager(maximum=9), start=False) as w:
        await w.inject(METHOD, kind="answer", body={"version": "1", "waiting": []}, times=500)
        await w.start_daemon()
        await w.until_states(cataloged=3)
        before = await w.fired()
        await w.pass_time(60)
        assert 50 <= await w.fired() - before <= 61


async def ask_for_cores(w: World, number: int) -> None:
    """A request that nothing in the catalog fits, so that it waits."""
    request = {"request_id": f"r{number}", "duration": 60, "dimensions": {"num_cpus": 64}}
    await w.broker("machine_provider.lease", request)


async def test_news_that_follow_news_are_known_at_once(tmp_path: Path) -> None:
    """A group that grows by old news grows for requests that are served already."""
    async with world(tmp_path, managers=manager(maximum=9)) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(60)
        await w.reset_calls()
        for number in range(1, 4):
            await ask_for_cores(w, number)
            await w.pass_time(0.2)
            assert (await w.calls())[METHOD] == number


async def test_line_03_one_that_has_other_news_each_time_is_not_stormed(tmp_path: Path) -> None:
    """It gets a question each twentieth of a second."""
    async with world(tmp_path, managers=manager(maximum=9)) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(60)
        for version in range(60):
            body = {"version": str(version), "waiting": []}
            await w.inject(METHOD, kind="answer", body=body, times=1, skip=version)
        await ask_for_cores(w, 1)  # ends a question that waits already
        before = await w.fired()
        await w.pass_time(1)
        assert 15 <= await w.fired() - before <= 21
