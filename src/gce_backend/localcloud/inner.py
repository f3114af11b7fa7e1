"""Calls of the cloud's own services to each other: they take no connection.

A call meets the same routes, tokens, faults and bounds as one that comes from outside. Only the
bytes of HTTP are not made: they would cost more than what most calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, cast

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from gce_backend.clients.plain_http import PlainAnswer, PlainSession
from gce_backend.localcloud.cloud import INNER_HEADERS, Cloud

if TYPE_CHECKING:
    from gce_backend.clients.exchange import HttpRequest


class InnerSession(PlainSession):
    """Takes requests to the cloud's own address straight to its handlers.

    Args:
        cloud: a cloud that listens.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def request(
        self, request: HttpRequest, headers: Mapping[str, str]
    ) -> AsyncIterator[PlainAnswer]:
        """Has a request answered.

        Args:
            request: a request to the cloud; only the deadline `total` applies.

        Raises:
            TimeoutError: the deadline has passed.
            ConnectionResetError: an injected fault has cut the connection.
        """
        incoming = _Incoming(request, headers)
        async with asyncio.timeout(request.timeout.total):
            async with self._turn:  # many calls at once leave most of the loop to other clients
                await asyncio.sleep(0)
            # It has what the handlers of these services use of aiohttp's request.
            asked = cast("web.Request", incoming)
            incoming.match_info = found = await self._cloud.find(asked)
            answer = await found.handler(asked)
            if incoming.transport.aborted:
                raise ConnectionResetError
            reader = asyncio.StreamReader()
            whole = answer.body if isinstance(answer, web.Response) else None
            body = whole if isinstance(whole, bytes) else b""
            reader.feed_data(body)
            reader.feed_eof()
            yield PlainAnswer(answer.status, {"content-length": str(len(body))}, reader)


class _Transport:
    """What stands for a connection.

    Attributes:
        aborted: whether a fault has cut it.
    """

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


class _Incoming:
    """A request as the cloud's handlers see it."""

    remote = "127.0.0.1"
    content_type = "application/json"

    def __init__(self, request: HttpRequest, headers: Mapping[str, str]) -> None:
        url = URL(request.url)
        body = request.body or b""
        self._body = body.encode() if isinstance(body, str) else body
        self.method = request.verb
        self.rel_url = url.relative()
        self.path = url.path
        self.query = url.query
        self.headers = CIMultiDict({**headers, **INNER_HEADERS})
        self.content_length = len(self._body)
        self.transport = _Transport()
        self.match_info: Mapping[str, str] = {}

    async def read(self) -> bytes:
        return self._body
