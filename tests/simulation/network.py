"""A network in memory: listeners, connections whose two ends are aiohttp's, and what harms them."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from typing import Any, Literal, NamedTuple, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler

LATENCY_SECONDS = 0.002
"""From one end to the other."""
LOST_SECONDS = 900.0
"""How long a server learns nothing of a client that has gone, at most."""
_REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE|HEAD) (\S+) HTTP/1\.1\r\n")

Fate = Literal["drop", "lose", "late", "repeat", "stall", "drip", "stale"]
"""What may happen to a request.

drop: the connection breaks before the server sees it; lose: after the server has seen it, so that
the answer is lost; late: the server sees it only after `seconds`, the client hears nothing; repeat:
the server sees it twice; stall: nobody ever sees it; drip: the answer comes a few bytes at a time;
stale: the answer is one that was given to the same request earlier.
"""


class Request(NamedTuple):
    """A request on its way.

    Attributes:
        client: the name of the process that sends it.
        verb: the HTTP verb.
        path: its path and query.
        raw: all of it, if it was sent in one piece.
    """

    client: str
    verb: str
    path: str
    raw: bytes


class Verdict(NamedTuple):
    """What happens to a request; `seconds` late. `told` is called when it strikes."""

    fate: Fate
    seconds: float = 0.0
    told: Callable[[], None] = lambda: None


class Harm(Protocol):
    """Decides what happens to requests, and sees every answer."""

    def verdict(self, request: Request) -> Verdict | None:
        """What happens to a request; None lets it pass."""
        ...

    def is_quiet(self, request: Request) -> bool:
        """Whether nothing can happen to a request; then no verdict is asked for."""
        ...

    def answered(self, request: Request, answer: Callable[[], bytes]) -> None:
        """An answer has left the server."""
        ...

    def earlier(self, request: Request) -> bytes | None:
        """An answer that was given to the same request earlier."""
        ...


class Harmless:
    """Lets everything pass."""

    def verdict(self, request: Request) -> Verdict | None:
        """Nothing happens to it."""
        del request
        return None

    def is_quiet(self, request: Request) -> bool:
        """Nothing happens to it."""
        del request
        return True

    def answered(self, request: Request, answer: Callable[[], bytes]) -> None:
        """Does not look."""

    def earlier(self, request: Request) -> bytes | None:
        """Remembers none."""
        del request
        return None


class _Address:
    """What stands for a listener's socket."""

    def __init__(self, host: str, port: int) -> None:
        self._name = host, port

    def getsockname(self) -> tuple[str, int]:
        return self._name


class Listener:
    """A listening address."""

    def __init__(self, network: Network, key: tuple[str, int], make: Callable[[], Any]) -> None:
        self.sockets = [_Address(*key)]
        self.make = make
        self.context: Context = copy_context()
        self._network, self._key = network, key

    def close(self) -> None:
        """Listens no longer."""
        self._network.listeners.pop(self._key, None)

    async def wait_closed(self) -> None:
        """It is closed at once."""


class _End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, name: str, protocol: Any, context: Context) -> None:
        super().__init__()
        self.name = name
        self.protocol = protocol
        self.context = context
        self.peer: _End
        self.gone = False  # this end is closed
        self._network = network
        self._held: list[bytes] | None = None
        self._ends_after_held = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def is_closing(self) -> bool:
        return self.gone

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self._held is None

    def pause_reading(self) -> None:
        if self._held is None:
            self._held = []

    def resume_reading(self) -> None:
        held, self._held = self._held, None
        for data in held or ():
            self._network.loop.call_soon(self.receive, data, context=self.context)
        if self._ends_after_held:
            self._network.loop.call_soon(self.end, None, context=self.context)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def receive(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self.gone:
            return
        if self._held is not None:
            self._held.append(data)
        else:
            self.protocol.data_received(data)

    def close(self) -> None:
        if not self.gone:
            self.end(None)
            self.hang_up()

    def abort(self) -> None:
        self.close()

    def hang_up(self) -> None:
        """Tells the other end."""
        peer = self.peer
        self._network.after(self._network.latency, peer.hung_up, context=peer.context)

    def hung_up(self) -> None:
        """The other end is closed: so is this one, once what came before has been read."""
        if self._held:
            self._ends_after_held = True
        else:
            self.end(None)

    def end(self, error: BaseException | None) -> None:
        """The connection is over, as this end sees it."""
        if not self.gone:
            self.gone = True
            self._network.loop.call_soon(self.protocol.connection_lost, error, context=self.context)


class _Client(_End):
    """The end that asks."""

    def __init__(self, network: Network, name: str, protocol: Any, context: Context) -> None:
        super().__init__(network, name, protocol, context)
        self.request: Request | None = None
        self.verdict: Verdict | None = None
        self.owed = False  # the server has yet to answer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.gone:
            return
        raw = bytes(data)
        match = _REQUEST.match(raw)
        if match is not None:
            path = match[2].decode("ascii", "replace")
            self.request = Request(self.name, match[1].decode(), path, raw)
            self.verdict = self._network.harm.verdict(self.request)
            self.owed = True
        self._network.send(self, raw)

    def hang_up(self) -> None:
        """A server that works on a request learns of it when it answers, or long afterwards."""
        network, peer = self._network, self.peer
        seconds = network.lost if self.owed else network.latency
        network.after(seconds, peer.hung_up, context=peer.context)


class _Server(_End):
    """The end that answers."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.gone:
            self._network.answer(self, bytes(data))


class Network:
    """Carries bytes between the ends of connections.

    Args:
        loop: the loop that it runs on.
        latency: seconds from one end to the other.
        lost: seconds until a server that works on a request learns that its client has gone.

    Attributes:
        loop: the loop that it runs on.
        harm: what decides what happens to requests.
        listeners: what listens, by address.
        requests: how many were sent.
        defects: what handlers raised that is no answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        latency: float = LATENCY_SECONDS,
        lost: float = LOST_SECONDS,
    ) -> None:
        self.loop = loop
        self.latency = latency
        self.lost = lost
        self.harm: Harm = Harmless()
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.requests = 0
        self.defects: list[Exception] = []
        self._port = 20000
        self._ends: dict[str, list[_Client]] = {}

    def listen(self, make: Callable[[], Any], host: str, port: int) -> Listener:
        """Listens; port 0 is any free one.

        Raises:
            OSError: the address is taken.
        """
        if not port:
            self._port += 1
            port = self._port
        if (host, port) in self.listeners:
            raise OSError("address already in use")
        listener = Listener(self, (host, port), make)
        self.listeners[host, port] = listener
        return listener

    def connect(self, name: str, host: str, port: int, protocol: Any) -> asyncio.Transport:
        """Connects a client's protocol to what listens there; returns the client's end.

        Raises:
            OSError: nothing does.
        """
        listener = self.listeners.get((host, port))
        if listener is None:
            raise OSError("connection refused")
        client = _Client(self, name, protocol, copy_context())
        server = _Server(self, host, listener.context.run(listener.make), listener.context)
        client.peer, server.peer = server, client
        ends = self._ends.setdefault(name, [])
        ends[:] = [end for end in ends if not end.gone]
        ends.append(client)
        protocol.connection_made(client)
        listener.context.run(server.protocol.connection_made, server)
        return client

    def after(
        self, seconds: float, work: Callable[..., object], *args: Any, context: Context
    ) -> None:
        """Does something later; without latency in the next round, in the order of the calls."""
        if seconds > 0:
            self.loop.call_later(seconds, work, *args, context=context)
        else:
            self.loop.call_soon(work, *args, context=context)

    def cut(self, name: str) -> None:
        """All connections of a process that was killed end."""
        for end in self._ends.pop(name, ()):
            if not end.gone:
                end.gone = True
                end.hang_up()

    def send(self, client: _Client, raw: bytes) -> None:
        """Takes a client's bytes to its server, or does not."""
        server, verdict = client.peer, client.verdict
        seconds = self.latency
        if client.request is not None and client.request.raw is raw:
            self.requests += 1
            if verdict is not None and verdict.fate != "stale":
                verdict.told()
        match verdict.fate if verdict else None:
            case "drop":
                broken = ConnectionResetError("the connection was reset")
                self.after(seconds, client.end, broken, context=client.context)
                return
            case "stall":
                return
            case "late":
                seconds += verdict.seconds if verdict else 0.0
            case "repeat":
                self._repeat(client, raw)
            case _:
                pass
        self.after(seconds, server.receive, raw, context=server.context)

    def _repeat(self, client: _Client, raw: bytes) -> None:
        """The same bytes once more, on a connection whose answers nobody reads."""
        port = next((key for key in self.listeners if key[0] == client.peer.name), None)
        request = client.request
        if port is None or request is None or request.raw is not raw:
            return
        listener = self.listeners[port]
        copy = _Client(self, client.name, asyncio.Protocol(), client.context)
        server = _Server(self, port[0], listener.context.run(listener.make), listener.context)
        copy.peer, server.peer = server, copy
        listener.context.run(server.protocol.connection_made, server)
        seconds = client.verdict.seconds if client.verdict else 0.0
        self.after(self.latency + seconds, server.receive, raw, context=server.context)
        self.after(self.lost + seconds, server.end, None, context=server.context)

    def answer(self, server: _Server, raw: bytes) -> None:
        """Takes a server's bytes to its client, or does not."""
        client = server.peer
        assert isinstance(client, _Client)
        request, verdict = client.request, client.verdict
        client.owed = False
        if client.gone:
            # The server wrote to somebody who has gone, and learns it now.
            self.loop.call_soon(server.end, None, context=server.context)
            return
        if request is not None:
            self.harm.answered(request, lambda: raw)
        fate = verdict.fate if verdict else None
        if fate == "lose":
            broken = ConnectionResetError("the connection was reset")
            self.after(self.latency, client.end, broken, context=client.context)
            self.loop.call_soon(server.end, None, context=server.context)
            return
        if fate == "late":
            return  # the way back is as bad: the client hears nothing
        if fate == "stale" and request is not None:
            earlier = self.harm.earlier(request)
            if earlier is not None and verdict is not None:
                verdict.told()
                raw = earlier
        pieces = [raw]
        if fate == "drip":
            size = max(1, len(raw) // 12)
            pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        seconds = self.latency
        for piece in pieces:
            self.after(seconds, client.receive, piece, context=client.context)
            seconds += (verdict.seconds if verdict else 0.0) / 12


class _Protocol(ResponseHandler):
    """aiohttp's, with a place in sets that does not depend on its address."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class MemoryConnector(aiohttp.BaseConnector):
    """Hands aiohttp's client connections in memory.

    Args:
        network: the network.
        name: the process that connects.

    Attributes:
        name: the same.
    """

    def __init__(self, network: Network, name: str) -> None:
        super().__init__(limit=100)
        self._network = network
        self.name = name
        self._made = functools.partial(_Protocol, loop=network.loop)

    async def _create_connection(
        self,
        req: Any,
        traces: Any,
        timeout: Any,  # noqa: ASYNC109  # the signature is aiohttp's
    ) -> ResponseHandler:
        del traces, timeout
        protocol = self._made()
        protocol.number = self._network.loop.number()  # type: ignore[attr-defined]
        host, port = req.url.raw_host or "", req.url.port or 80
        try:
            self._network.connect(self.name, host, port, protocol)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return protocol
