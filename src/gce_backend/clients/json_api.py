"""One JSON service at one origin: the meaning of its answers, and which calls are repeated.

For the small services (Machine Provider, LUCI Config, Resource Manager); Compute has quotas and a
client of its own.
"""

from __future__ import annotations

import random

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import NotFoundError
from gce_backend.clients.addresses import origin
from gce_backend.clients.error_table import ErrorTable
from gce_backend.clients.exchange import Answer, Deadlines, Exchange, HttpRequest, Tokens
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget

ERRORS = ErrorTable(words={}, statuses={404: NotFoundError})
"""Errors of Machine Provider, LUCI Config and Resource Manager: only the status decides."""


def success(method: str, answer: Answer) -> bytes:
    """The body of a successful answer.

    Raises:
        RemoteError: the answer is an error.
    """
    if not 200 <= answer.status < 300:
        raise ERRORS.error(method, answer)
    return answer.body


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines and size limits of one call.

    Attributes:
        connect_seconds: to get a connection, including the wait for a free one.
        read_seconds: between two pieces of an answer.
        total_seconds: for one try.
        body_bytes: largest answer that is read, after decompression.
    """

    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    total_seconds: float = 60.0
    body_bytes: int = 8 * 2**20


class JsonApi:
    """Calls one service.

    Args:
        tokens: gives bearer tokens for this service.
        root: the service's base URL or host name.
        limits: deadlines and sizes.
        retrier: repeats calls that may be repeated; None for `Retrier` with its default back-off.
        observer: notified of every request sent, and by that default of every repetition.

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
        self._timeout = Deadlines(
            total=limits.total_seconds,
            connect=limits.connect_seconds,
            sock_connect=limits.connect_seconds,
            sock_read=limits.read_seconds,
        )

    async def call(
        self, method: str, verb: str, path: str, *, body: object = None, repeat: bool
    ) -> Answer:
        """Makes one call and returns its answer, with any status but 401, 429 and 5xx.

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
                raise ERRORS.error(method, answer)
            return answer

        return await (self._retrier.run(attempt) if repeat else attempt())

    async def download(self, method: str, url: URL) -> Answer:
        """Reads an address that is not the service's own, once and without a token.

        Raises:
            TransientError: there is no answer, or it is truncated.
        """
        return await self._exchange.send(
            HttpRequest(method, "GET", url, self._timeout, self._limit), None
        )
