"""The scheduler under simulated time: ticks, wake-ups, single flight, deadlines, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast

import pytest
import structlog
from structlog.testing import LogCapture

from gce_backend.engine.job import EVERY_MINUTE, Job, Outcome, Verdict
from gce_backend.engine.scheduler import JobStatus, Scheduler
from gce_backend.settings.settings import JobSettings
from support.simulation import VirtualClock, VirtualTimeLoop

NEVER = "0 0 1 1 *"
EPOCH = 1_700_000_040.0  # the top of a minute

Body = Callable[["World"], Awaitable[Outcome]]


class World:
    """The context of the jobs in these tests: notes who ran when."""

    def __init__(self) -> None:
        self.started: dict[str, list[float]] = {}
        self.running: dict[str, int] = {}
        self.overlapped: set[str] = set()
        self.observed: list[tuple[str, Verdict]] = []
        self.late: list[float] = []
        self.log = LogCapture()

    def job_run(self, job: str, verdict: Verdict, seconds: float, now: float, late: float) -> None:
        """The scheduler's observer."""
        assert seconds >= 0
        assert now > 0
        self.observed.append((job, verdict))
        self.late.append(round(late, 3))

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """The log events of one name."""
        return [event for event in self.log.entries if event["event"] == name]


def job(name: str, body: Body | None = None, **attributes: Any) -> Job[World]:
    """A job that notes its runs in the world, and does what `body` says."""

    async def run(world: World) -> Outcome:
        world.started.setdefault(name, []).append(asyncio.get_running_loop().time())
        world.running[name] = world.running.get(name, 0) + 1
        if world.running[name] > 1:
            world.overlapped.add(name)
        try:
            return await body(world) if body else Outcome()
        finally:
            world.running[name] -= 1

    return Job(name=name, run=run, **{"timeout": 30.0, "cron": NEVER, **attributes})


def lasting(seconds: float, outcome: Outcome | None = None) -> Body:
    """A body that takes so long."""

    async def body(_world: World) -> Outcome:
        await asyncio.sleep(seconds)
        return outcome or Outcome()

    return body


def saying(*outcomes: Outcome) -> Body:
    """A body with these outcomes, one after the other, then nothing more to do."""
    left = list(outcomes)

    async def body(_world: World) -> Outcome:
        return left.pop(0) if left else Outcome()

    return body


def raising(*errors: BaseException) -> Body:
    """A body that raises these, one after the other, then succeeds."""
    left = list(errors)

    async def body(_world: World) -> Outcome:
        if left:
            raise left.pop(0)
        return Outcome()

    return body


def scheduler_of(world: World, *jobs: Job[World], **arguments: Any) -> Scheduler[World]:
    """A scheduler that has not been started."""
    log = structlog.wrap_logger(
        None,
        processors=[world.log],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    arguments.setdefault("clock", VirtualClock(EPOCH))
    return Scheduler(jobs, lambda _: world, ended=world.job_run, log=log, **arguments)


@contextlib.asynccontextmanager
async def running(
    *jobs: Job[World], **arguments: Any
) -> AsyncIterator[tuple[World, Scheduler[World]]]:
    """A started scheduler; cancelled at the end, when its tasks must have been healthy."""
    world = World()
    scheduler = scheduler_of(world, *jobs, **arguments)
    scheduler.start()
    try:
        yield world, scheduler
        assert world.overlapped == set()
    finally:
        assert await scheduler.cancel() == ()
    await scheduler.wait()


def only(scheduler: Scheduler[World]) -> JobStatus:
    """The status of the only job."""
    (status,) = scheduler.status()
    return status


async def test_every_job_runs_at_the_start_in_order() -> None:
    """All jobs run at once, the first in the list first."""
    async with running(job("b"), job("a"), job("c")) as (world, _):
        await asyncio.sleep(0.1)
    assert list(world.started) == ["b", "a", "c"]
    assert world.started == {"b": [0], "a": [0], "c": [0]}


async def test_ticks_come_at_the_top_of_the_minute() -> None:
    """Started 10 s past the minute, a job ticks after 50 s, then each 60 s."""
    async with running(job("a", cron=EVERY_MINUTE), clock=VirtualClock(EPOCH + 10)) as (world, s):
        await asyncio.sleep(1)
        assert only(s).next_tick == EPOCH + 60
        await asyncio.sleep(179)
    assert world.started["a"] == pytest.approx([0, 50, 110, 170], abs=0.01)


async def test_six_fields_tick_by_the_second() -> None:
    """A cron expression with six fields has the seconds first."""
    async with running(job("a", cron="*/2 * * * * *")) as (world, _):
        await asyncio.sleep(7)
    assert world.started["a"] == pytest.approx([0, 2, 4, 6], abs=0.01)


async def test_settings_replace_cron_and_timeout() -> None:
    """What the settings say about a job is in force; what they do not say is the job's own."""
    overrides = {"a": JobSettings(cron="*/3 * * * * *"), "b": JobSettings(timeout=5)}
    async with running(job("a"), job("b"), overrides=overrides) as (world, scheduler):
        await asyncio.sleep(7)
        statuses = [(status.cron, status.timeout) for status in scheduler.status()]
    assert world.started["a"] == pytest.approx([0, 3, 6], abs=0.01)
    assert statuses == [("*/3 * * * * *", 30.0), (NEVER, 5.0)]


async def test_ticks_during_a_long_run_mean_one_more_run() -> None:
    """A job never overlaps itself; what it missed meanwhile is one run."""
    async with running(job("a", lasting(5.5), cron="* * * * * *")) as (world, _):
        await asyncio.sleep(11)
    assert world.started["a"] == pytest.approx([0, 5.55], abs=0.01)


async def test_how_late_a_run_began_is_observed() -> None:
    """A wake-up during a run waits for its end and the pause; a tick comes on time."""
    async with running(job("a", lasting(5.5), cron="0 * * * * *")) as (world, scheduler):
        await asyncio.sleep(2.5)
        scheduler.wake("a")
        await asyncio.sleep(65.0)
    assert world.started["a"] == pytest.approx([0, 5.55, 60], abs=0.01)
    assert world.late == pytest.approx([0, 3.05, 0], abs=0.01)


async def test_ticks_missed_by_a_blocked_loop_are_one_run() -> None:
    """After five minutes without the loop turning there is one tick, and then the next minute's."""
    async with running(job("a", cron=EVERY_MINUTE)) as (world, _):
        await asyncio.sleep(1)
        loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        loop._jumping.offset += 300
        await asyncio.sleep(100)
    assert world.started["a"] == pytest.approx([0, 301, 360], abs=0.01)


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
async def test_ticks_go_on_when_the_wall_clock_jumps(jump: float) -> None:
    """A day forwards or back neither stops ticks nor lets them pile up."""
    clock = VirtualClock(EPOCH)
    async with running(job("a", cron=EVERY_MINUTE), clock=clock) as (world, _):
        await asyncio.sleep(30)
        clock.epoch += jump
        await asyncio.sleep(160)
    assert world.started["a"] == pytest.approx([0, 60, 120, 180], abs=0.01)


async def test_a_timer_that_fires_early_gives_one_tick() -> None:
    """A wall clock slightly behind the loop's does not double the tick."""
    clock = VirtualClock(EPOCH)
    async with running(job("a", cron=EVERY_MINUTE), clock=clock) as (world, _):
        await asyncio.sleep(30)
        clock.epoch -= 0.2
        await asyncio.sleep(60)
    assert world.started["a"] == pytest.approx([0, 60], abs=0.01)


async def test_a_wake_up_runs_the_job_at_once() -> None:
    """Nobody waits for the minute to turn."""
    async with running(job("a")) as (world, scheduler):
        await asyncio.sleep(10)
        scheduler.wake("a")
        await asyncio.sleep(0.001)
        assert world.started["a"] == [0, 10]
        with pytest.raises(KeyError):
            scheduler.wake("unknown")


async def test_the_earliest_of_several_wake_ups_counts() -> None:
    """A later wake-up does not postpone an earlier one, and is met by it."""
    async with running(job("a")) as (world, scheduler):
        await asyncio.sleep(1)
        scheduler.wake("a", after=20)
        scheduler.wake("a", after=4)
        scheduler.wake("a", after=40)
        await asyncio.sleep(100)
    assert world.started["a"] == pytest.approx([0, 5])


async def test_wake_ups_during_a_run_mean_exactly_one_more() -> None:
    """What changed while the job looked is seen by one further look."""
    async with running(job("a", lasting(10))) as (world, scheduler):
        for _ in range(5):
            await asyncio.sleep(1)
            scheduler.wake("a")
        await asyncio.sleep(100)
    assert world.started["a"] == pytest.approx([0, 10.05])


async def test_a_job_that_changed_something_wakes_those_downstream() -> None:
    """Progress travels at once; a run without changes wakes nobody."""
    first = job("a", lasting(2, Outcome(changed=3)), wakes=("b",))
    async with running(first, job("b", saying(), wakes=("c",)), job("c")) as (world, _):
        await asyncio.sleep(30)
    assert world.started["b"] == pytest.approx([0, 2])
    assert world.started["c"] == [0]
    (finished,) = [event for event in world.events("job.finished") if event["changed"]]
    assert (finished["job"], finished["log_level"], finished["duration"]) == ("a", "info", 2.0)


async def test_a_job_that_wants_to_look_again_does() -> None:
    """`again_after` runs the job although nothing wakes it, once."""
    async with running(job("a", saying(Outcome(again_after=7)))) as (world, _):
        await asyncio.sleep(50)
    assert world.started["a"] == pytest.approx([0, 7])


async def test_a_wake_up_replaces_a_later_look() -> None:
    """A run that came earlier than `again_after` makes that one needless."""
    async with running(job("a", saying(Outcome(again_after=20)))) as (world, scheduler):
        await asyncio.sleep(5)
        scheduler.wake("a")
        await asyncio.sleep(50)
    assert world.started["a"] == pytest.approx([0, 5])


async def test_jobs_that_wake_each_other_do_not_spin() -> None:
    """Between two runs of a job there is a pause, whatever wakes it."""
    eager = [
        job("a", lasting(0, Outcome(changed=1, again_after=0)), wakes=("b",)),
        job("b", lasting(0, Outcome(changed=1)), wakes=("a", "b")),
    ]
    async with running(*eager, pause=0.1) as (world, _):
        await asyncio.sleep(10.05)
    assert [len(starts) for starts in world.started.values()] == pytest.approx([101, 101], abs=1)


async def test_a_run_past_its_deadline_is_stopped_and_the_next_tick_runs() -> None:
    """A hanging job costs one run, not the loop."""
    async with running(job("a", lasting(1000), timeout=5.0, cron=EVERY_MINUTE)) as (world, s):
        await asyncio.sleep(6)
        last = only(s).last
        assert last is not None
        assert (last.verdict, last.duration, last.error) == (Verdict.TIMEOUT, 5.0, "TimeoutError")
        await asyncio.sleep(60)
        assert only(s).consecutive_failures == 2
    assert world.started["a"] == pytest.approx([0, 60])
    assert world.observed == [("a", Verdict.TIMEOUT)] * 2
    assert [event["log_level"] for event in world.events("job.timeout")] == ["error"] * 2


async def test_a_jobs_own_timeout_error_is_not_its_deadline() -> None:
    """A TimeoutError that a job raises is an error as any other."""
    async with running(job("a", raising(TimeoutError("of a call")))) as (world, _):
        await asyncio.sleep(1)
    assert world.observed == [("a", Verdict.ERROR)]


async def test_runs_go_on_after_errors() -> None:
    """Errors in a row are logged and counted, and end neither the ticks nor the count's reset."""
    body = raising(ValueError("one"), ValueError("Authorization: Bearer canary"))
    async with running(job("a", body, cron=EVERY_MINUTE)) as (world, scheduler):
        await asyncio.sleep(61)
        status = only(scheduler)
        assert status.consecutive_failures == 2
        assert status.last is not None
        assert status.last.error == "ValueError: Authorization: Bearer [redacted]"
        await asyncio.sleep(60)
        status = only(scheduler)
    assert (status.consecutive_failures, status.runs) == (0, 3)
    assert [verdict for _, verdict in world.observed] == [Verdict.ERROR, Verdict.ERROR, Verdict.OK]
    assert [event["job"] for event in world.events("job.failed")] == ["a", "a"]


async def test_a_cancellation_inside_a_job_does_not_end_its_loop() -> None:
    """A job that awaits something cancelled fails, and runs again."""
    async with running(job("a", raising(asyncio.CancelledError()))) as (world, scheduler):
        await asyncio.sleep(1)
        scheduler.wake("a")
        await asyncio.sleep(1)
    assert [verdict for _, verdict in world.observed] == [Verdict.ERROR, Verdict.OK]


async def test_things_that_failed_alone_degrade_the_run() -> None:
    """The run counts as degraded, with its problems shown, and still wakes those downstream."""
    outcome = Outcome(changed=1, problems=("zone a: no room",), facts={"waiting": 2})
    async with running(job("a", lasting(1, outcome), wakes=("b",)), job("b")) as (world, scheduler):
        await asyncio.sleep(2)
        last = scheduler.status()[0].last
    assert last is not None
    assert (last.verdict, last.problems, last.facts) == (
        Verdict.DEGRADED,
        ("zone a: no room",),
        {"waiting": 2},
    )
    assert len(world.started["b"]) == 2
    assert world.events("job.finished")[-2]["log_level"] == "warning"


async def test_what_a_job_logs_carries_its_name() -> None:
    """The job's name is bound for everything that its run logs."""
    seen: list[Any] = []

    async def body(_world: World) -> Outcome:
        seen.append(structlog.contextvars.get_contextvars())
        return Outcome()

    async with running(job("a", body)):
        await asyncio.sleep(1)
    assert seen == [{"job": "a"}]


async def test_draining_lets_running_jobs_finish_and_starts_no_more() -> None:
    """After `stop_ticks` no run begins, whatever wakes the job; a running one ends in peace."""
    world = World()
    jobs = (job("slow", lasting(8), cron=EVERY_MINUTE), job("idle", cron=EVERY_MINUTE))
    scheduler = scheduler_of(world, *jobs)
    scheduler.start()
    await asyncio.sleep(3)
    scheduler.stop_ticks()
    scheduler.wake("slow")
    scheduler.wake("idle")
    assert await scheduler.drain(2) == ("slow",)
    assert await scheduler.drain(20) == ()
    assert asyncio.get_running_loop().time() == pytest.approx(8)
    await scheduler.wait()
    await asyncio.sleep(120)
    assert world.started == {"slow": [0], "idle": [0]}
    assert world.observed == [("idle", Verdict.OK), ("slow", Verdict.OK)]


async def test_cancelling_ends_running_jobs_at_once() -> None:
    """What still runs is cancelled, which is its verdict, and no task is left."""
    world = World()
    scheduler = scheduler_of(world, job("a", lasting(100), timeout=200.0))
    scheduler.start()
    await asyncio.sleep(1)
    assert await scheduler.cancel() == ()
    assert world.running == {"a": 0}
    assert world.observed == [("a", Verdict.CANCELLED)]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await scheduler.wait()


async def test_a_job_that_resists_is_named_and_counts_as_stuck() -> None:
    """A run that ignores its deadline is stuck some time after it, and `cancel` does not hang."""

    async def stubborn(_world: World) -> Outcome:
        end = asyncio.get_running_loop().time() + 60
        while (left := end - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        return Outcome()

    clock = VirtualClock(EPOCH)
    scheduler = scheduler_of(World(), job("a", stubborn, timeout=5.0), job("b"), clock=clock)
    scheduler.start()
    await asyncio.sleep(10)
    assert scheduler.stuck(clock.monotonic()) == ()
    await asyncio.sleep(20)
    assert scheduler.stuck(clock.monotonic()) == ("a",)
    assert only_named(scheduler, "a").running_since == EPOCH
    assert await scheduler.cancel() == ("a",)
    assert await scheduler.drain(60) == ()
    assert scheduler.stuck(clock.monotonic()) == ()


def only_named(scheduler: Scheduler[World], name: str) -> JobStatus:
    """The status of the job of that name."""
    return next(status for status in scheduler.status() if status.name == name)


async def test_stopping_steps_may_come_in_any_order() -> None:
    """Each step is safe before the start, alone, and repeated; nothing starts after a stop."""
    world = World()
    scheduler = scheduler_of(world, job("a"))
    assert await scheduler.cancel() == ()
    assert await scheduler.drain(1) == ()
    scheduler.stop_ticks()
    scheduler.start()
    await scheduler.wait()
    assert world.started == {}
    assert only(scheduler).next_tick is None


async def test_starting_twice_runs_each_job_once() -> None:
    """A second start changes nothing."""
    async with running(job("a")) as (world, scheduler):
        scheduler.start()
        await asyncio.sleep(1)
    assert world.started == {"a": [0]}


async def test_what_is_no_exception_comes_out_of_wait() -> None:
    """The root task must hear of what no job may survive."""

    class Catastrophe(BaseException):
        pass

    world = World()
    scheduler = scheduler_of(world, job("a", raising(Catastrophe())), job("b"))
    scheduler.start()
    with pytest.raises(Catastrophe):
        await scheduler.wait()
    assert ("a", Verdict.ERROR) in world.observed
    await scheduler.cancel()


async def test_a_task_that_somebody_else_cancels_comes_out_of_wait() -> None:
    """A loop that vanishes silently would be a job that never runs again."""
    scheduler = scheduler_of(World(), job("a"))
    scheduler.start()
    await asyncio.sleep(1)
    (ticker,) = [task for task in asyncio.all_tasks() if task.get_name() == "ticks of a"]
    ticker.cancel()
    with pytest.raises(RuntimeError, match="ticks of a"):
        await scheduler.wait()
    await scheduler.cancel()


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ((job("a"), job("a")), "two jobs are named a"),
        ((job("a", wakes=("b",)),), "a wakes b, which is not a job here"),
    ],
)
def test_jobs_that_do_not_fit_together_are_refused(
    jobs: tuple[Job[World], ...], message: str
) -> None:
    """Mistakes in declarations show at once."""
    with pytest.raises(ValueError, match=message):
        scheduler_of(World(), *jobs)
