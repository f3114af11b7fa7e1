"""actions.fan_out: a bounded number at a time, and a failure spoils only its own subject."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gce_backend.actions import fan_out
from gce_backend.actions.fan_out import LOOK_AGAIN, Result, act_in_slices, act_on_each
from gce_backend.base.errors import OperationFailedError
from gce_backend.engine.context import Context
from gce_backend.model.keys import Key
from gce_backend.settings.settings import ComputeSettings, Settings
from support.fleet_harness import World, manager, world

JOB = "a-trial"
AT_A_TIME = 2


@asynccontextmanager
async def six(tmp_path: Path) -> AsyncIterator[tuple[World, Context, list[Key]]]:
    """Six machines to act on, two at a time, and the context of a job that is no other's."""
    settings = Settings(compute=ComputeSettings(max_concurrency=AT_A_TIME))
    async with world(tmp_path, managers=manager(minimum=6), settings=settings) as w:
        await w.until_states(cataloged=6)
        assert w.daemon.context is not None
        context = w.daemon.context.of_job(JOB)
        yield w, context, sorted(context.fleet.instances, key=str)


async def test_no_more_are_acted_on_at_a_time_than_the_settings_say(tmp_path: Path) -> None:
    """Each is acted on once."""
    acting, most, done = 0, 0, []

    async def act(key: Key) -> Result:
        nonlocal acting, most
        acting += 1
        most = max(most, acting)
        await asyncio.sleep(1.0)
        acting -= 1
        done.append(key)
        return Result.CHANGED

    async with six(tmp_path) as (_, context, keys):
        outcome = await act_on_each(context, keys, act)
    assert (most, sorted(done, key=str)) == (AT_A_TIME, keys)
    assert (outcome.changed, outcome.again_after, outcome.problems) == (6, None, ())


async def test_a_run_with_very_many_subjects_ends_between_two_slices_and_goes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how many it has left, and no slice begins late."""
    monkeypatch.setattr(fan_out, "SLICE", 2)
    looked: list[Key] = []

    async def look(context: Context, keys: Sequence[Key]) -> float:
        looked.extend(keys)
        await asyncio.sleep(20.0)
        return context.clock.monotonic()

    async def act(_: Key, found: float) -> Result:
        assert found
        return Result.CHANGED

    async with six(tmp_path) as (_, context, keys):
        outcome = await act_in_slices(context, keys, look, act)
    assert looked == keys[:4]
    assert (outcome.changed, outcome.again_after) == (4, 0.0)
    assert outcome.facts["left"] == 2


async def test_one_that_fails_backs_off_alone_and_recovers(tmp_path: Path) -> None:
    """The others go on; its condition says why, and ends with its next success."""
    broken = True
    acted: list[Key] = []

    async with six(tmp_path) as (w, context, keys):
        bad = keys[2]

        async def act(key: Key) -> Result:
            acted.append(key)
            if key == bad and broken:
                raise OperationFailedError("compute.trial", "it broke", codes=["NO_ROOM"])
            return Result.NOTHING

        outcome = await act_on_each(context, keys, act)
        assert outcome.facts == {"unchanged": 5, "failed": 1}
        assert [str(bad) in problem for problem in outcome.problems] == [True]
        [condition] = context.conditions.of(bad)
        assert (condition.job, "it broke" in condition.message) == (JOB, True)

        acted.clear()
        wait = context.conditions.wait(bad)
        assert wait is not None
        again = await act_on_each(context, keys, act)
        assert bad not in acted
        assert again.facts == {"unchanged": 5, "backing_off": 1}
        assert again.again_after is not None
        assert again.again_after <= wait

        broken = False
        await w.pass_time(wait + 0.1)
        await act_on_each(context, keys, act)
        assert not context.conditions.of(bad)


async def test_what_is_under_way_is_looked_at_again_soon(tmp_path: Path) -> None:
    """Sooner than the next tick of the job."""

    async def act(key: Key) -> Result:
        return Result.WAITING if key == waits else Result.NOTHING

    async with six(tmp_path) as (_, context, keys):
        waits = keys[0]
        outcome = await act_on_each(context, keys, act)
    assert (outcome.changed, outcome.again_after) == (0, LOOK_AGAIN)


async def test_a_pause_in_the_middle_leaves_the_rest_alone(tmp_path: Path) -> None:
    """What only looks goes on."""
    async with six(tmp_path) as (w, context, keys):
        acted = 0

        async def act(_: Key) -> Result:
            nonlocal acted
            acted += 1
            if not context.paused:
                assert await w.act("/api/pause", {"reason": "a trial"}) == 200
            return Result.CHANGED

        outcome = await act_on_each(context, keys, act)
        assert 1 <= acted <= AT_A_TIME
        assert outcome.facts == {"changed": acted, "paused": 6 - acted}
        looked = await act_on_each(context, keys, act, observing=True)
        assert looked.changed == 6
