"""HTTP without TLS, a connection for each request: for commands that ask a daemon.

It replaces the aiohttp session below the one exchange, which applies the same bounds and errors. It
loads only asyncio; loading aiohttp would take two thirds of such a command's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from gce_backend.clients.exchange import HttpRequest

MAX_HEAD_BYTES = 2**16
"""Bytes of an answer's head, and of a line that tells the size of a piece of its body."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(r"\d{1,15}")
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f]")
_LINE_BREAK = re.compile(r"[\r\n\0]")


class PlainAnswer:
    """An answer whose head is read.

    Attributes:
        status: the HTTP status.
        headers: by name, as they were sent in lower case.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    @property
    def content(self) -> PlainAnswer:
        """Where the body is read from."""
        return self

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The body, in pieces of at most that many bytes.

        Raises:
            ValueError: it is malformed.
            EOFError: it is truncated.
        """
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if self.headers.get("content-encoding") or coding not in {None, "chunked"}:
            raise ValueError("a body in a coding that was not asked for")
        if coding is not None:
            while left := await self._piece():
                async for part in self._parts(left, size):
                    yield part
                if await self._reader.readexactly(2) != b"\r\n":
                    raise ValueError("a piece that does not end where it says")
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise ValueError("a length that is no number")
            async for part in self._parts(int(length), size):
                yield part
        else:
            while part := await self._reader.read(size):
                yield part

    async def _piece(self) -> int:
        line = await self._reader.readuntil(b"\r\n")
        found = _SIZE.fullmatch(line)
        if found is None:
            raise ValueError("a piece of no size")
        return int(found[1], 16)

    async def _parts(self, left: int, size: int) -> AsyncIterator[bytes]:
        while left:
            part = await self._reader.read(min(left, size))
            if not part:
                raise EOFError
            left -= len(part)
            yield part


class PlainSession:
    """Makes requests to `http://` addresses; keeps no connection between them."""

    @contextlib.asynccontextmanager
    async def request(
        self, request: HttpRequest, headers: Mapping[str, str]
    ) -> AsyncIterator[PlainAnswer]:
        """Sends a request without a body, and returns its answer as soon as the head is read.

        Args:
            request: a request to an `http://` URL; only the deadlines `total` and `connect` apply.
            headers: headers besides those that every request has.

        Raises:
            OSError: the connection failed.
            TimeoutError: a deadline has passed.
            ValueError: the request or the answer is malformed.
            EOFError: the answer is truncated.
        """
        url = str(request.url)
        parts = urlsplit(url)
        odd = _NOT_IN_URLS.search(url) or request.body is not None
        if odd or parts.scheme != "http" or not parts.hostname:
            raise ValueError("not a request for this session")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        if any(map(_LINE_BREAK.search, lines.values())):
            raise ValueError("a line break in a header")
        async with asyncio.timeout(request.timeout.total):
            async with asyncio.timeout(request.timeout.connect):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or 80, limit=MAX_HEAD_BYTES
                )
            try:
                writer.write(f"{request.verb} {target} HTTP/1.1\r\n{head}\r\n".encode())
                await writer.drain()
                yield await _answer(reader)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> PlainAnswer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise ValueError("no status line")
    headers = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise ValueError("a header without a colon")
        headers[name.lower()] = value.strip()
    return PlainAnswer(int(found[1]), headers, reader)
