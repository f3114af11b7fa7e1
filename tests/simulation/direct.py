"""A short way for calls that nothing disturbs: from a client's exchange to the cloud's handler.

Most of what an idle hour costs is HTTP: heads written and parsed, streams, connections. A request
that no rule strikes takes the same time as on a connection, its handler runs in the cloud's
process, and its answer has the same status and body; only the bytes in between are never made. All
other requests go through aiohttp's client and server, on the connections of `network`.

The simulation uses it, and the worlds of `support.fleet_harness`, whose exchanges the referee sees.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, NamedTuple, Self
from unittest import mock

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from gce_backend.clients.exchange import Exchange, HttpRequest
from gce_backend.localcloud.cloud import Cloud
from simulation.network import MemoryConnector, Network, Request

Endpoint = Callable[[Any], Awaitable[web.StreamResponse]]
Middleware = Callable[[Any, Endpoint], Awaitable[web.StreamResponse]]
JSON = "application/json"


class Target(NamedTuple):
    """What a verb and an address lead to."""

    where: URL
    path: str
    endpoint: Endpoint
    variables: Mapping[str, str]
    query: Mapping[str, str]


async def _nothing(_: Any) -> web.StreamResponse:
    raise AssertionError("nothing is sent there on the short way")


ELSEWHERE = Target(URL(), "", _nothing, {}, {})
"""What an address of another server leads to."""


class Connection:
    """What the cloud's handlers use of a connection.

    Attributes:
        gone: whether the server knows that its client has gone.
    """

    gone = False

    def is_closing(self) -> bool:
        """Whether an answer reaches nobody."""
        return self.gone


class Incoming(dict[Any, Any]):
    """What the cloud's handlers and the referee use of aiohttp's request.

    Attributes:
        method: the HTTP verb.
        rel_url: the path and the query.
        path: the path.
        match_info: the path's variables.
        query: the query's parameters.
        headers: the headers.
        transport: the connection.
    """

    remote = "127.0.0.1"

    def __init__(self, verb: str, target: Target, headers: CIMultiDict[str], body: bytes) -> None:
        super().__init__()
        self.method = verb
        self.rel_url = target.where
        self.path = target.path.partition("?")[0]
        self.match_info = target.variables
        self.query = target.query
        self.headers = headers
        self.transport = Connection()
        self.content_length = len(body)
        self.content_type = "application/json"
        self._body = body
        self._is_read = False

    async def read(self) -> bytes:
        """The body.

        Raises:
            ConnectionResetError: nobody has read it, and the client has gone.
        """
        if self.transport.gone and not self._is_read:
            raise ConnectionResetError("Connection lost")
        self._is_read = True
        return self._body


class Asked(NamedTuple):
    """What aiohttp's router looks at."""

    method: str
    rel_url: URL


class ShortCall:
    """One call, and its answer as the exchange reads it.

    Attributes:
        status: the HTTP status.
        headers: the answer's headers.
    """

    def __init__(
        self, network: Network, told: Request, incoming: Incoming, endpoint: Endpoint
    ) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._body = b""
        self._network = network
        self._told = told
        self._incoming = incoming
        self._endpoint = endpoint
        self._answer: asyncio.Future[None]
        self._back: Context
        self.seconds: float | None = None
        self.context: Context

    async def __aenter__(self) -> Self:
        network = self._network
        loop = network.loop
        network.requests += 1
        self._answer, self._back = loop.create_future(), copy_context()
        network.after(network.latency, self._begin, context=self.context)
        deadline = None if self.seconds is None else loop.call_later(self.seconds, self._give_up)
        try:
            await self._answer
        except BaseException:
            # Otherwise the server learns of it after so long that nobody waits for it.
            self._incoming.transport.gone = not network.lost
            raise
        finally:
            if deadline is not None:
                deadline.cancel()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    def _begin(self) -> None:
        self._network.loop.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            response: Any = await self._endpoint(self._incoming)
        except web.HTTPException as error:
            response = error
        except Exception as error:  # noqa: BLE001  # a client sees what aiohttp's server makes of it
            self._network.defects.append(error)
            response = web.Response(status=500)
        self.status, self.headers = response.status, response.headers
        self._body = response.body if isinstance(response.body, bytes) else b""
        network = self._network
        network.harm.answered(self._told, self._raw)
        network.after(network.latency, self._arrive, context=self._back)

    def _raw(self) -> bytes:
        """The answer as it would stand on a connection."""
        kind, length = self.headers.get("Content-Type", "text/plain"), len(self._body)
        head = f"HTTP/1.1 {self.status} _\r\nContent-Type: {kind}\r\nContent-Length: {length}"
        return head.encode() + b"\r\n\r\n" + self._body

    def _arrive(self) -> None:
        if not self._answer.done():
            self._answer.set_result(None)

    def _give_up(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(TimeoutError())

    @property
    def content(self) -> ShortCall:
        """Where the body is read from."""
        return self

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """The body."""
        yield self._body


def _behind(middleware: Middleware, endpoint: Endpoint) -> Endpoint:
    """An endpoint whose requests a middleware sees first."""

    async def seen(request: Any) -> web.StreamResponse:
        return await middleware(request, endpoint)

    return seen


class ShortWay:
    """Takes requests straight to a cloud.

    Args:
        network: whose latency and harm they meet.
        cloud: a cloud that listens.
        context: a context of the cloud's process.
        connector: the class of connectors whose sessions may take it.
        middlewares: what sees a request before the cloud does, the outermost first.
    """

    def __init__(
        self,
        network: Network,
        cloud: Cloud,
        context: Context,
        *,
        connector: type[aiohttp.BaseConnector] = MemoryConnector,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        assert cloud._runner is not None
        self._network = network
        self._context = context
        self._connector = connector
        self._middlewares = middlewares
        self._root = cloud.base_url
        self._router = cloud._runner.app.router
        self._known: dict[tuple[str, URL | str], Target] = {}

    def taken(
        self, session: Any, request: HttpRequest, headers: Mapping[str, str]
    ) -> ShortCall | None:
        """The call, if this request may go the short way; else None."""
        connector = getattr(session, "connector", None)
        if not isinstance(connector, self._connector) or session.closed:
            return None
        if asyncio.get_running_loop() is not self._network.loop:
            return None  # that of a command in a thread
        target = self._known.get((request.verb, request.url))
        if target is None:
            target = self._find(request.verb, str(request.url))
            self._known[request.verb, request.url] = target
        if target is ELSEWHERE:
            return None
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        whole = CIMultiDict(session.headers)
        whole.update(headers)
        if not whole.get("Content-Type", JSON).startswith(JSON):
            return None
        whole.popall("Accept-Encoding", None)
        client = getattr(connector, "name", "")
        told = Request(client, request.verb, target.path, b"\r\n\r\n" + body)
        if not self._network.harm.is_quiet(told):
            return None
        incoming = Incoming(request.verb, target, whole, body)
        call = ShortCall(self._network, told, incoming, target.endpoint)
        limits = [s for s in (request.timeout.total, request.timeout.sock_read) if s is not None]
        call.seconds, call.context = min(limits, default=None), self._context
        return call

    def _find(self, verb: str, url: str) -> Target:
        if not url.startswith(self._root):
            return ELSEWHERE
        where = URL(url).relative()
        finding: Any = self._router.resolve(Asked(verb, where))  # type: ignore[arg-type]
        try:
            finding.send(None)
        except StopIteration as found:
            match: Any = found.value
        else:
            raise AssertionError("the router waits for nothing")
        endpoint: Endpoint = match.handler
        for middleware in reversed(self._middlewares):
            endpoint = _behind(middleware, endpoint)
        return Target(where, where.raw_path_qs, endpoint, dict(match), where.query)


@contextlib.contextmanager
def short(way: ShortWay) -> Iterator[None]:
    """All exchanges take it inside."""
    opened = Exchange._open

    def open_(exchange: Exchange, request: HttpRequest, headers: Mapping[str, str]) -> Any:
        call = way.taken(exchange._session, request, headers)
        return opened(exchange, request, headers) if call is None else call

    with mock.patch.object(Exchange, "_open", open_):
        yield
