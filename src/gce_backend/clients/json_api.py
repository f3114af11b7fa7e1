"""One service on one origin, spoken to in JSON over HTTP: deadlines, limits, tokens, errors.

For the small services (Machine Provider, LUCI Config); Compute has quotas and a client of its own.
A bearer token goes to the configured origin only, redirects are not followed, and no exception that
leaves this module refers to one of aiohttp's, since those hold the request's headers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import (
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.addresses import origin
from gce_backend.clients.observer import CallObserver, observed
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget

MESSAGE_CHARACTERS = 500
"""Longest piece of a service's own text that an error repeats."""

T = TypeVar("T")


class Tokens(Protocol):
    """Where bearer tokens come from."""

    async def get(self) -> str:
        """A valid access token."""
        ...

    def invalidate(self, token: str) -> None:
        """Says that a service refused this token."""
        ...


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


class Answer(NamedTuple):
    """An answer of a service, read to its end.

    Attributes:
        status: HTTP status.
        headers: its headers.
        body: its bytes, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Envelope(msgspec.Struct):
    """The error object that Google's APIs answer with."""

    error: dict[str, Any] = {}


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def decode(method: str, raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decodes an answer's body.

    Raises:
        MalformedResponseError: it is not JSON (truncated, HTML) or not of the decoder's type.
    """
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedResponseError(method, f"unusable answer: {error}", status=200) from error


def error_words(body: bytes) -> tuple[str, str] | None:
    """The reason and message in an error body; None when it is not an error envelope."""
    try:
        error = _ENVELOPE.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
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
    kind: type[RemoteError] = InvalidRequestError
    if status >= 500 or status == 408:
        kind = TransientError
    elif status == 429:
        kind = RateLimitedError
    elif status == 401:
        kind = UnauthenticatedError
    elif status == 403:
        kind = PermissionDeniedError
    elif status == 404:
        kind = NotFoundError
    elif status < 400:
        message = f"HTTP {status} is neither a success nor an error; redirects are not followed"
    return kind(
        method,
        message,
        status=status,
        reason=reason,
        retry_after=_seconds(answer.headers.get("Retry-After")),
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None


async def read_body(method: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Reads an answer to its end.

    Raises:
        MalformedResponseError: it is larger than `limit` bytes.
    """
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        body += chunk
        if len(body) > limit:
            message = f"an answer of more than {limit} bytes"
            raise MalformedResponseError(method, message, status=response.status)
    return bytes(body)


class JsonApi:
    """Calls one service.

    Args:
        session: the shared HTTP session.
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
        self.root = origin(root)
        self.limits = limits
        self._session = session
        self._tokens = tokens
        self._observer = observer
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
            verb: the HTTP verb.
            path: an absolute path with its query, percent-encoded.
            body: a JSON value to send; None sends no body.
            repeat: whether the call may be repeated after a `TransientError`.

        Raises:
            TransientError: no answer, or one that says to try later.
        """
        payload = None if body is None else msgspec.json.encode(body)

        async def attempt() -> Answer:
            return await self._authorized(method, verb, path, payload)

        return await (self._retrier.run(attempt) if repeat else attempt())

    async def _authorized(self, method: str, verb: str, path: str, payload: bytes | None) -> Answer:
        """One try; a refused token is replaced once."""
        for last in (False, True):
            token = await self._tokens.get()
            answer = await self.send(method, verb, self.root + path, payload, token)
            if answer.status == 401:
                self._tokens.invalidate(token)
                if not last:
                    continue
            if answer.status in {401, 408, 429} or answer.status >= 500:
                raise error_of(method, answer)
            return answer
        raise AssertionError("unreachable")

    async def send(
        self, method: str, verb: str, url: str, payload: bytes | None, token: str | None
    ) -> Answer:
        """Sends one request, with no second try.

        Args:
            method: `service.resource.method`, for errors.
            verb: the HTTP verb.
            url: where to, percent-encoded.
            payload: the JSON body.
            token: the bearer token; None for an address that is not the service's own.

        Raises:
            TransientError: no answer, or not to its end.
            MalformedResponseError: an answer that is too large or breaks off.
        """
        headers = {"Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if payload is not None:
            headers["Content-Type"] = "application/json"
        failure: RemoteError
        try:
            with observed(self._observer, method) as sending:
                async with self._session.request(
                    verb,
                    URL(url, encoded=True),
                    data=payload,
                    headers=headers,
                    allow_redirects=False,
                    timeout=self._timeout,
                ) as response:
                    sending.status = response.status
                    raw = await read_body(method, response, self.limits.body_bytes)
                    return Answer(response.status, response.headers, raw)
        except aiohttp.ClientPayloadError:
            failure = MalformedResponseError(method, "the answer broke off")
        except TimeoutError:
            failure = TransientError(method, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = TransientError(method, f"no answer: {type(error).__name__}")
        # Outside of the `except` blocks, so that no exception of aiohttp becomes the context.
        raise failure
