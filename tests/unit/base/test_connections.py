"""Who loses a connection when there are too many, and what ends one that hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from structlog.testing import capture_logs

from gce_backend.base.connections import (
    CROWDED_LOG_SECONDS,
    REQUEST_SECONDS,
    STALLED_SECONDS,
    Listener,
    _Connection,
)
from gce_backend.web.documents.bodies import READ_SECONDS
from support.fleet_harness import CONTROL_TOKEN, World, world


class Wire(asyncio.Transport):
    """A transport that only remembers whether it was ended."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 1)})
        self.ended = False

    def abort(self) -> None:
        """Ends it."""
        self.ended = True


class Crowd:
    """A listener without a socket, and its peers' connections."""

    def __init__(self, most: int) -> None:
        self.refused: list[str] = []
        self._listener = Listener(
            asyncio.Protocol,
            log=structlog.get_logger(),
            refused=self.refused.append,
            most=most,
        )

    def connect(self, peer: str) -> tuple[_Connection, Wire]:
        """A new connection of this peer."""
        connection, wire = _Connection(asyncio.Protocol(), self._listener), Wire(peer)
        connection.connection_made(wire)
        return connection, wire


async def test_the_peer_with_the_most_connections_loses_its_oldest() -> None:
    """One greedy peer does not push out the single connection of another."""
    crowd = Crowd(most=4)
    _, modest = crowd.connect("modest")
    greedy = [crowd.connect("greedy")[1] for _ in range(6)]
    assert not modest.ended
    assert [wire.ended for wire in greedy] == [True, True, True, False, False, False]
    assert crowd.refused == ["crowded"] * 3


async def test_a_connection_that_has_ended_makes_room() -> None:
    """Only those that are open count, also when an aborted one ends later."""
    crowd = Crowd(most=2)
    first, wire = crowd.connect("a")
    first.connection_lost(None)
    first.connection_lost(None)
    others = [crowd.connect("b")[1] for _ in range(2)]
    assert not any(other.ended for other in (wire, *others))


async def test_the_log_says_once_a_minute_how_many_were_closed() -> None:
    """A flood of connections does not become a flood of lines."""
    crowd = Crowd(most=1)
    with capture_logs() as logs:
        for _ in range(10):
            crowd.connect("a")
        await asyncio.sleep(CROWDED_LOG_SECONDS)
        crowd.connect("a")
    assert [line["closed"] for line in logs] == [1, 9]


async def test_an_answer_that_nobody_reads_ends_the_connection() -> None:
    """Unless the peer reads on in time."""
    crowd = Crowd(most=9)
    stalled, dead = crowd.connect("a")
    slow, alive = crowd.connect("a")
    stalled.pause_writing()
    slow.pause_writing()
    await asyncio.sleep(STALLED_SECONDS - 1)
    slow.resume_writing()
    await asyncio.sleep(2)
    assert (dead.ended, alive.ended) == (True, False)


async def _closed_after(w: World, sent: bytes) -> tuple[float, bytes]:
    """How long the daemon keeps a connection on which this is sent, and what it answers."""
    host, _, port = w.daemon.url.partition("//")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    before = w.clock.monotonic()
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    return w.clock.monotonic() - before, answer


async def test_half_of_a_request_is_closed_after_seconds(tmp_path: Any) -> None:
    """Nothing sent, half a head, or half a body: none of them keeps a connection."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n"):
            took, answer = await _closed_after(w, sent)
            assert took <= REQUEST_SECONDS + 2
            assert answer == b""
        order = (
            f"POST /api/pause HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {CONTROL_TOKEN}\r\n"
            'Content-Length: 100\r\n\r\n{"reason"'
        )
        took, answer = await _closed_after(w, order.encode())
        assert took <= READ_SECONDS + REQUEST_SECONDS + 5
        assert answer.startswith(b"HTTP/1.1 408")
