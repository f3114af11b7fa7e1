"""HTTP without a library, below the one exchange: what is read, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gce_backend.base.errors import MalformedResponseError, TransientError
from gce_backend.clients.exchange import Answer, Deadlines, Exchange, HttpRequest
from gce_backend.clients.plain_http import MAX_HEAD_BYTES, PlainSession

LIMIT = 2**20
PATIENT = Deadlines(total=60.0, connect=60.0)


PIECEMEAL = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n"


@contextlib.asynccontextmanager
async def sending(answer: bytes, *, stays: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that sends these bytes and closes; gives its URL and the requests it read.

    Args:
        answer: what it sends.
        stays: whether it leaves the connection open.
    """
    heads: list[bytes] = []
    serving: set[asyncio.Task[None]] = set()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if stays:
                await ended.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
        ended.set()
        await asyncio.gather(*serving, return_exceptions=True)


async def asked(url: str, deadlines: Deadlines = PATIENT, token: str | None = None) -> Answer:
    """One request through the exchange."""
    request = HttpRequest("daemon/x", "GET", f"{url}/x?a=b", deadlines, LIMIT, {"Accept": "a/b"})
    return await Exchange(PlainSession(), None, None).send(request, token)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", b"hello"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n", b""),
        (b"HTTP/1.0 200\r\n\r\nto the end", b"to the end"),
        (
            PIECEMEAL + b"5;x=y\r\nhello\r\n01\r\n!\r\n0\r\n\r\n",
            b"hello!",
        ),
        (
            MOVED + b"Content-Length: 1\r\n\r\nx",
            b"x",
        ),
    ],
)
async def test_every_form_of_body_is_read(raw: bytes, body: bytes) -> None:
    """By its length, in pieces, and to the end of the connection; redirects are answers."""
    async with sending(raw) as (url, heads):
        answer = await asked(url, token="secret")
    assert answer.body == body
    assert answer.status == int(raw.split()[1])
    (head,) = heads
    first, *lines = head.decode().split("\r\n")
    assert first == "GET /x?a=b HTTP/1.1"
    host = url.removeprefix("http://")
    assert sorted(filter(None, lines)) == [
        "Accept: a/b",
        "Authorization: Bearer secret",
        "Connection: close",
        f"Host: {host}",
    ]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", TransientError),
        (b"HTTP/1.1 200 OK\r\n", TransientError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", TransientError),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", TransientError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n", TransientError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", MalformedResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", MalformedResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", MalformedResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx", MalformedResponseError),
        (PIECEMEAL + b"x\r\n", MalformedResponseError),
        (PIECEMEAL + b"5\r\nhel", MalformedResponseError),
        (PIECEMEAL + b"fffffffffffffff\r\n" + b"x" * (LIMIT + 1), MalformedResponseError),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LIMIT + 1), MalformedResponseError),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhel", TransientError),
    ],
)
async def test_an_answer_that_is_malformed_or_too_large_is_one_of_the_projects_errors(
    raw: bytes, kind: type[TransientError]
) -> None:
    """With a success's status it may have taken effect, so it is told apart."""
    async with sending(raw) as (url, _):
        with pytest.raises(TransientError) as caught:
            await asked(url, token="secret")
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n\r\nbeginning"])
async def test_the_deadline_holds_from_the_connection_to_the_end_of_the_body(sent: bytes) -> None:
    """A server that stops in the middle is not waited for."""
    async with sending(sent, stays=True) as (url, _):
        with pytest.raises(TransientError, match="no answer in time"):
            await asked(url, Deadlines(total=0.2, connect=0.2))


async def test_no_connection_is_told_with_the_systems_words() -> None:
    """Nobody listens there; there is no such host."""
    async with sending(b"") as (url, _):
        pass
    with pytest.raises(TransientError, match="no connection: connection refused"):
        await asked(url)
    with pytest.raises(TransientError, match="no connection: no address of that host is known"):
        await asked("http://nowhere.invalid")


async def test_what_is_not_for_this_session_is_not_sent() -> None:
    """A token with a line break would add a header; TLS and bodies are the library's."""
    async with sending(b"HTTP/1.1 200 OK\r\n\r\n") as (url, heads):
        for where, token in (
            (url, "a\r\nX: y"),
            (url.replace("http:", "https:"), "a"),
            (f"{url}/\r\nX: y", "a"),
            ("http://", "a"),
        ):
            with pytest.raises(TransientError, match="broke"):
                await asked(where, token=token)
    assert heads == []


PIECES = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 ",
            b"\r\n",
            b"\r\n\r\n",
            b"5",
            b"hello",
            b"\0",
            b"\xff",
        ),
        *(
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Encoding: br\r\n",
            b":",
        ),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=8), max_size=12).map(b"".join))
@settings(max_examples=150)
def test_no_bytes_raise_anything_but_the_projects_errors(raw: bytes) -> None:
    """Or they are an answer."""

    async def run() -> None:
        async with sending(raw) as (url, _):
            with contextlib.suppress(TransientError):
                assert 0 <= (await asked(url)).status <= 999

    asyncio.run(run())
