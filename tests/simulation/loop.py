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
        tasks: the tasks that it started and that have not ended.
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


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    number = 0

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
        self._timer_cancelled_count = 0
        self._scheduled: list[asyncio.TimerHandle]
        self.network = Network(self)
        self.set_task_factory(self._make_task)

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
        task = SimulatedTask(coro, loop=loop, context=context)
        number = task.number = self.number()
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks[number] = task
            task.add_done_callback(lambda _: process.tasks.pop(number, None) and None)
        return task

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Runs something in the next round."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

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
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)
        if not ready and not self._stopping:
            if not scheduled:
                raise StuckError("nothing is left to do, and nothing will come up")
            when = scheduled[0].when()
            if when > self._now:
                self._now, self._still = when, 0
        while scheduled and scheduled[0].when() <= self._now:
            ready.append(heapq.heappop(scheduled))
        count = len(ready)
        self._still += count
        if self._still > STEPS_WITHOUT_TIME:
            raise StuckError(f"{self._still} steps at {self._now:.3f} s, and time stands still")
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]  # it has one
            if process is None or process.admits(handle):
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave when their time comes, or with the next clearing."""
        self._timer_cancelled_count += 1
        if self._timer_cancelled_count > 500 and self._timer_cancelled_count * 2 > len(
            self._scheduled
        ):
            self._scheduled[:] = [h for h in self._scheduled if not h.cancelled()]
            heapq.heapify(self._scheduled)
            self._timer_cancelled_count = 0

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits elsewhere."""
