"""Google's own descriptions as referee of every exchange with Compute, Datastore and Pub/Sub.

Every HTTP server that a test starts in its process is watched, and so is what a mocked session
answers. Whether an exchange is one with Google is told by its path, and what it means by the
discovery documents: nothing is taken from the project's own tables.

Out of reach are servers in other processes. Where these serve, what the same code does in this
process is seen by other tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aioresponses import aioresponses
from aioresponses.compat import stream_reader_factory
from yarl import URL

from discovery.exchanges import Answer, Exchange, Tally, problems
from gce_backend.localcloud.cloud import Cloud, Service
from gce_backend.localcloud.faults import Fault

BY_HAND = {"User-Agent": "by-hand"}
"""The headers of requests that a test writes itself, and may therefore be meant to be refused."""

_GOOGLES = re.compile(r"/(?:compute|v\d\w*)/.*")
"""Paths of Google's APIs; others are LUCI's, the Machine Provider's, and so on."""

_ON_THE_WAY = {"drop", "html", "truncate", "answer"}
"""Faults that put something else in the place of what the service answered, if it did."""

_SERVICES_OWN: web.RequestKey[web.Response | None] = web.RequestKey("services_own")

_BROKEN_OFF = (OSError, web.RequestPayloadError, web.HTTPException)
"""What reading a body ends with whose sender is gone, that is garbled, or that is too large."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Referee:
    """Judges exchanges; what was wrong in a test is told when it ends.

    Attributes:
        tally: what was seen in all tests.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self._problems: list[str] = []
        self._expected: list[str] = []

    def look(self, exchange: Exchange) -> None:
        """Judges an exchange with Google."""
        self._problems += problems(exchange, self.tally)

    def expect(self, pattern: str) -> None:
        """Says that this test breaks a rule on purpose.

        Args:
            pattern: a regular expression that is found in every problem that is meant; there must
                be at least one until the test ends.
        """
        self._expected.append(pattern)

    def settle(self) -> None:
        """Ends a test.

        Raises:
            AssertionError: something was wrong unexpectedly, or was not wrong as expected.
        """
        found, expected = list(dict.fromkeys(self._problems)), self._expected
        self._problems, self._expected = [], []
        wrong = [p for p in found if not any(re.search(pattern, p) for pattern in expected)]
        unmet = [e for e in expected if not any(re.search(e, problem) for problem in found)]
        wrong += [f"expected, and did not happen: {pattern}" for pattern in unmet]
        assert not wrong, "\n".join(["not as Google describes it:", *wrong])


@contextlib.contextmanager
def watching(referee: Referee) -> Iterator[None]:
    """Shows a referee all mocked exchanges, and those with servers that are made meanwhile."""
    make, spoil, match = web.Application.__init__, Cloud._spoil, aioresponses.match

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _GOOGLES.fullmatch(request.rel_url.raw_path):
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
            referee.look(Exchange(request.method, request.rel_url, sent, answer, by_hand))
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

    async def mocked(self: aioresponses, method: str, url: URL, **options: Any) -> Any:
        answer: Answer | None = None
        try:
            response = await match(self, method, url, **options)
            if response is not None:
                answer = await _mocked_answer(response)
        finally:
            if _GOOGLES.fullmatch(url.raw_path):
                referee.look(Exchange(method, url, options.get("data") or b"", answer))
        return response

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(web.Application, "__init__", made)
        patched.setattr(Cloud, "_spoil", spoiled)
        patched.setattr(aioresponses, "match", mocked)
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


async def _mocked_answer(response: ClientResponse) -> Answer:
    """A mocked answer, which can be read once more afterwards."""
    body = await response.content.read()
    response.content = stream_reader_factory(asyncio.get_running_loop())
    response.content.feed_data(body)
    response.content.feed_eof()
    return Answer(response.status, response.content_type, body)
