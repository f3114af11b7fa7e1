"""Shows every exchange with Google's APIs that the servers of this process have.

Use it for a test that checks each exchange with the servers of its process.
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from unittest import mock

from aiohttp import web
from yarl import URL

from gce_backend.localcloud.cloud import Cloud, Service
from gce_backend.localcloud.faults import Fault
from support.discovery.exchanges import Answer, Exchange

BY_HAND = {"User-Agent": "by-hand"}
"""The headers of requests that a test writes itself, and may therefore be meant to be refused."""

_GOOGLES = re.compile(r"/(?:compute|v\d\w*)/.*")
"""Paths of Google's APIs; others are LUCI's, the Machine Provider's, and so on."""

_ON_THE_WAY = {"drop", "late", "html", "truncate", "answer"}
"""Faults that put something else in the place of what the service answered, if it did."""

_SERVICES_OWN: web.RequestKey[web.Response | None] = web.RequestKey("services_own")

_BROKEN_OFF = (OSError, web.RequestPayloadError, web.HTTPException)
"""What reading a body ends with whose sender is gone, that is garbled, or that is too large."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Look = Callable[[Exchange], None]


def is_googles(url: URL) -> bool:
    """Whether an exchange is one with Google."""
    return _GOOGLES.fullmatch(url.raw_path) is not None


@contextlib.contextmanager
def servers_watched(look: Look) -> Iterator[None]:
    """Shows the exchanges with servers that are made meanwhile.

    Args:
        look: is shown each, when all is known of it and before its answer goes out.
    """
    make, spoil = web.Application.__init__, Cloud._spoil

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_googles(request.rel_url):
            return await handler(request)
        answer: Answer | None = None
        try:
            response = await handler(request)
            answer = _answer(request.get(_SERVICES_OWN, response))
        except _BROKEN_OFF:
            raise
        except Exception:
            answer = Answer(500, "an exception", b"")
            raise
        finally:
            # Not before the server does: what breaks off meanwhile would be whole to it.
            sent = await _sent(request)
            by_hand = BY_HAND.items() <= request.headers.items()
            look(Exchange(request.method, request.rel_url, sent, answer, by_hand))
        return response

    def made(self: web.Application, *, middlewares: Iterable[Any] = (), **options: Any) -> None:
        make(self, middlewares=(watch, *middlewares), **options)

    def spoiled(
        self: Cloud,
        service: Service,
        fault: Fault,
        request: web.Request,
        response: web.Response | None,
    ) -> web.Response:
        if fault.kind in _ON_THE_WAY:
            request.setdefault(_SERVICES_OWN, response)
        return spoil(self, service, fault, request, response)

    with (
        mock.patch.object(web.Application, "__init__", made),
        mock.patch.object(Cloud, "_spoil", spoiled),
    ):
        yield


async def _sent(request: web.Request) -> bytes | None:
    try:
        return await request.read()
    except _BROKEN_OFF:
        return None


def _answer(response: web.StreamResponse | None) -> Answer | None:
    """An answer; None for one that comes in parts, which only servers that misbehave give."""
    if not isinstance(response, web.Response):
        return None
    body = response.body if isinstance(response.body, bytes) else b""
    if response.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return Answer(response.status, response.content_type, body)
