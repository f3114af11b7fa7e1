"""One seed, lived from its beginning to the judgement."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from simulation import chance, lessees  # noqa: F401 -- its events are among all
from simulation.apart import apart
from simulation.events import KINDS, Event, approve_held, plan
from simulation.guests import remove_leftovers
from simulation.leaks import delete_leaks
from simulation.loop import Process, SimulatedLoop, StuckError
from simulation.nodes import Node
from simulation.oracle import Violation
from simulation.queue_judge import PATIENCE_SECONDS
from simulation.troubles import TROUBLES
from simulation.world import Shape, World, world

QUIET_SECONDS = 3 * 3600.0
"""How long after the last fault the fleet may take to reach its configuration (L1)."""
RISE_SECONDS = 600.0
GROWTH_SECONDS = 1800.0
"""How long the fleet may take to grow for those who wait: a zone was troubled, an order waits."""
STILL_SECONDS = 1000.0
"""How long nothing may be written then: longer than any pause between two tries, or two sizes."""


class Recipe(msgspec.Struct, frozen=True):
    """All that an episode follows from.

    Attributes:
        seed: names all chance.
        shape: what the world is made of.
        hours: how long things happen.
        events: what happens.
    """

    seed: str
    shape: Shape
    hours: float
    events: tuple[Event, ...]


class Result(msgspec.Struct):
    """What came of an episode.

    Attributes:
        recipe: what it followed from.
        violations: the promises that were broken.
        story: what happened, a line each.
        fired: how often each row of safety.md was met.
        hours: simulated hours.
        requests: HTTP requests.
    """

    recipe: Recipe
    violations: list[Violation]
    story: list[str]
    fired: Counter[int]
    hours: float
    requests: int


def recipe(
    seed: str,
    hours: float = 3.0,
    *,
    machines: int | None = None,
    daemons: int | None = None,
    election: bool | None = None,
    providers: int | None = None,
    drawn: bool | None = None,
    rate: float = 14.0,
    only: tuple[str, ...] = (),
    budget: int | None = None,
) -> Recipe:
    """What a seed stands for."""
    rng = random.Random(f"shape {seed}")
    shape = Shape(
        daemons=daemons or rng.choice((1, 1, 2, 3)),
        machines=machines or rng.choice((5, 6, 8, 10, 10, 12, 20, 40)),
        budget=rng.choice((1400, 1400, 60, 24)) if budget is None else budget,
        resync=rng.choice((120.0, 600.0, 600.0)),
        election=rng.choice((True, False)) if election is None else election,
        providers=providers or rng.choice((1, 2)),
        drawn=rng.choice((True, False)) if drawn is None else drawn,
    )
    return Recipe(seed, shape, hours, tuple(plan(seed, hours, rate, only)))


OnStep = Callable[[World, Node], Callable[[Process, asyncio.Handle], None]]


def live(given: Recipe, *, stop_at_first: bool = True, on_step: OnStep | None = None) -> Result:
    """Lives an episode in a process of its own; see `live_here`."""
    return apart(lambda: live_here(given, stop_at_first=stop_at_first, on_step=on_step))


def live_here(
    given: Recipe, *, stop_at_first: bool = True, on_step: OnStep | None = None
) -> Result:
    """Lives an episode in this process.

    Args:
        given: what it follows from.
        stop_at_first: whether the first broken promise ends it.
        on_step: makes what is told of each step of a daemon's process.
    """
    loop = SimulatedLoop()
    found: list[World] = []
    collecting = gc.isenabled()
    gc.disable()  # what is collected runs `finally` blocks: not at moments that chance chooses
    try:
        asyncio.set_event_loop(loop)
        with chance.governed(given.seed, loop):
            loop.set_exception_handler(lambda _, __: None)
            try:
                loop.run_until_complete(_episode(loop, given, found, stop_at_first, on_step))
            except StuckError as error:
                found[0].oracle.fail("L1", str(error))
    finally:
        asyncio.set_event_loop(None)
        if collecting:
            gc.enable()
    for defect in loop.network.defects:
        raise defect
    made = found[0]
    return Result(
        recipe=given,
        violations=made.oracle.violations,
        story=made.story,
        fired=made.disturbances.settle(),
        hours=loop.time() / 3600,
        requests=loop.network.requests,
    )


async def _episode(
    loop: SimulatedLoop,
    given: Recipe,
    found: list[World],
    stop_at_first: bool,
    on_step: OnStep | None,
) -> None:
    async with world(loop, given.seed, given.shape, on_step=on_step) as made:
        found.append(made)
        await _until_up(made)
        begun = loop.time()
        busy: list[asyncio.Task[Any]] = []
        for planned in given.events:
            await asyncio.sleep(max(0.0, begun + planned.at - loop.time()))
            if stop_at_first and made.oracle.violations:
                return
            rng = random.Random(f"{given.seed} {planned.kind} {planned.chance}")
            busy.append(asyncio.create_task(_happen(made, planned, rng), name=planned.kind))
        await asyncio.sleep(max(0.0, begun + given.hours * 3600 - loop.time()))
        if stop_at_first and made.oracle.violations:
            return
        await _calm(made, busy)
        if not made.oracle.violations or not stop_at_first:
            await _judge_rest(made, stop_at_first=stop_at_first)


async def _happen(made: World, planned: Event, rng: random.Random) -> None:
    made.note(f"event {planned.kind}")
    act = KINDS[planned.kind].act if planned.kind in KINDS else TROUBLES[planned.kind]
    await act(made, rng)


async def _until_up(made: World) -> None:
    """The fleet rises in peace."""
    for _ in range(120):
        if made.arrived():
            return
        await asyncio.sleep(RISE_SECONDS / 120)


async def _calm(made: World, busy: list[asyncio.Task[Any]]) -> None:
    """All faults end, all processes run, clocks are right, what is held is approved."""
    made.disturbances.clear()
    await asyncio.wait(busy, timeout=2000.0)
    for task in busy:
        if task.done() and task.exception() is not None:
            raise task.exception() or RuntimeError
    made.disturbances.clear()
    made.note("all faults end")
    made.mend_subscription()
    made.put_back()
    for host in made.hosts:
        host.clock.offset = 0.0
        if host.process is not None and host.process.paused:
            host.process.resume(made.loop)
        await made.start_on(host)
    await _judge_queue(made)
    await made.act("/api/resume", {"all": True})
    await made.act("/api/rollout-resume", {"template": "linux"})
    await _judge_growth(made)
    await made.release_everything()
    for pool in made.pools.values():
        pool.fields.pop("max_age_seconds", None)  # the fleet is to come to rest
    made.write()


async def _judge_queue(made: World) -> None:
    """Q: those who wait get what is free, now that nothing is wrong."""
    for _ in range(int(2 * PATIENCE_SECONDS / 20)):
        if not made.oracle.queue.waits_in_vain():
            return
        await asyncio.sleep(20.0)


async def _judge_growth(made: World) -> None:
    """D: now that nothing is wrong, the fleet grows for those who wait, up to its maximum."""
    for _ in range(int(GROWTH_SECONDS / 20)):
        if not made.asked_in_vain():
            return
        await approve_held(made)
        await asyncio.sleep(20.0)
    made.oracle.fail("D", made.asked_in_vain())


async def _judge_rest(made: World, *, stop_at_first: bool) -> None:
    """L1: the configuration is reached, then nothing is written."""
    deadline, held = made.loop.time() + QUIET_SECONDS, await made.deletions_held()
    while not (made.arrived() and not made.misses()):
        held_before, held = held, min(held, await made.deletions_held())
        if held < held_before:  # the caps let them go slowly, and they go
            deadline = made.loop.time() + QUIET_SECONDS
        if stop_at_first and made.oracle.violations:
            return
        if made.loop.time() > deadline:
            made.oracle.fail("L1", f"not at rest: {'; '.join(made.misses())[:600]}")
            return
        await made.release_everything()
        await made.take_out_strangers()
        await remove_leftovers(made)
        await delete_leaks(made)
        await made.look_at_conditions()
        await approve_held(made)
        await asyncio.sleep(20.0)
    made.note("the fleet is at rest")
    if made.pools.pop("odd", None):  # refused machines are tried again, which is written
        made.write()
        made.note("config: odd is taken out")
        await asyncio.sleep(STILL_SECONDS)
    # What was deleted is remembered for a while, and caps let it go slowly.
    deadline = made.loop.time() + QUIET_SECONDS
    after, fewest = made.written(), len(made.vms())
    while True:
        before = after
        await approve_held(made)
        await asyncio.sleep(STILL_SECONDS)
        after = made.written()
        if before == after:
            break
        if len(made.vms()) < fewest:
            fewest = len(made.vms())
            deadline = made.loop.time() + QUIET_SECONDS
        if made.loop.time() > deadline:
            found = made.difference(before, after)
            made.oracle.fail("L1", f"it goes on writing: {'; '.join(found)[:600]}")
            break
    await made.judge_tracking()
