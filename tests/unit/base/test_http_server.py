"""An HTTP server of this process: what every answer has, and why it does not start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from gce_backend.base.errors import SettingsError
from gce_backend.base.http_server import HttpServer


async def _broken(_: web.Request) -> web.Response:
    raise ValueError("a defect")


def _server(ready: Mapping[str, Any]) -> HttpServer:
    return HttpServer(
        [web.get("/broken", _broken)],
        alive=lambda: {"ok": True},
        ready=lambda: ready,
        headers={"X-Own": "1"},
        log=structlog.get_logger(),
        refused=lambda _: None,
        drain_seconds=1.0,
    )


@asynccontextmanager
async def _served(ready: Mapping[str, Any]) -> AsyncIterator[HttpServer]:
    server = _server(ready)
    await server.start("127.0.0.1", 0, port_setting="PORT")
    try:
        yield server
    finally:
        await server.close()


async def test_every_answer_has_the_headers() -> None:
    """Also those that aiohttp makes by itself."""
    async with _served({"ok": True}) as server, aiohttp.ClientSession() as session:
        for path, status in (("/healthz", 200), ("/nothing", 404), ("/broken", 500)):
            async with session.get(server.url + path) as answer:
                assert answer.status == status
                assert answer.headers["X-Own"] == "1"
                assert answer.headers["Cache-Control"] == "no-store"


async def test_a_probe_that_fails_is_a_503_that_says_why() -> None:
    """Whatever watches the process reads the status; people read the body."""
    ready = {"ok": False, "problems": {"store": "it is being read"}}
    async with _served(ready) as server, aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, ready)
        async with session.get(f"{server.url}/healthz") as answer:
            assert answer.status == 200


async def test_a_port_that_is_taken_says_which_setting_helps() -> None:
    """And leaves the server that has it alone."""
    async with _served({"ok": True}) as first, aiohttp.ClientSession() as session:
        port = int(first.url.rpartition(":")[2])
        second = _server({"ok": True})
        with pytest.raises(SettingsError, match=r"Another process .* choose another port with P"):
            await second.start("127.0.0.1", port, port_setting="PORT")
        await second.close()
        async with session.get(f"{first.url}/healthz") as answer:
            assert answer.status == 200
