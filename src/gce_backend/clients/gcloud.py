"""What the gcloud-aio clients send and receive through: JSON as it is, and the project's errors.

The libraries' methods, paths and bodies are used; what comes back from the wire is checked here,
and every failure leaves as one of `gce_backend.errors`: nothing that holds a bearer token (as
aiohttp's ClientResponseError does) gets any further.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec
from gcloud.aio.auth import Token

from gce_backend.base.errors import (
    AbortedError,
    AlreadyExistsError,
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.observer import CallObserver, observed

MAX_ANSWER_BYTES = 64 * 2**20
MAX_MESSAGE = 1000
LARGE_BODY = 2**19

_BY_WORD: dict[tuple[int, str], type[RemoteError]] = {
    (404, "NOT_FOUND"): NotFoundError,
    (409, "ABORTED"): AbortedError,
    (409, "ALREADY_EXISTS"): AlreadyExistsError,
}
"""Only with the service's own word: a bare 404 is a wrong endpoint, not a missing resource."""

_BY_STATUS: dict[int, type[RemoteError]] = {
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    408: TransientError,
    429: RateLimitedError,
    499: TransientError,
}


class LibrarySession:
    """Stands in for the libraries' own session.

    Args:
        session: the connections; not closed here.
        token: the token that a 401 makes stale.
        method_of: `service.resource.method` of an HTTP verb and URL.
        timeout: deadlines of every call.
        observer: is told of every request sent.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        token: Token,
        *,
        method_of: Callable[[str, str], str],
        timeout: aiohttp.ClientTimeout,
        observer: CallObserver | None,
    ) -> None:
        self._session = session
        self._token = token
        self._method_of = method_of
        self._timeout = timeout
        self._observer = observer

    async def get(self, url: str, headers: Mapping[str, str], **options: Any) -> LibraryAnswer:
        """What the libraries call for GET."""
        return await self._send("GET", url, headers, **options)

    async def put(self, url: str, headers: Mapping[str, str], **options: Any) -> LibraryAnswer:
        """What the libraries call for PUT."""
        return await self._send("PUT", url, headers, **options)

    async def patch(self, url: str, headers: Mapping[str, str], **options: Any) -> LibraryAnswer:
        """What the libraries call for PATCH."""
        return await self._send("PATCH", url, headers, **options)

    async def delete(self, url: str, headers: Mapping[str, str], **options: Any) -> LibraryAnswer:
        """What the libraries call for DELETE."""
        return await self._send("DELETE", url, headers, **options)

    async def post(self, url: str, headers: Mapping[str, str], **options: Any) -> LibraryAnswer:
        """What the libraries call for POST."""
        return await self._send("POST", url, headers, **options)

    async def _send(
        self,
        verb: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | str | None = None,
        params: Mapping[str, str] | None = None,
        timeout: float = 0.0,  # noqa: ASYNC109 -- the libraries' signature; ours is per client
    ) -> LibraryAnswer:
        method = self._method_of(verb, url)
        # Large bodies are sent in parts, so that they do not hold the event loop up.
        large = isinstance(data, bytes) and len(data) > LARGE_BODY
        try:
            with observed(self._observer, method) as sending:
                async with self._session.request(
                    verb,
                    url,
                    data=io.BytesIO(data) if large and isinstance(data, bytes) else data,
                    params=params,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                ) as response:
                    status = sending.status = response.status
                    retry_after = response.headers.get("Retry-After", "")
                    body = await _read(method, response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransientError(method, f"{type(error).__name__}: {_words(error)}") from None
        if status == 401:
            self._forget(headers)
        return LibraryAnswer(_decode(method, status, body, retry_after))

    def _forget(self, headers: Mapping[str, str]) -> None:
        # Another caller may have refreshed the token meanwhile: only the refused one goes.
        if headers["Authorization"] == f"Bearer {self._token.access_token}":
            self._token.access_token = None


class LibraryAnswer:
    """What the libraries take for a response."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    async def json(self) -> dict[str, Any]:
        """The decoded body."""
        return self._data


def _words(error: Exception) -> str:
    # Connection errors are told by the operating system's words; others may quote a whole request.
    return str(error) if isinstance(error, OSError) else "the connection failed"


async def _read(method: str, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            message = f"the answer is larger than {MAX_ANSWER_BYTES} bytes"
            raise MalformedResponseError(method, message, status=response.status)
    return bytes(body)


def _decode(method: str, status: int, body: bytes, retry_after: str) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = None
    if status == 200:
        if isinstance(data, dict):
            return data
        raise MalformedResponseError(method, "the answer is not a JSON object", status=status)
    error = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        error = {}
    reason = str(error.get("status", ""))
    message = str(error.get("message", "an answer that is not the service's"))[:MAX_MESSAGE]
    delay = float(retry_after) if retry_after.isdecimal() else None
    raise kind_of(status, reason)(method, message, status=status, reason=reason, retry_after=delay)


def kind_of(status: int, reason: str) -> type[RemoteError]:
    """The error for an HTTP status and the service's own word for it."""
    known = _BY_WORD.get((status, reason)) or _BY_STATUS.get(status)
    return known or (TransientError if status >= 500 else InvalidRequestError)
