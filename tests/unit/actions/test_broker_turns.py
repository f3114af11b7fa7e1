"""Questions to the Machine Provider: one goes ahead, a silence ends all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gce_backend.actions.broker_turns import BROKER, BrokerTurns
from gce_backend.actions.fan_out import Result
from gce_backend.base.errors import InvalidRequestError, TransientError
from gce_backend.engine.context import Context
from support.fleet_harness import World, world

MANY = 20


def _context(w: World) -> Context:
    assert w.daemon.context is not None
    return w.daemon.context.of_job("a-test")


async def test_one_goes_ahead_and_the_others_follow_its_answer(tmp_path: Path) -> None:
    """While the first is under way none else is asked; afterwards all are, side by side."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        turns, under_way, most = BrokerTurns(_context(w)), 0, []

        async def question() -> Result:
            nonlocal under_way
            under_way += 1
            most.append(under_way)
            await asyncio.sleep(1)
            under_way -= 1
            return Result.CHANGED

        steps = await asyncio.gather(*(turns.ask(question) for _ in range(MANY)))
        assert steps == [Result.CHANGED] * MANY
        assert most == [1, *range(1, MANY)]
        assert turns.answered
        assert not turns.silent


async def test_a_silence_ends_the_round_and_is_one_failure(tmp_path: Path) -> None:
    """However many wait for their turn: one was asked, and one failure is noted."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        context = _context(w)
        turns, asked = BrokerTurns(context), []

        async def question() -> Result:
            asked.append(1)
            await asyncio.sleep(1)
            raise TransientError("a.method", "no answer")

        questions = (turns.ask(question) for _ in range(MANY))
        first, *others = await asyncio.gather(*questions, return_exceptions=True)
        assert isinstance(first, TransientError)
        assert others == [Result.WAITING] * (MANY - 1)
        assert len(asked) == 1
        assert [(c.subject, c.failures) for c in context.conditions.mine()] == [(BROKER, 1)]


async def test_an_error_about_one_machine_is_no_silence(tmp_path: Path) -> None:
    """It is that machine's trouble: the next one goes ahead."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        turns = BrokerTurns(_context(w))

        async def refused() -> Result:
            raise InvalidRequestError("a.method", "bad machine")

        async def taken() -> Result:
            return Result.CHANGED

        with pytest.raises(InvalidRequestError):
            await turns.ask(refused)
        assert not turns.silent
        assert await turns.ask(taken) is Result.CHANGED
