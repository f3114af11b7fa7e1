"""The calls of the Datastore API that are used, each within its limits and with its retries."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from gcloud.aio.datastore import Consistency, Mode

from gce_backend.base.clock import Clock
from gce_backend.base.errors import MalformedResponseError, TransientError, UnauthenticatedError
from gce_backend.base.plurals import plural
from gce_backend.clients.datastore.answers import QueryResults, row_of
from gce_backend.clients.datastore.library import Client, Json
from gce_backend.clients.datastore.values import Codec, Mutation, Path, Row
from gce_backend.clients.exchange import MESSAGE_CHARACTERS
from gce_backend.clients.observer import CallObserver

MAX_KEYS = 1000
MAX_MUTATIONS = 500
MAX_COMMIT_BYTES = 9 * 2**20
MAX_ROUNDS_OF_DEFERRED = 50
MAX_TRIES = 4
FIRST_DELAY = 0.2
MAX_DELAY = 5.0
RETRY_SECONDS = 60.0
"""A read is not tried again later than this after its start, whatever a Retry-After asks for."""

T = TypeVar("T")
Encoded: TypeAlias = list[msgspec.Raw]
"""Mutations as JSON."""


class Batch(NamedTuple):
    """Mutations of one commit.

    Attributes:
        encoded: the mutations as they are sent.
        paths: the rows that they are about.
    """

    encoded: Encoded
    paths: list[Path]


class QueryBatch(NamedTuple):
    """A part of a query's answer.

    Attributes:
        rows: in the query's order.
        cursor: where the next batch starts.
        finished: whether it is the last one.
    """

    rows: list[Row]
    cursor: str
    finished: bool


class Calls:
    """The calls on one project's Datastore.

    Args:
        client: makes them.
        codec: turns keys, mutations and queries into JSON.
        clock: for how long to retry; it is told what time Datastore's answers say.
        rng: spreads retries.
    """

    def __init__(
        self,
        client: Client,
        codec: Codec,
        clock: Clock,
        rng: random.Random,
        observer: CallObserver | None,
    ) -> None:
        self.codec = codec
        self._observer = observer
        self._client = client
        self._clock = clock
        self._rng = rng

    async def begin(self, previous: str | None) -> str:
        """Begins a transaction; `previous` is the aborted one that it repeats."""
        options = {"readWrite": {"previousTransaction": previous} if previous else {}}
        return await self._retrying(partial(self._begin, {"transactionOptions": options}))

    async def _begin(self, fields: dict[str, Any]) -> str:
        with _malformed("datastore.projects.beginTransaction"):
            return await self._client.beginTransaction(additional_request_fields=fields)

    async def begin_reading(self, path: Path) -> tuple[str, dict[Path, Row]]:
        """Begins a transaction by reading one entity: one call in place of two.

        Returns:
            The transaction, and the entity by its key, if there is one.
        """
        key = Json(self.codec.key(path))
        name, found, deferred = await self._retrying(partial(self._begin_reading, key))
        if deferred:
            return name, await self.lookup([path], name)
        return name, {row.path: row for row in found}

    async def _begin_reading(self, key: Json) -> tuple[str, list[Row], list[Json]]:
        options: dict[str, Any] = {"readOptions": {"newTransaction": {"readWrite": {}}}}
        with _malformed("datastore.projects.lookup"):
            answer: Any = await self._client.lookup([key], additional_request_fields=options)  # type: ignore[list-item]  # Json stands in for Key
            found, deferred = _looked_up(answer, 1)
            return str(answer["transaction"]), found, deferred

    async def rollback(self, transaction: str) -> None:
        """Ends a transaction without effect."""
        await self._client.rollback(transaction)

    async def lookup(
        self, paths: Sequence[Path], transaction: str | None = None
    ) -> dict[Path, Row]:
        """Reads entities by key."""
        rows: dict[Path, Row] = {}
        wanted = [Json(self.codec.key(path)) for path in dict.fromkeys(paths)]
        for start in range(0, len(wanted), MAX_KEYS):
            keys = wanted[start : start + MAX_KEYS]
            for _ in range(MAX_ROUNDS_OF_DEFERRED):
                found, keys = await self._retrying(partial(self._ask, keys, transaction))
                rows.update((row.path, row) for row in found)
                if not keys:
                    break
            else:
                message = f"{plural(len(keys), 'key')} still deferred"
                raise TransientError("datastore.projects.lookup", message)
        return rows

    async def _ask(self, keys: list[Json], transaction: str | None) -> tuple[list[Row], list[Json]]:
        with _malformed("datastore.projects.lookup"):
            answer: Any = await self._client.lookup(keys, transaction=transaction)  # type: ignore[arg-type]  # Json stands in for Key
            return _looked_up(answer, len(keys))

    async def batches(self, query: dict[str, Any]) -> AsyncIterator[list[Row]]:
        """Runs a query to its end; gives the rows batch by batch."""
        asked = query
        while True:
            batch = await self._retrying(partial(self._run, asked))
            yield batch.rows
            if batch.finished:
                return
            if batch.cursor == asked.get("startCursor", ""):
                message = "an unfinished query that makes no progress"
                raise MalformedResponseError("datastore.projects.runQuery", message, status=200)
            asked = {**query, "startCursor": batch.cursor}

    async def _run(self, query: dict[str, Any]) -> QueryBatch:
        asked = self._clock.monotonic()
        with _malformed("datastore.projects.runQuery"):
            answer: Any = await self._client.runQuery(
                Json(query),  # type: ignore[arg-type]  # Json stands in for Query
                consistency=Consistency.STRONG,
            )
            batch: QueryResults = answer.data["batch"]
            rows = [row_of(result) for result in batch.entity_results]
            if batch.read_time is not None:
                self._clock.told(datetime.fromisoformat(batch.read_time).timestamp(), asked)
            return QueryBatch(rows, batch.end_cursor, batch.more_results != "NOT_FINISHED")

    def encode(self, mutations: Sequence[Mutation]) -> Encoded:
        """Mutations as they are sent: each is JSON already."""
        write = msgspec.json.encode
        return [msgspec.Raw(write(self.codec.mutation(mutation))) for mutation in mutations]

    def batches_of(self, mutations: Sequence[Mutation], room: int = 0) -> Iterator[Batch]:
        """Mutations in as few batches as the limits of a commit allow.

        Args:
            room: mutations that each commit must have room for beside these.
        """
        start = 0
        for chunk in _chunks(self.encode(mutations), MAX_MUTATIONS - room):
            paths = [mutation.path for mutation in mutations[start : start + len(chunk)]]
            yield Batch(chunk, paths)
            start += len(chunk)

    async def commit(self, mutations: Encoded, transaction: str | None = None) -> list[int]:
        """Writes with one call, never retried; gives the new versions."""
        mode = Mode.NON_TRANSACTIONAL if transaction is None else Mode.TRANSACTIONAL
        with _malformed("datastore.projects.commit"):
            sent: list[Any] = list(mutations)  # the library passes them on as they are
            answer: Any = await self._client.commit(sent, transaction, mode)
            versions = [result.data.version for result in answer["mutationResults"]]
            if len(versions) != len(mutations):
                raise ValueError("not every mutation was answered")
            return versions

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call without effects while that may help."""
        started = self._clock.monotonic()
        tries = 1
        while True:
            try:
                return await call()
            except TransientError as error:
                # INTERNAL rarely passes: one more try. A refused token was replaced already.
                tries_left = (2 if error.reason == "INTERNAL" else MAX_TRIES) - tries
                if tries_left <= 0 or isinstance(error, UnauthenticatedError):
                    raise
                delay = self.delay(tries, error.retry_after)
                if self._clock.monotonic() + delay - started > RETRY_SECONDS:
                    raise
                if self._observer is not None:
                    self._observer.retry(error.method)
            await asyncio.sleep(delay)
            tries += 1

    def delay(self, tries: int, retry_after: float | None) -> float:
        """Seconds to wait after that many tries; never less than the service asked for."""
        ceiling = min(MAX_DELAY, FIRST_DELAY * 2**tries)
        return max(retry_after or 0.0, self._rng.uniform(ceiling / 2, ceiling))


def _looked_up(answer: Any, asked: int) -> tuple[list[Row], list[Json]]:  # the library's
    """The rows that a lookup found, and the keys that it deferred."""
    found = [row_of(result.data) for result in answer["found"]]
    if len(found) + len(answer["missing"]) + len(answer["deferred"]) != asked:
        raise ValueError("not every key was answered")
    return found, answer["deferred"]


@contextlib.contextmanager
def _malformed(method: str) -> Iterator[None]:
    """Turns what the library and we stumble over in an answer of the wrong shape into one error."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"an answer of the wrong shape: {type(error).__name__}: {error}"
        raise MalformedResponseError(method, problem[:MESSAGE_CHARACTERS], status=200) from None


def _chunks(mutations: Encoded, most: int) -> Iterator[Encoded]:
    chunk: Encoded = []
    size = 0
    for mutation in mutations:
        length = len(bytes(mutation))
        if chunk and (len(chunk) == most or size + length > MAX_COMMIT_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(mutation)
        size += length
    if chunk:
        yield chunk
