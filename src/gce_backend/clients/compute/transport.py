"""How a call to Compute is made: turn, token, deadlines, limits, errors, repetition.

Every call waits for its turn in the project's call budget, carries a token that it renews once on
a 401, has deadlines and a limit on the answer's size, follows no redirect, and is repeated on
transient failures within the retry budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from http import HTTPMethod
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.clock import Clock
from gce_backend.base.errors import MalformedResponseError, RateLimitedError, TransientError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.compute.call_budget import CallBudget, Priority, Quota
from gce_backend.clients.compute.errors import CONCURRENT_OPERATIONS, error_from
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest, decode
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.retry import Retrier

T = TypeVar("T")

MAX_RESPONSE_BYTES = 64 * 2**20
MAX_AGE_SECONDS = 2.0
"""How long a call that is sent once may wait for its turn."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines in seconds.

    Attributes:
        connect: until the connection stands.
        read: between two pieces of an answer.
        total: a whole call, with waiting for its turn and repetitions.
    """

    connect: float = 10.0
    read: float = 30.0
    total: float = 90.0


PRIORITIES: Mapping[str, Priority] = {
    "compute.instanceGroupManagers.get": Priority.FREE,  # whose group it is, before a deletion
    "compute.instanceGroupManagers.deleteInstances": Priority.FREE,
    "compute.instanceGroupManagers.delete": Priority.FREE,
    "compute.instanceTemplates.delete": Priority.FREE,
    "compute.instances.delete": Priority.FREE,
    "compute.instances.setMetadata": Priority.METADATA,
    "compute.instances.get": Priority.LOOK,
    "compute.instanceGroupManagers.listManagedInstances": Priority.LOOK,
}
"""What calls are for, by method; the others make what the fleet lacks, or are as few."""


class ComputeRequest(NamedTuple):
    """One call, the same at every repetition."""

    method: str
    verb: HTTPMethod
    quota: Quota
    url: URL
    body: bytes | None
    held: float  # seconds that the server may hold it on purpose
    once: bool  # what it was decided on must be fresh: it is sent soon and once, or not at all


class ComputeTransport:
    """Makes calls.

    Args:
        session: the aiohttp session; stays the caller's. Each held `wait` uses one connection.
        tokens: bearer tokens, sent to the requests' origin alone.
        budget: calls per minute.
        clock: its wall clock tells when Google's next minute begins.
        retrier: repeats calls.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        tokens: TokenSource,
        budget: CallBudget,
        clock: Clock,
        observer: CallObserver | None,
        timeouts: Timeouts,
        retrier: Retrier,
    ) -> None:
        self._exchange = Exchange(session, tokens, observer)
        self._budget = budget
        self._clock = clock
        self._timeouts = timeouts
        self._decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
        self._retrier = retrier

    async def call(self, request: ComputeRequest, kind: type[T]) -> T:
        """Makes a call, and decodes its answer.

        Args:
            request: what to send.
            kind: the type of the answer.

        Raises:
            RemoteError: it did not succeed.
        """
        seconds = self._timeouts.total + request.held
        if request.once:
            return await self._attempt(request, kind)
        try:
            async with asyncio.timeout(seconds):
                return await self._retrier.run(partial(self._attempt, request, kind))
        except TimeoutError:
            pass  # raised below, where no other exception is its context
        raise TransientError(request.method, f"no success within {seconds:g} s")

    async def _attempt(self, request: ComputeRequest, kind: type[T]) -> T:
        method = request.method
        limits = self._timeouts
        headers = {"User-Agent": "gce-backend (gzip)"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        timeout = Deadlines(
            total=limits.total + request.held,
            sock_connect=limits.connect,
            sock_read=limits.read + request.held,
        )
        answer = await self._exchange.call(
            HttpRequest(
                method,
                request.verb,
                request.url,
                timeout,
                MAX_RESPONSE_BYTES,
                headers,
                request.body,
                request.quota.group,
            ),
            turn=partial(self._turn, request),
            once=request.once,
        )
        if not 200 <= answer.status < 300:
            error = error_from(method, answer, self._clock.now())
            if isinstance(error, RateLimitedError) and error.reason != CONCURRENT_OPERATIONS:
                until = self._clock.monotonic() + (error.retry_after or 0.0)
                self._budget.pause(request.quota, until)
            raise error
        content_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            problem = f"the answer is {content_type[:100] or 'of no type'}, not JSON"
            raise MalformedResponseError(method, problem, status=answer.status)
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind, strict=False)
        result: T = decode(method, answer.body, decoder)
        return result

    async def _turn(self, request: ComputeRequest) -> None:
        await self._budget.acquire(
            request.quota,
            PRIORITIES.get(request.method, Priority.GROW),
            max_wait=MAX_AGE_SECONDS if request.once else None,
        )
