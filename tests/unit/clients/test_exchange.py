"""The one HTTP exchange: what it bounds, whoever answers."""

from __future__ import annotations

import contextlib
import errno
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from yarl import URL

from gce_backend.base.errors import MalformedResponseError, TransientError
from gce_backend.clients.auth import MAX_TOKEN_BYTES, TokenSource
from gce_backend.clients.exchange import (
    MAX_VALUES,
    Deadlines,
    Exchange,
    HttpRequest,
    decode,
    delay_of,
)
from support.responses import Answer, ScriptedServer, scripted_server

LIMIT = 2**20
NOW = 1_800_000_000.0


def _request(server: ScriptedServer) -> HttpRequest:
    timeout = Deadlines(total=60)
    return HttpRequest("service.things.get", "GET", URL(server.root), timeout, LIMIT)


async def test_line_06_a_small_answer_that_decompresses_to_a_large_one_is_refused() -> None:
    """The bound counts the bytes after decompression: 800 kB of zeros stand for 800 MB."""
    bomb = gzip.compress(b" " * (800 * LIMIT // 8))
    assert len(bomb) < LIMIT
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with (
        scripted_server(lambda _: web.Response(body=bomb, headers=headers)) as server,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(MalformedResponseError, match=f"more than {LIMIT} bytes"):
            await Exchange(session, None, None).send(_request(server), None)


def test_line_06_an_answer_of_very_many_values_is_refused_before_it_is_decoded() -> None:
    """Few bytes a value become many times their size in memory."""
    body = b"[" + b"{}," * MAX_VALUES + b"{}]"
    with pytest.raises(MalformedResponseError, match="values"):
        decode("service.things.list", body, msgspec.json.Decoder())


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("999999999", 300.0),
        ("9" * 400, 300.0),
        ("1e400", 300.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
        ("0", None),
        ("-5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_line_01_what_a_service_may_ask_for_is_capped(
    asked: str | None, seconds: float | None
) -> None:
    """Five minutes at most; what makes no sense asks for nothing."""
    assert delay_of(asked, NOW) == seconds


def _token_answers(first: web.Response) -> Answer:
    def answer(request: web.Request) -> web.Response:
        if request.path == "/elsewhere":
            return web.json_response({"access_token": "stolen", "expires_in": 3600})
        return first

    return answer


@pytest.mark.parametrize(
    "odd",
    [
        web.Response(status=302, headers={"Location": "/elsewhere"}),
        web.Response(status=307, headers={"Location": "/elsewhere"}),
        web.Response(body=b'{"access_token": "' + b"x" * MAX_TOKEN_BYTES + b'"}'),
    ],
    ids=["302", "307", "large"],
)
async def test_line_05_a_token_request_follows_no_redirect_and_reads_little(
    odd: web.Response,
) -> None:
    """One request, an error of the project, and nothing is asked for elsewhere."""
    async with (
        scripted_server(_token_answers(odd)) as server,
        aiohttp.ClientSession() as session,
    ):
        tokens = TokenSource(
            session, metadata_root=server.root.rstrip("/"), scopes=["s"], metadata_only=True
        )
        with pytest.raises(TransientError):
            await tokens.get()
        assert len(server.requests) == 1
        await tokens.close()


@pytest.mark.parametrize("lifetime", [0, -5, "9" * 400, 1e300, None, "soon"])
async def test_line_05_an_odd_lifetime_neither_storms_nor_lasts_for_ever(lifetime: object) -> None:
    """Two hundred calls within five seconds ask the token server a few times at most."""
    body = {"access_token": "t", "expires_in": lifetime}
    async with (
        scripted_server(lambda _: web.json_response(body)) as server,
        aiohttp.ClientSession() as session,
    ):
        tokens = TokenSource(
            session, metadata_root=server.root.rstrip("/"), scopes=["s"], metadata_only=True
        )
        said = set()
        for _ in range(200):
            try:
                said.add(await tokens.get())
            except TransientError as error:
                said.add(error.message)
        assert not any("refused" in words for words in said)
        assert len(server.requests) <= 2
        await tokens.close()


class Failing:
    """Stands in for an aiohttp session whose connections all fail alike."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    @contextlib.asynccontextmanager
    async def request(self, *_: object, **__: object) -> AsyncIterator[None]:
        """Fails."""
        if self._error is not None:
            raise self._error
        yield


PLACE: Any = SimpleNamespace(host="h", port=1, ssl=True, is_ssl=True)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            aiohttp.ClientConnectorCertificateError(PLACE, ssl.SSLCertVerificationError("secret")),
            "no connection: TLS is refused (SSLCertVerificationError)",
        ),
        (
            aiohttp.ClientConnectorError(PLACE, ConnectionRefusedError(errno.ECONNREFUSED, "x")),
            "no connection: connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(PLACE, socket.gaierror(-2, "unknown")),
            "no connection: no address of that host is known",
        ),
        (aiohttp.ServerDisconnectedError(), "the connection broke (ServerDisconnectedError)"),
        (TimeoutError(), "no answer in time: the server is too slow"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_way_to_get_no_answer_is_told_in_words(error: Exception, says: str) -> None:
    """Of certificates and names, the system's error numbers would say nothing."""
    session: Any = Failing(error)
    request = HttpRequest("m", "GET", "https://h", Deadlines(total=1.0), LIMIT)
    with pytest.raises(TransientError) as caught:
        await Exchange(session, None, None).send(request, "token")
    assert caught.value.message == says
    assert caught.value.__context__ is None


async def test_each_deadline_is_given_to_the_library_by_its_name() -> None:
    """A read that is waited for as long as a connection would cut long answers off."""
    given: list[object] = []

    class Noting(Failing):
        """Keeps the deadlines."""

        def request(self, *_: object, **options: object) -> Any:
            """Fails."""
            given.append(options["timeout"])
            return super().request()

    session: Any = Noting(TimeoutError())
    deadlines = Deadlines(total=1.0, connect=2.0, sock_connect=3.0, sock_read=4.0)
    with pytest.raises(TransientError):
        await Exchange(session, None, None).send(
            HttpRequest("m", "GET", "https://h", deadlines, LIMIT), None
        )
    assert given == [aiohttp.ClientTimeout(total=1.0, connect=2.0, sock_connect=3.0, sock_read=4.0)]
