"""One service on one origin, in JSON: what its answers mean, and which calls are repeated.

For the small services (Machine Provider, LUCI Config, Resource Manager); Compute has quotas and a
client of its own.
"""

from __future__ import annotations

import random

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.addresses import origin
from gce_backend.clients.exchange import (
    MESSAGE_CHARACTERS,
    Answer,
    Exchange,
    HttpRequest,
    Tokens,
    error_object,
)
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget

_BY_STATUS: dict[int, type[RemoteError]] = {
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: TransientError,
    429: RateLimitedError,
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may take.

    Attributes:
        connect_seconds: to a connection, the wait for a free one included.
        read_seconds: between two pieces of an answer.
        total_seconds: for one try.
        body_bytes: largest answer that is read, after decompression.
    """

    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    total_seconds: float = 60.0
    body_bytes: int = 8 * 2**20


def error_words(body: bytes) -> tuple[str, str] | None:
    """The reason and message in an error body; None when it is not an error envelope."""
    error = error_object(body)
    if not error:
        return None
    details = error.get("errors")
    first = details[0] if isinstance(details, list) and details else {}
    reason = first.get("reason") if isinstance(first, dict) else None
    word = reason or error.get("status") or ""
    return str(word)[:MESSAGE_CHARACTERS], str(error.get("message", ""))[:MESSAGE_CHARACTERS]


def error_of(method: str, answer: Answer) -> RemoteError:
    """What an answer that is no success means."""
    status = answer.status
    reason, message = error_words(answer.body) or ("", "")
    if not message:
        message = f"HTTP {status}"
    kind = _BY_STATUS.get(status) or (TransientError if status >= 500 else InvalidRequestError)
    if status < 400:
        message = f"HTTP {status} is neither a success nor an error; redirects are not followed"
    return kind(
        method,
        message,
        status=status,
        reason=reason,
        retry_after=answer.retry_after,
    )


class JsonApi:
    """Calls one service.

    Args:
        tokens: gives bearer tokens for this service.
        root: the service's base URL or host name.
        limits: deadlines and sizes.
        retrier: repeats what may be repeated; None for `Retrier` with its default back-off.
        observer: is told of every request sent, and by that default of every repetition.

    Raises:
        SettingsError: `root` is not usable.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        tokens: Tokens,
        root: str,
        limits: Limits,
        retrier: Retrier | None,
        observer: CallObserver | None = None,
    ) -> None:
        self._root = origin(root)
        self._limit = limits.body_bytes
        self._exchange = Exchange(session, tokens, observer)
        # Random numbers only spread retries here: none of them is a secret.
        chance = random.Random()  # noqa: S311
        self._retrier = retrier or Retrier(Backoff(), RetryBudget(), chance, observer)
        self._timeout = aiohttp.ClientTimeout(
            total=limits.total_seconds,
            connect=limits.connect_seconds,
            sock_connect=limits.connect_seconds,
            sock_read=limits.read_seconds,
        )

    async def call(
        self, method: str, verb: str, path: str, *, body: object = None, repeat: bool
    ) -> Answer:
        """Makes one call and returns its answer, whatever its status short of 401, 429 and 5xx.

        Args:
            method: `service.resource.method`, for errors.
            path: an absolute path with its query, percent-encoded.
            body: a JSON value to send; None sends no body.
            repeat: whether the call may be repeated after a `TransientError`.

        Raises:
            TransientError: no answer, or one that says to try later.
        """
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = HttpRequest(
            method,
            verb,
            URL(self._root + path, encoded=True),
            self._timeout,
            self._limit,
            headers,
            None if body is None else msgspec.json.encode(body),
        )

        async def attempt() -> Answer:
            answer = await self._exchange.call(request)
            if answer.status in {401, 408, 429} or answer.status >= 500:
                raise error_of(method, answer)
            return answer

        return await (self._retrier.run(attempt) if repeat else attempt())

    async def download(self, method: str, url: URL) -> Answer:
        """Reads an address that is not the service's own, once and without a token.

        Raises:
            TransientError: no answer, or not to its end.
        """
        return await self._exchange.send(
            HttpRequest(method, "GET", url, self._timeout, self._limit), None
        )
