"""One HTTP exchange, the same for every service: deadlines, bounds, tokens, delays.

A bearer token is sent only to the address that the caller names: redirects are not followed. Every
failure is raised as an error of `gce_backend.base.errors`. No aiohttp exception is its cause or
context, because those hold the request's headers.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import MalformedResponseError, TransientError
from gce_backend.clients.observer import CallObserver, Sending
from gce_backend.clients.plain_http import PlainAnswer, PlainSession

if TYPE_CHECKING:  # heavy: a command that only asks a daemon loads neither
    import aiohttp
    from yarl import URL

MAX_RETRY_AFTER_SECONDS = 300.0
"""The longest wait that a service may ask for."""
MAX_VALUES = 4_000_000
"""JSON values in one answer: a small text can decode to many times its size."""
MESSAGE_CHARACTERS = 1000
"""Longest piece of a service's own text that an error repeats."""
LARGE_BODY = 2**19
"""Bytes; a larger body is sent in parts, so that it does not block the event loop."""

T = TypeVar("T")


class Tokens(Protocol):
    """A source of bearer tokens: an account's, or a local run's."""

    async def get(self) -> str:
        """A valid access token."""
        ...

    def invalidate(self, token: str) -> None:
        """Says that a service refused this token."""
        ...


class Deadlines(NamedTuple):
    """How long one try may take, in seconds; None sets no bound.

    Attributes:
        total: from the beginning to the end of the answer.
        connect: to get a connection, including the wait for a free one.
        sock_connect: to open a connection.
        sock_read: between two pieces of an answer.
    """

    total: float | None = None
    connect: float | None = None
    sock_connect: float | None = None
    sock_read: float | None = None


class HttpRequest(NamedTuple):
    """One request, identical at every repetition.

    Attributes:
        method: `service.resource.method`, for errors and metrics.
        timeout: deadlines of one try.
        limit: largest answer that is read, in bytes after decompression.
        headers: the headers besides the token's.
        body: the body to send.
        group: the quota group that it counts against.
    """

    method: str
    verb: str
    url: URL | str
    timeout: Deadlines
    limit: int
    headers: Mapping[str, str] = {}
    body: bytes | str | None = None
    group: str | None = None


class Answer(NamedTuple):
    """An answer of a service, read to its end.

    Attributes:
        status: HTTP status.
        body: its bytes, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def delay_of(retry_after: str | None, now: UnixSeconds) -> float | None:
    """Seconds that a Retry-After header asks for, capped; None when it asks for none.

    Args:
        retry_after: a number of seconds, or an HTTP date.
    """
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        import email.utils  # noqa: PLC0415 -- heavy, and seldom needed

        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, TypeError, IndexError):
            return None
        except OverflowError:
            seconds = MAX_RETRY_AFTER_SECONDS
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else None


class Exchange:
    """Sends requests.

    Args:
        session: the shared HTTP session; stays the caller's.
        tokens: gives bearer tokens; None for services that take none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | PlainSession,
        tokens: Tokens | None,
        observer: CallObserver | None,
    ) -> None:
        self._session = session
        self._tokens = tokens
        self._observer = observer

    async def call(
        self,
        request: HttpRequest,
        *,
        turn: Callable[[], Awaitable[None]] | None = None,
        once: bool = False,
    ) -> Answer:
        """Sends a request with a token; a refused token is replaced once.

        Args:
            request: what to send.
            turn: awaited before each try.
            once: whether the request is not even sent again with another token.

        Raises:
            TransientError: there is no token, no answer, or no readable answer.
        """
        while True:
            if turn is not None:
                await turn()
            token = None if self._tokens is None else await self._tokens.get()
            answer = await self.send(request, token)
            if answer.status != 401 or self._tokens is None or token is None:
                return answer
            self._tokens.invalidate(token)
            if once:
                return answer
            once = True

    async def send(self, request: HttpRequest, token: str | None) -> Answer:
        """Sends a request once.

        Args:
            request: what to send.
            token: the bearer token; None for an address that gets none.

        Raises:
            TransientError: no answer.
            MalformedResponseError: a successful answer is truncated or too large.
        """
        headers = dict(request.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        status: int | None = None
        try:
            with Sending(self._observer, request.method, request.group) as sending:
                async with self._open(request, headers) as response:
                    status = sending.status = response.status
                    read = bytearray()
                    async for chunk in response.content.iter_chunked(2**16):
                        read += chunk
                        if len(read) > request.limit:
                            break
                    else:
                        return Answer(status, response.headers, bytes(read))
            problem = f"the answer has more than {request.limit} bytes"
        except TimeoutError:
            problem = "no answer in time: the server is too slow"
        # Sessions and parsers raise these for malformed headers, encodings and compressed data.
        except Exception as error:  # noqa: BLE001  (nothing foreign may leave)
            problem = _problem(error)
        # Outside of the `except` blocks, so that no exception of aiohttp becomes the context.
        kind = MalformedResponseError if status is not None and status < 300 else TransientError
        raise kind(request.method, problem, status=status)

    def _open(
        self, request: HttpRequest, headers: Mapping[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse | PlainAnswer]:
        if isinstance(self._session, PlainSession):
            return self._session.request(request, headers)
        from aiohttp import ClientTimeout  # noqa: PLC0415 -- loaded, as its session is

        body = request.body
        large = isinstance(body, bytes) and len(body) > LARGE_BODY
        return self._session.request(
            request.verb,
            request.url,
            data=io.BytesIO(body) if large and isinstance(body, bytes) else body,
            headers=headers,
            allow_redirects=False,
            timeout=ClientTimeout(**request.timeout._asdict()),
        )


def _problem(error: Exception) -> str:
    """Why there is no answer, without any part of the request."""
    # aiohttp's own error for a connection that could not be opened holds the system's.
    reason = getattr(error, "os_error", error)
    if isinstance(reason, socket.gaierror):
        return "no connection: no address of that host is known"
    if isinstance(reason, ssl.SSLError):
        return f"no connection: TLS is refused ({type(reason).__name__})"
    if reason is error and not isinstance(error, ConnectionRefusedError):
        return f"the connection broke ({type(error).__name__})"
    number = getattr(reason, "errno", None)
    return f"no connection: {os.strerror(number).lower()}" if number else "no connection"


def decode(method: str, raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decodes the body of a successful answer.

    Raises:
        MalformedResponseError: it is not JSON (truncated, HTML), not of the decoder's type, nested
            too deeply, or decodes to too much.
    """
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise MalformedResponseError(method, f"more than {MAX_VALUES} values", status=200)
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError, ArithmeticError) as error:
        problem = f"the answer cannot be understood: {error}"[:MESSAGE_CHARACTERS]
    raise MalformedResponseError(method, problem, status=200)
