"""What tests of HTTP clients share: a scripted server on loopback, and a fix for aioresponses.

The server answers what a test's function says, and remembers what it was asked.

Use it for a test of a client against one odd answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from unittest.mock import Mock

from aiohttp import ClientResponse, web

Answer = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]


class MockedResponse(ClientResponse):
    """What to give aioresponses as `response_class`: aiohttp 3.14 wants a `stream_writer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "stream_writer" in inspect.signature(ClientResponse.__init__).parameters:
            kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


class ScriptedServer:
    """A running server.

    Attributes:
        root: its base URL, with a slash at the end.
        requests: what it was asked, in order; bodies are in `bodies`.
    """

    def __init__(self) -> None:
        self.root = ""
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []


@contextlib.asynccontextmanager
async def scripted_server(answer: Answer) -> AsyncIterator[ScriptedServer]:
    """Serves every path and verb with `answer`."""
    server = ScriptedServer()

    async def handle(request: web.Request) -> web.StreamResponse:
        server.requests.append(request)
        server.bodies.append(await request.read())
        result = answer(request)
        return result if isinstance(result, web.StreamResponse) else await result

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.root = f"http://{host}:{port}/"
    try:
        yield server
    finally:
        await runner.cleanup()


def error_answer(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error in Compute's envelope."""
    body = {"error": {"code": status, "message": f"said {reason}", "errors": [{"reason": reason}]}}
    return web.json_response(body, status=status, headers=headers)


async def never() -> web.StreamResponse:
    """An answer that does not come."""
    await asyncio.Event().wait()
    raise AssertionError
