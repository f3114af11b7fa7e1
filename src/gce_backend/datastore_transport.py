"""gcloud-aio-datastore's client with a transport of our own.

The library's methods, paths and transactions are used; JSON goes through it untouched, because its
own `Entity` and `Value` lose versions, time zones and excludeFromIndexes. What comes back from the
wire is checked here, and every failure leaves as one of `gce_backend.errors`: nothing that holds a
bearer token (as aiohttp's ClientResponseError does) gets any further.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from gcloud.aio.auth import Token
from gcloud.aio.datastore import Datastore as GcloudDatastore

from gce_backend.errors import (
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

TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0, sock_read=20.0)
MAX_ANSWER_BYTES = 64 * 2**20
LARGE_BODY = 2**20

_ERRORS: dict[tuple[int, str], type[RemoteError]] = {
    (404, "NOT_FOUND"): NotFoundError,
    (409, "ABORTED"): AbortedError,
    (409, "ALREADY_EXISTS"): AlreadyExistsError,
}
"""Only with the service's own word: a bare 404 is a wrong endpoint, not a missing entity."""


class Json:
    """JSON that gcloud-aio-datastore passes on as it is, wherever it wants a class of its own."""

    json_key = "query"

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @classmethod
    def from_repr(cls, data: dict[str, Any]) -> Json:
        """What the library calls on an answer's parts."""
        return cls(data)

    def to_repr(self) -> dict[str, Any]:
        """What the library calls on a request's parts."""
        return self.data


class Client(GcloudDatastore):
    """gcloud-aio-datastore's client, speaking JSON.

    Args:
        session: the connections; not closed here.
        token: gives bearer tokens.
        project: the project whose Datastore it is.
        api_root: e.g. `https://datastore.googleapis.com/v1`.
        namespace: "" for the default one.
    """

    entity_result_kind = Json  # type: ignore[assignment]  # stands in for all of these on purpose
    key_kind = Json  # type: ignore[assignment]  # as above
    mutation_result_kind = Json  # type: ignore[assignment]  # as above
    query_result_kind = Json  # type: ignore[assignment]  # as above

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        token: Token,
        project: str,
        api_root: str,
        namespace: str,
    ) -> None:
        # Told otherwise, the library takes any api_root for an emulator and sends no token.
        super().__init__(
            project=project,
            namespace=namespace,
            session=session,  # type: ignore[arg-type]  # mypy resolves the twin for requests
            token=token,
            api_root=api_root,
            api_is_dev=False,
        )
        self.session = _Transport(session, token)  # type: ignore[assignment]  # it has the same post()

    async def headers(self) -> dict[str, str]:
        """The headers of one call.

        Raises:
            UnauthenticatedError: no token can be had.
        """
        try:
            # One refresh serves all waiters: one being cancelled must not end it for the others.
            token = await asyncio.shield(self.token.get())
        except Exception as error:  # noqa: BLE001  # credentials fail in many ways; none may escape
            message = f"no access token: {type(error).__name__}"
            raise UnauthenticatedError("auth.token", message) from None
        return {"Authorization": f"Bearer {token}"}


class _Transport:
    """What the library's client posts through."""

    def __init__(self, session: aiohttp.ClientSession, token: Token) -> None:
        self._session = session
        self._token = token

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        data: bytes | None = None,
        timeout: float = 0.0,  # noqa: ASYNC109  # the library's signature; ours is TIMEOUT
    ) -> _Answer:
        method = "datastore.projects." + url.rpartition(":")[2]
        # Large bodies are sent in parts, so that they do not hold the event loop up.
        sent = io.BytesIO(data) if data and len(data) > LARGE_BODY else data
        try:
            async with self._session.post(
                url, data=sent, headers=headers, timeout=TIMEOUT, allow_redirects=False
            ) as response:
                status, retry_after = response.status, response.headers.get("Retry-After", "")
                body = await _read(method, response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransientError(method, f"{type(error).__name__}: {_words(error)}") from None
        if status == 401:
            self._forget(headers)
        return _Answer(_decode(method, status, body, retry_after))

    def _forget(self, headers: Mapping[str, str]) -> None:
        # Another caller may have refreshed the token meanwhile: only the refused one goes.
        if headers["Authorization"] == f"Bearer {self._token.access_token}":
            self._token.access_token = None


class _Answer:
    """What the library takes for a response."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    async def json(self) -> dict[str, Any]:
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
    message = str(error.get("message", "an answer that is not Datastore's"))[:1000]
    delay = float(retry_after) if retry_after.isdecimal() else None
    kind = _kind(status, reason)
    raise kind(method, message, status=status, reason=reason, retry_after=delay)


def _kind(status: int, reason: str) -> type[RemoteError]:
    by_status: dict[int, type[RemoteError]] = {
        401: UnauthenticatedError,
        403: PermissionDeniedError,
        408: TransientError,
        429: RateLimitedError,
        499: TransientError,
    }
    known = _ERRORS.get((status, reason)) or by_status.get(status)
    return known or (TransientError if status >= 500 else InvalidRequestError)
