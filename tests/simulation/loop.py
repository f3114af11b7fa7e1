"""The event loop of a simulation: exact order, simulated time, processes that pause and die."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

from simulation.network import Listener, Network

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_WITHOUT_TIME = 2_000_000
"""After so many steps in which no time passes, something runs in a circle."""


class Process:
    """A group of tasks that stop, go on and die together, like a process of an operating system.

    Attributes:
        name: for people.
        paused: it is stopped; what it would do waits.
        dead: it was killed: nothing of it ever runs again, not even its `finally` blocks.
        tasks: the tasks that it started; some of them have ended.
        steps: how many steps it has run.
        on_step: told of each step before it runs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.dead = False
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.steps = 0
        self.on_step: Callable[[Process, asyncio.Handle], None] | None = None
        self._parked: deque[asyncio.Handle] = deque()
        self._most_tasks = 64

    def keep(self, number: int, task: asyncio.Task[Any]) -> None:
        """Keeps a task that it started, and now and then lets go of those that have ended."""
        self.tasks[number] = task
        if len(self.tasks) > self._most_tasks:
            self.tasks = {n: task for n, task in self.tasks.items() if not task.done()}
            self._most_tasks = 64 + 2 * len(self.tasks)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What is started inside belongs to this process."""
        token = PROCESS.set(self)
        try:
            yield
        finally:
            PROCESS.reset(token)

    def context(self) -> Context:
        """A context of this process."""
        with self.entered():
            return copy_context()

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether a step may run now."""
        if self.dead:
            return False
        if self.paused:
            self._parked.append(handle)
            return False
        self.steps += 1
        if self.on_step is not None:
            self.on_step(self, handle)
            return not self.dead
        return True

    def resume(self, loop: SimulatedLoop) -> None:
        """Lets a paused process go on, with all that came due meanwhile."""
        self.paused = False
        loop.add_ready(self._parked)
        self._parked = deque()


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def _nothing() -> None:
    """What a cancelled step does: it holds on to nothing."""


class _Step(asyncio.Handle):
    """A handle without what asyncio keeps for its debug mode."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: SimulatedLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None

    def cancel(self) -> None:
        """It will not run."""
        self._cancelled = True
        self._callback, self._args = _nothing, ()


class _Timer(asyncio.TimerHandle):
    """The same for what runs later."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: SimulatedLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop: SimulatedLoop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        """It will not run."""
        if not self._cancelled:
            self._cancelled = True
            self._callback, self._args = _nothing, ()
            if self._scheduled:
                self._loop.timer_cancelled()


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address.

    asyncio adds a task to a set while it is made: the number has to be there before.
    """

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        loop: SimulatedLoop,
        context: Context | None,
    ) -> None:
        self.number = loop.number()
        super().__init__(coro, loop=loop, context=context)

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class StuckError(Exception):
    """The simulation cannot go on: nothing is left to do, or time stands still."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop without I/O: when nothing is left to do now, its time jumps to the next timer.

    Attributes:
        network: what connects what runs on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._numbers = 0
        self._still = 0
        self._ready: deque[asyncio.Handle]
        self._stopping: bool
        self._timers: list[tuple[float, int, _Timer]] = []
        self._cancelled_timers = 0
        self.network = Network(self)
        self.set_task_factory(self._make_task)

    get_debug = bool  # always false; asked for each task and future

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._now

    def number(self) -> int:
        """A number that was not given before."""
        self._numbers += 1
        return self._numbers

    def add_ready(self, handles: deque[asyncio.Handle]) -> None:
        """Runs these soon, in their order."""
        self._ready.extend(handles)

    def create_future(self) -> asyncio.Future[Any]:
        """A future."""
        future = SimulatedFuture(loop=self)
        future.number = self.number()
        return future

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        del loop
        task = SimulatedTask(coro, self, context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.keep(task.number, task)
        return task

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Runs something in the next round."""
        handle = _Step(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Runs something in so many seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Runs something at a time; of what has one time, the first called runs first."""
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self.number(), timer))
        return timer

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """The same: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Any, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Runs something at once: there are no threads."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # it is the caller's
            future.set_exception(error)
        return future

    async def create_server(  # type: ignore[override]  # of its many forms, the one that is used
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Listener:
        """Listens in the network."""
        return self.network.listen(protocol_factory, str(host), int(port))

    def _run_once(self) -> None:
        """One round: time moves if nothing is ready; then all that is ready runs."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise StuckError("nothing is left to do, and nothing will come up")
            when = timers[0][0]
            if when > self._now:
                self._now, self._still = when, 0
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False
            ready.append(timer)
        count = len(ready)
        self._still += count
        if self._still > STEPS_WITHOUT_TIME:
            raise StuckError(f"{self._still} steps at {self._now:.3f} s, and time stands still")
        for _ in range(count):
            handle: Any = ready.popleft()
            if handle._cancelled:
                continue
            context: Context = handle._context
            process = context.get(PROCESS)
            if process is None or process.admits(handle):
                try:
                    context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001  # as asyncio does
                    message = f"Exception in callback {handle}"
                    self.call_exception_handler({"message": message, "exception": error})

    def timer_cancelled(self) -> None:
        """Cancelled timers leave when their time comes, or with the next clearing."""
        self._cancelled_timers += 1
        if self._cancelled_timers > 500 and self._cancelled_timers * 2 > len(self._timers):
            self._timers[:] = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits elsewhere."""
