"""Runs jobs: ticks, wake-ups, single flight, deadlines. The only importer of aiocron.

Each job has two tasks. Its ticker waits for cron's next moment and only sets the wake-up; its
worker runs the job whenever it is due. So a job never overlaps itself, and any number of wake-ups
during a run cause exactly one more run. A run that fails is an outcome: logged, counted and shown.
What a task of the scheduler itself raises is raised by `Scheduler.wait`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Generic

import aiocron
import msgspec
from cronsim import CronSim
from structlog.contextvars import bound_contextvars
from structlog.typing import FilteringBoundLogger

from gce_backend.base.cause import caused_by
from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError
from gce_backend.base.logs import end_run, redact
from gce_backend.engine.job import ContextT, Job, Outcome, Verdict
from gce_backend.settings.settings import JobSettings

PAUSE_SECONDS = 0.05
"""The least number of seconds from the end of a run to the next run of the same job."""

STUCK_MARGIN_SECONDS = 15.0
"""Seconds past its deadline after which a run counts as stuck."""

_CANCEL_SECONDS = 5.0  # for tasks to end after they were cancelled


RunEnded = Callable[[str, Verdict, float, UnixSeconds, float], None]
"""Notified of every run that has ended.

It gets the job's name, the verdict, the run's seconds, the time, and the seconds from when the run
was due to when it began: it waited for an earlier run of the job, or for the event loop.
"""


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of a job that ended.

    Attributes:
        verdict: how it ended.
        changed: how many things it changed.
        facts: its counts.
        problems: what failed alone in it.
        error: what it raised, without credentials; None when it raised nothing.
        duration: seconds.
    """

    verdict: Verdict
    changed: int
    facts: Mapping[str, int]
    problems: tuple[str, ...]
    error: str | None
    started_at: UnixSeconds
    duration: float


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the API shows it.

    Attributes:
        cron: when it runs at the latest, in UTC.
        timeout: deadline of a run in seconds.
        runs: runs that ended.
        consecutive_failures: runs that raised or reached their deadline since the last that did
            not.
        failing_since: when the first of them began, Unix seconds; None when there are none.
        stuck: whether the present run is far past its deadline.
        running_since: Unix seconds; None when it is not running.
        next_tick: Unix seconds; None when it does not tick.
        last: the last run that ended.
    """

    name: str
    cron: str
    timeout: float
    runs: int
    consecutive_failures: int
    failing_since: UnixSeconds | None
    stuck: bool
    running_since: UnixSeconds | None
    next_tick: UnixSeconds | None
    last: LastRun | None


class _Ticks(aiocron.Cron):  # type: ignore[misc]  # aiocron has no types
    """aiocron on our clock, started anew for each tick.

    aiocron reads the machine's clock once and counts on from there: after a stall it would fire
    every missed tick, and after a jump of the clock it would fire at the wrong times.
    """

    def __init__(self, spec: str, clock: Clock) -> None:
        super().__init__(spec, loop=asyncio.get_running_loop(), tz=UTC)
        self._clock = clock
        self.due: float | None = None

    def initialize(self) -> None:
        self.time = self._clock.now()
        self.loop_time = self.loop.time()
        start = self.time
        # By the wall clock, timers may fire a moment early: that must not fire one tick twice.
        if self.due is not None and 0 < self.due - start < 1:
            start = self.due
        self.cronsim = CronSim(self.spec, datetime.fromtimestamp(start, UTC))

    def call_func(self) -> None:
        """Ends `next` at once, in place of a task that calls nothing."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def get_next(self) -> float:
        self.due = next(self.cronsim).timestamp()
        return float(self.loop_time + self.due - self.time)


class _Worker(Generic[ContextT]):
    """One job's state, and its loop."""

    def __init__(
        self,
        job: Job[ContextT],
        context: ContextT,
        *,
        clock: Clock,
        ended: RunEnded,
        log: FilteringBoundLogger,
        pause: float,
    ) -> None:
        self.job = job
        self.running_since: float | None = None
        self._context = context
        self._clock = clock
        self._ended = ended
        self._log = log
        self._pause = pause
        self._ticks: _Ticks | None = None
        self._deadline: float | None = None  # monotonic; of the current run
        self._due: float | None = None  # monotonic; when to run next
        self._changed = asyncio.Event()  # set when _due or _stopped changes
        self._stopped = False
        self._runs = 0
        self._failures = 0
        self._failing_since: float | None = None
        self._last: LastRun | None = None

    def wake(self, after: float) -> None:
        due = self._clock.monotonic() + after
        if self._due is None or due < self._due:
            self._due = due
            self._changed.set()

    def stop(self) -> None:
        self._stopped = True
        self._changed.set()

    async def tick(self) -> None:
        self._ticks = _Ticks(self.job.cron, self._clock)
        try:
            while True:
                await self._ticks.next()
                self.wake(0)
        finally:
            self._ticks.stop()
            self._ticks = None

    async def work(self, scheduler: Scheduler[ContextT]) -> None:
        free_at = self._clock.monotonic()
        while await self._is_due(free_at):
            now = self._clock.monotonic()
            late = now - (now if self._due is None else self._due)
            self._due = None
            outcome = await self._run(late)
            free_at = self._clock.monotonic() + self._pause
            if outcome.again_after is not None:
                self.wake(outcome.again_after)
            for name in (*outcome.wakes, *(self.job.wakes if outcome.changed > 0 else ())):
                scheduler.wake(name)

    async def _is_due(self, free_at: float) -> bool:
        """Waits until the job is to run; False when it must no longer run."""
        while not self._stopped:
            self._changed.clear()
            delay = None
            if self._due is not None:
                delay = max(self._due, free_at) - self._clock.monotonic()
                if delay <= 0:
                    return True
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                pass  # now it is due
        return False

    async def _run(self, late: float) -> Outcome:
        """One run; whatever goes wrong in it becomes its verdict."""
        started_at, started = self._clock.now(), self._clock.monotonic()
        self.running_since, self._deadline = started_at, started + self.job.timeout
        verdict, outcome, error = Verdict.ERROR, Outcome(), None
        try:
            with bound_contextvars(job=self.job.name), caused_by(f"job {self.job.name}"):
                verdict, outcome, error = await self._attempt()
        except BaseException as stop:
            if isinstance(stop, asyncio.CancelledError):
                verdict = Verdict.CANCELLED
            error = stop
            raise
        finally:
            seconds = self._clock.monotonic() - started
            self.running_since = self._deadline = None
            self._runs += 1
            failed = verdict in {Verdict.ERROR, Verdict.TIMEOUT}
            self._failures = self._failures + 1 if failed else 0
            self._failing_since = (self._failing_since or started_at) if failed else None
            self._last = LastRun(
                verdict=verdict,
                changed=outcome.changed,
                facts=outcome.facts,
                problems=tuple(redact(problem) for problem in outcome.problems),
                error=None if error is None else _text(error),
                started_at=started_at,
                duration=seconds,
            )
            now = self._clock.now()
            self._ended(self.job.name, verdict, seconds, now, late)
            self._report(self._last, error)
        return outcome

    async def _attempt(self) -> tuple[Verdict, Outcome, BaseException | None]:
        limit = asyncio.timeout(self.job.timeout)
        try:
            async with limit:
                outcome = await self.job.run(self._context)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Verdict.ERROR, Outcome(), error  # something in the job was cancelled, not this
        except Exception as error:  # noqa: BLE001  # a job's failure must not end its loop
            verdict = Verdict.TIMEOUT if limit.expired() else Verdict.ERROR
            return verdict, Outcome(), error
        return outcome.verdict, outcome, None

    def _report(self, run: LastRun, error: BaseException | None) -> None:
        log = self._log.bind(job=self.job.name, duration=round(run.duration, 3))
        counts, severe = end_run(self.job.name)
        if severe:
            log.warning("job.logged", counts=counts)
        elif counts:
            log.info("job.logged", counts=counts)
        if run.verdict is Verdict.TIMEOUT:
            log.error("job.timeout", timeout=self.job.timeout, failures=self._failures)
        elif run.verdict is Verdict.ERROR:
            # The message of a BackendError is enough; any other error needs its traceback.
            trace = None if isinstance(error, BackendError) else error
            log.error("job.failed", error=run.error, failures=self._failures, exc_info=trace)
        elif run.verdict is Verdict.CANCELLED:
            log.info("job.cancelled")
        elif run.problems:
            log.warning("job.finished", changed=run.changed, facts=run.facts, problems=run.problems)
        elif run.changed:
            log.info("job.finished", changed=run.changed, facts=run.facts)
        else:
            log.debug("job.finished", changed=0, facts=run.facts)

    def is_stuck(self, now: UnixSeconds) -> bool:
        return self._deadline is not None and now > self._deadline + STUCK_MARGIN_SECONDS

    def status(self) -> JobStatus:
        return JobStatus(
            name=self.job.name,
            cron=self.job.cron,
            timeout=self.job.timeout,
            runs=self._runs,
            consecutive_failures=self._failures,
            failing_since=self._failing_since,
            stuck=self.is_stuck(self._clock.monotonic()),
            running_since=self.running_since,
            next_tick=None if self._ticks is None else self._ticks.due,
            last=self._last,
        )


class Scheduler(Generic[ContextT]):
    """Runs jobs until it is asked to stop.

    Stopping has steps, each of which may be left out or repeated: `stop_ticks`, `drain`, `cancel`.
    """

    def __init__(
        self,
        jobs: Sequence[Job[ContextT]],
        context_of: Callable[[str], ContextT],
        *,
        clock: Clock,
        ended: RunEnded,
        log: FilteringBoundLogger,
        overrides: Mapping[str, JobSettings] | None = None,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """Takes the jobs; nothing runs yet.

        Args:
            jobs: in the order in which they first run.
            context_of: makes what is given to the runs of a job, from its name.
            clock: the time of ticks and durations.
            ended: notified of every run.
            log: for `job.finished`, `job.failed`, `job.timeout`, `job.cancelled`.
            overrides: job name to the cron expression and deadline that replace its own.
            pause: the least seconds from the end of a run to the next of the same job.

        Raises:
            ValueError: two jobs have one name, or a job wakes one that is not there.
        """
        self._workers: dict[str, _Worker[ContextT]] = {}
        for declared in jobs:
            job = _overridden(declared, (overrides or {}).get(declared.name))
            if job.name in self._workers:
                raise ValueError(f"two jobs are named {job.name}")
            self._workers[job.name] = _Worker(
                job,
                context_of(job.name),
                clock=clock,
                ended=ended,
                log=log,
                pause=pause,
            )
        for job in jobs:
            for name in job.wakes:
                if name not in self._workers:
                    raise ValueError(f"{job.name} wakes {name}, which is not a job here")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tickers: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        """Starts every job, in order, and its ticks. Does nothing after the first time."""
        if self._tasks or self._stopped:
            return
        for name, worker in self._workers.items():
            worker.wake(0)
            self._tasks[name] = asyncio.create_task(worker.work(self), name=f"job {name}")
            self._tickers.append(asyncio.create_task(worker.tick(), name=f"ticks of {name}"))

    def wake(self, name: str, after: float = 0) -> None:
        """Runs a job, once more if it is running now. The earliest of several wake-ups counts.

        Args:
            name: the job's name.
            after: seconds from now.

        Raises:
            KeyError: there is no such job.
        """
        self._workers[name].wake(after)

    def stop_ticks(self) -> None:
        """No run begins from now on, by tick or by wake-up."""
        self._stopped = True
        for ticker in self._tickers:
            ticker.cancel()
        for worker in self._workers.values():
            worker.stop()

    async def drain(self, deadline_seconds: float) -> tuple[str, ...]:
        """Waits for runs that have begun; no new ones begin.

        Returns:
            the names of the jobs that still run at the deadline.
        """
        self.stop_ticks()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=deadline_seconds)
        return tuple(name for name, task in self._tasks.items() if not task.done())

    async def cancel(self) -> tuple[str, ...]:
        """Cancels the runs that have not finished, and waits a few seconds for them to end.

        Returns:
            the names of the jobs that are still running.
        """
        self.stop_ticks()
        tasks = (*self._tasks.values(), *self._tickers)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        return tuple(name for name, task in self._tasks.items() if not task.done())

    async def wait(self) -> None:
        """Waits until all tasks have ended, which they do only when the scheduler is stopped.

        Raises:
            BaseException: what the first task to fail raised. Jobs' own failures are not among
                them, unless what they raise is no Exception.
            RuntimeError: a task was cancelled, and not by this scheduler.
        """
        pending = {*self._tasks.values(), *self._tickers}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():
                    task.result()
                elif not self._stopped:
                    raise RuntimeError(f'the task "{task.get_name()}" was cancelled')

    def status(self) -> list[JobStatus]:
        """All jobs, in their order, as they are now."""
        return [worker.status() for worker in self._workers.values()]

    def stuck(self, now: UnixSeconds) -> tuple[str, ...]:
        """The jobs whose run continues although its deadline is well past.

        Args:
            now: `clock.monotonic()`.
        """
        return tuple(name for name, worker in self._workers.items() if worker.is_stuck(now))


def _text(error: BaseException) -> str:
    return redact(f"{type(error).__name__}: {error}".removesuffix(": "))


def _overridden(job: Job[ContextT], settings: JobSettings | None) -> Job[ContextT]:
    if settings is None:
        return job
    return replace(
        job,
        timeout=job.timeout if settings.timeout is None else settings.timeout,
        cron=job.cron if settings.cron is None else settings.cron,
    )
