"""Simulated time: an event loop that jumps to its next timer when nothing else is left to do.

What aiohttp's client asks a server of the same loop goes through memory, so the loop knows when
every request in flight has been served. Real sockets on loopback work in it too.

Use it for a test that needs the clock itself; every async test runs in this loop already.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

from aiohttp.client_proto import ResponseHandler

from gce_backend.base.clock import Clock
from simulation.network import Harm, Harmless, Listener, Network

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


THREAD_SECONDS = 60.0
"""What a thread may take with a computation; time stands still meanwhile."""
KERNEL_SECONDS = 0.0005
"""What the kernel may take to deliver what was sent."""


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits for a timer: instead of waiting, it moves its owner's clock.

    Attributes:
        offset: the owner's clock.
        patience: how long the kernel or a thread may take with what it does for the loop, in real
            seconds.
    """

    offset = 0.0
    patience: Callable[[], float]

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timers: only another thread or the kernel can wake this loop
            return super().select(1)
        patience = self.patience()
        if patience:
            ready = super().select(patience)
        if not ready:
            self.offset += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0 and moves only by jumping over idle waits.

    What aiohttp's client connects to a server of the same loop never reaches the kernel: the bytes
    go from one end to the other in memory, so that the loop knows when nothing is under way.
    Threads, other processes and plain streams find the same servers on their real sockets.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self._jumping.patience = self._patience
        super().__init__(self._jumping)
        self._network = self.network_of(Harmless())
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._meant: WeakKeyDictionary[socket.socket, tuple[str, int]] = WeakKeyDictionary()
        self._kernel = False
        self._working: set[asyncio.Future[Any]] = set()

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._jumping.offset

    def stall(self, seconds: float) -> None:
        """Does nothing else for a time, as a loop whose process gets no CPU."""
        self._jumping.offset += seconds

    @property
    def _clock_resolution(self) -> float:
        """How early a timer may fire: not at all.

        A nanosecond, as asyncio allows, lets those who look at the clock wait for that nanosecond
        again and again, while simulated time stands still.
        """
        return math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """The resolution of the machine's clock is none of ours."""

    def _patience(self) -> float:
        if self._working:
            return THREAD_SECONDS
        return KERNEL_SECONDS if self._kernel else 0.0

    def run_in_executor(
        self, executor: Any, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Runs something in a thread; simulated time waits for it."""
        future = super().run_in_executor(executor, func, *args)
        self._working.add(future)
        future.add_done_callback(self._working.discard)
        return future

    def network_of(self, harm: Harm) -> Network:
        """A network in memory for something that harms it."""
        network = Network(self, latency=0.0, lost=0.0)
        network.harm = harm
        return network

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """A server that listens in memory too."""
        server = await super().create_server(protocol_factory, *args, **options)
        for listening in server.sockets:
            host, port = listening.getsockname()[:2]
            self._servers[host, port] = server
            listener = Listener(self._network, (host, port), protocol_factory)
            self._network.listeners[host, port] = listener
        return server

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connects; to a server of this loop only once it is known by what."""
        server = self._servers.get(address[:2])
        if server is not None and server.is_serving():
            self._meant[sock] = address[:2]
        else:
            self._kernel = True
            await super().sock_connect(sock, address)

    def _make_socket_transport(
        self, sock: socket.socket, protocol: Any, waiter: Any = None, **options: Any
    ) -> asyncio.Transport:
        """What all connections come by, of clients and of servers."""
        address = self._meant.pop(sock, None)
        if address is not None and isinstance(protocol, ResponseHandler):
            sock.close()
            self.call_soon(lambda: waiter.done() or waiter.set_result(None))
            return self._network.connect("", *address, protocol)
        self._kernel = True
        if address is not None:
            sock.setblocking(True)
            sock.connect(address)
            sock.setblocking(False)
        made: asyncio.Transport = super()._make_socket_transport(  # type: ignore[misc]
            sock, protocol, waiter, **options
        )
        return made


class VirtualClock(Clock):
    """A clock on the running loop's simulated time.

    Attributes:
        epoch: the wall-clock time, in Unix seconds, at which the loop's time is 0. Set it to make
            the wall clock jump.
    """

    def __init__(self, epoch: float | None = None) -> None:
        super().__init__()
        self.epoch = time.time() if epoch is None else epoch

    def now(self) -> float:
        """Wall-clock seconds since the Unix epoch, moving with simulated time."""
        return self.epoch + self.monotonic()

    def monotonic(self) -> float:
        """The running loop's simulated seconds."""
        return asyncio.get_running_loop().time()


class ProcessClock(Clock):
    """Another clock as one process has it, which has asked about no stored time yet.

    Attributes:
        ahead: seconds by which its wall clock is ahead of the other. Set it to make it jump.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.ahead = 0.0

    def now(self) -> float:
        """Wall-clock seconds since the Unix epoch."""
        return self._clock.now() + self.ahead

    def monotonic(self) -> float:
        """The other clock's monotonic seconds."""
        return self._clock.monotonic()
