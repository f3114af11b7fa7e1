"""What the gcloud-aio clients send and receive through: the one exchange, and the project's errors.

The libraries' methods, paths and bodies are used; their own sessions and error handling are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import (
    AbortedError,
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.exchange import (
    MESSAGE_CHARACTERS,
    Answer,
    Exchange,
    HttpRequest,
    decode,
    error_object,
)

MAX_ANSWER_BYTES = 64 * 2**20

_OBJECT = msgspec.json.Decoder(dict[str, Any])

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
        exchange: sends; with tokens, it brings its own in place of the library's.
        method_of: `service.resource.method` of an HTTP verb and URL.
        timeout: deadlines of every call.
        limit: largest answer, in bytes.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        method_of: Callable[[str, str], str],
        timeout: aiohttp.ClientTimeout,
        limit: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._exchange = exchange
        self._method_of = method_of
        self._timeout = timeout
        self._limit = limit

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
        target = URL(url).update_query(params) if params else URL(url)
        answer = await self._exchange.call(
            HttpRequest(method, verb, target, self._timeout, self._limit, headers, data)
        )
        return LibraryAnswer(_decode(method, answer))


class LibraryAnswer:
    """What the libraries take for a response."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    async def json(self) -> dict[str, Any]:
        """The decoded body."""
        return self._data


def _decode(method: str, answer: Answer) -> dict[str, Any]:
    if answer.status == 200:
        return decode(method, answer.body, _OBJECT)
    error = error_object(answer.body)
    reason = str(error.get("status", ""))[:MESSAGE_CHARACTERS]
    message = str(error.get("message", "an answer that is not the service's"))[:MESSAGE_CHARACTERS]
    raise kind_of(answer.status, reason)(
        method, message, status=answer.status, reason=reason, retry_after=answer.retry_after
    )


def kind_of(status: int, reason: str) -> type[RemoteError]:
    """The error for an HTTP status and the service's own word for it."""
    known = _BY_WORD.get((status, reason)) or _BY_STATUS.get(status)
    return known or (TransientError if status >= 500 else InvalidRequestError)
