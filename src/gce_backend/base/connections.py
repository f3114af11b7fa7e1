"""A listening socket: how many connections it accepts, and when it closes one that hangs.

A peer that opens connections and does not finish a request cannot keep others out: the number of
connections is bounded below the process's descriptors, and when they are all in use, the peer with
the most of them loses its oldest one to the newcomer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
from collections.abc import Callable
from typing import cast

from aiohttp import HttpVersion11, http_exceptions, web
from structlog.typing import FilteringBoundLogger

MAX_CONNECTIONS = 500
"""Most connections, if the process may open enough descriptors."""
BACKLOG = 128
"""Connections that the kernel holds, and that are accepted at once."""
REQUEST_SECONDS = 10.0
"""How long a connection may take for the head of a request, or be idle between two."""
LINGERING_SECONDS = 2.0
"""Seconds for which an unwanted body is read, so that its sender sees the answer."""
STALLED_SECONDS = 20.0
"""How long a peer may leave an answer unread."""
CROWDED_LOG_SECONDS = 60.0
"""Least time between two log lines about closed connections."""
MAX_ERROR = 200
"""Characters of a malformed request that a log line shows at most."""

_QUOTED = re.compile(r":? (?=b['\"]|bytearray\()")
"""Where the part of a request begins that aiohttp repeats."""

Refused = Callable[[str], None]
"""Counts what was refused: `crowded`, `malformed` or `token`."""
FORWARDED = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")
"""Headers that show a proxy, besides those that begin with `x-forwarded-`."""


class Listener:
    """Accepts connections and hands them to aiohttp.

    Args:
        server: makes aiohttp's end of each connection.
        log: for closed connections.
        refused: counts them.
        most: connections at most; None derives it from the descriptors that the process may open.
    """

    def __init__(
        self,
        server: Callable[[], asyncio.Protocol],
        *,
        log: FilteringBoundLogger,
        refused: Refused,
        most: int | None = None,
    ) -> None:
        self._server = server
        self._log = log
        self._refused = refused
        self._most = _affordable() if most is None else most
        self._listening: asyncio.Server | None = None
        self._peers: dict[str, dict[_Connection, None]] = {}
        self._number = 0
        self._closed = 0  # since the last line about it
        self._said_at = float("-inf")

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listens; returns the address and the port.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: _Connection(self._server(), self), host, port, backlog=BACKLOG
        )
        address, bound, *_ = self._listening.sockets[0].getsockname()
        return address, bound

    def close(self) -> None:
        """Stops listening; connections stay until aiohttp ends them."""
        if self._listening is not None:
            self._listening.close()

    def enter(self, connection: _Connection) -> None:
        """Counts a new connection, and closes an old one when there are too many."""
        self._peers.setdefault(connection.peer, {})[connection] = None
        self._number += 1
        if self._number > self._most:
            self._close_one()

    def leave(self, connection: _Connection) -> None:
        """Forgets a connection that has ended."""
        of_peer = self._peers.get(connection.peer, {})
        if connection in of_peer:
            del of_peer[connection]
            self._number -= 1
            if not of_peer:
                del self._peers[connection.peer]

    def _close_one(self) -> None:
        busiest = max(self._peers.values(), key=len)
        victim = next(iter(busiest))
        self.leave(victim)
        victim.abort()
        self._refused("crowded")
        self._closed += 1
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= CROWDED_LOG_SECONDS:
            self._log.warning(
                "http.crowded", remote=victim.peer, closed=self._closed, limit=self._most
            )
            self._closed, self._said_at = 0, now


class _Connection(asyncio.Protocol):
    """One connection: passes everything to aiohttp's end of it, and closes it when it stalls."""

    def __init__(self, inner: asyncio.Protocol, listener: Listener) -> None:
        self._inner = inner
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._listener.enter(self)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        self._listener.leave(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        loop = asyncio.get_running_loop()
        self._stalled = loop.call_later(STALLED_SECONDS, self.abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._go_on()
        self._inner.resume_writing()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _go_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def aiohttp_logger(log: FilteringBoundLogger, refused: Refused) -> logging.Logger:
    """A logger for aiohttp's server: a malformed request leaves one short line, a defect its trace.

    The line quotes nothing of the request, which may hold a token or a session.

    Args:
        log: where lines go.
        refused: counts malformed requests.
    """
    logger = logging.Logger("gce_backend.web", logging.DEBUG)  # noqa: LOG001 -- has no parent
    logger.addHandler(_Complaints(log, refused))
    return logger


class _Complaints(logging.Handler):
    """Turns the complaints of aiohttp's server into log events."""

    def __init__(self, log: FilteringBoundLogger, refused: Refused) -> None:
        super().__init__()
        self._log = log
        self._refused = refused

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        told = _malformed(error)
        if told is not None:
            remote = record.args[0] if isinstance(record.args, tuple) and record.args else None
            self._log.warning("http.malformed", remote=remote, error=told)
            self._refused("malformed")
        elif record.levelno >= logging.ERROR:
            self._log.error("http.failed", error=record.getMessage(), exc_info=error)


def _malformed(error: BaseException | None) -> str | None:
    """What is wrong with a request; None when something else is wrong."""
    if isinstance(error, ConnectionError):
        return "the connection ended before the request did"
    if isinstance(error, web.RequestPayloadError):
        return "the body is packed wrongly"
    if not isinstance(error, http_exceptions.HttpProcessingError):
        return None
    return _QUOTED.split(" ".join(error.message.split()), maxsplit=1)[0][:MAX_ERROR]


def _affordable() -> int:
    """The connections that leave two thirds of the descriptors for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 3)


def is_forwarded(request: web.Request) -> bool:
    """Whether a proxy sent this request. By default, nginx speaks HTTP/1.0."""
    return request.version < HttpVersion11 or any(
        name in FORWARDED or name.startswith("x-forwarded-")
        for name in (header.lower() for header in request.headers)
    )
