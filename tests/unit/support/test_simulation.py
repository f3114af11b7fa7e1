"""Simulated time: HTTP in memory, real sockets beside it, and threads that time waits for."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

PIECE, PIECES = 100_000, 30

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(answer: Handler) -> AsyncIterator[tuple[str, int]]:
    """A server; yields where it listens."""
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()


async def _hello(_: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


async def _large(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.force_close()
    await response.prepare(request)
    for _ in range(PIECES):
        await response.write(b"x" * PIECE)
    return response


async def test_what_aiohttp_asks_the_same_loop_never_reaches_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No socket is connected, and no byte sent."""

    def refuse(*_: object) -> None:
        raise AssertionError("the kernel was asked")

    async with server(_hello) as (host, port), aiohttp.ClientSession() as session:
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket.socket, "send", refuse)
        for _ in range(2):
            async with session.get(f"http://{host}:{port}/") as response:
                assert await response.text() == "hello"


async def test_a_reader_that_pauses_loses_nothing_when_the_server_closes() -> None:
    """An answer larger than any buffer, on a connection that ends with it."""
    async with (
        server(_large) as (host, port),
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/") as response,
    ):
        await asyncio.sleep(60)
        assert len(await response.read()) == PIECES * PIECE


async def test_plain_streams_and_threads_find_the_server_on_its_socket() -> None:
    """They are no clients of aiohttp."""

    def ask(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            found = b""
            while piece := peer.recv(4096):
                found += piece
            return found

    async with server(_hello) as address:
        assert (await asyncio.to_thread(ask, address)).endswith(b"hello")
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        await writer.wait_closed()


async def test_a_server_that_has_closed_refuses() -> None:
    """Also those who have asked it before."""
    async with aiohttp.ClientSession() as session:
        async with server(_hello) as (host, port), session.get(f"http://{host}:{port}/") as found:
            assert found.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://{host}:{port}/")


async def test_time_stands_still_while_a_thread_works() -> None:
    """A computation takes no simulated time, however slow the machine."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(0.01):
        await asyncio.to_thread(time.sleep, 0.05)
    assert loop.time() == begun


async def test_no_timer_fires_early() -> None:
    """Whoever waits for a moment, and looks at the clock then, has not to wait again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1.0)
    due = math.nextafter(loop.time(), math.inf)
    fired: list[float] = []
    loop.call_at(due, lambda: fired.append(loop.time()))
    for _ in range(5):
        await asyncio.sleep(0)  # there is something else to do, so time stands still
    assert not fired
    await asyncio.sleep(1.0)
    assert fired == [due]
