"""The Datastore client: rows by key and by query, guarded batches of writes, transactions.

Means Firestore in Datastore mode. A thin layer on gcloud-aio-datastore that adds what it lacks:
paging, limits, retries, versions, and errors of our own. It knows nothing about what entities mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import aiohttp

from gce_backend.base.clock import Clock
from gce_backend.base.errors import AbortedError, RemoteError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.calls import Batch, Calls
from gce_backend.clients.datastore.journal import MUTATIONS, Journal
from gce_backend.clients.datastore.library import Client
from gce_backend.clients.datastore.terms import EPOCH, Term
from gce_backend.clients.datastore.values import (
    Codec,
    Delete,
    Filter,
    Insert,
    Mutation,
    Path,
    Properties,
    Row,
    Scalar,
    Unindexed,
    Update,
    Upsert,
    Value,
)
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.plain_http import PlainSession

__all__ = [
    "Datastore",
    "Delete",
    "Filter",
    "Insert",
    "Mutation",
    "Path",
    "Properties",
    "Row",
    "Scalar",
    "Transaction",
    "Unindexed",
    "Update",
    "Upsert",
    "Value",
]

MAX_TRANSACTION_TRIES = 5
ROLLBACK_SECONDS = 2.0

T = TypeVar("T")


class Datastore:
    """A project's Datastore.

    Args:
        session: the connections; not closed here.
        api_root: e.g. `https://datastore.googleapis.com/v1`.
        namespace: "" for the default one.
        clock: for how long to retry.
        rng: spreads retries.

    Every method raises errors of `gce_backend.base.errors`: `TransientError` after the retries of a
    read, and at once for a commit (its outcome is then unknown: read back), `CorruptEntityError`
    for a row that this project cannot have written, `PermissionDeniedError`, `InvalidRequestError`.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | PlainSession,
        tokens: TokenSource,
        project: str,
        api_root: str,
        clock: Clock,
        namespace: str = "",
        rng: random.Random | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        client = Client(
            session=session,
            tokens=tokens,
            project=project,
            api_root=api_root,
            namespace=namespace,
            observer=observer,
        )
        # Random numbers only spread retries here: none of them is a secret.
        chance = rng or random.Random()  # noqa: S311
        self._calls = Calls(client, Codec(project, namespace), clock, chance, observer)
        self._term: Term | None = None
        self._journal: Journal | None = None

    def within(self, term: Term, journal: Journal | None = None) -> Datastore:
        """The same Datastore, which accepts no write after the end of a term.

        Each of its writes is a transaction that reads the number of the present term, and raises
        `LeadershipLostError` when that is another one.

        Args:
            journal: tells standby processes what was written; None for none.
        """
        fenced = copy.copy(self)
        fenced._term, fenced._journal = term, journal  # noqa: SLF001 -- its own class
        return fenced

    async def begin_journal(self) -> None:
        """Writes the entry that begins the term in the journal.

        Raises:
            LeadershipLostError: the term has ended.
            TransientError: the outcome is unknown; a second entry does no harm.
        """
        if self._journal is not None:
            name = await self._begin()
            await self._journal.begin(self._calls, name)

    async def lookup(self, paths: Sequence[Path]) -> dict[Path, Row]:
        """Reads entities by key, strongly consistent; missing ones are absent from the result."""
        return await self._calls.lookup(paths)

    async def query(
        self,
        kind: str,
        *,
        filters: Sequence[Filter] = (),
        keys_only: bool = False,
    ) -> list[Row]:
        """Runs a query to its end, strongly consistent; the rows are in the order of their keys.

        Args:
            kind: the kind of the rows.
            filters: all of them hold for each row.
            keys_only: leave properties and versions out.
        """
        pages = self.query_pages(kind, filters=filters, keys_only=keys_only)
        return [row async for page in pages for row in page]

    async def query_pages(
        self,
        kind: str,
        *,
        filters: Sequence[Filter] = (),
        keys_only: bool = False,
    ) -> AsyncIterator[list[Row]]:
        """Runs a query like `query`, giving rows as they come, batch by batch.

        The end of the iteration is the end of the query: a batch that cannot be had raises. Each
        batch is current when it is read, so the whole is not one snapshot.
        """
        query = self._calls.codec.query(kind, filters=filters, keys_only=keys_only)
        async for rows in self._calls.batches(query):
            yield rows

    async def commit(self, mutations: Sequence[Mutation]) -> list[int]:
        """Writes what was computed before, in as few commits as the limits allow.

        A commit is applied as a whole or not at all; when one fails, those before it stay applied
        and those after it are not tried. No two mutations may be about the same entity.

        Returns:
            The new versions, in the order of `mutations`.

        Raises:
            AbortedError: an entity is no longer at the base version.
            AlreadyExistsError: an inserted entity exists.
            NotFoundError: an updated entity does not exist.
            TransientError: the outcome is unknown.
        """
        versions: list[int] = []
        room = MUTATIONS if self._journal is not None else 0
        for batch in self._calls.batches_of(mutations, room):
            versions += await self._commit(batch)
        return versions

    async def _commit(self, batch: Batch) -> list[int]:
        if self._term is None:
            return await self._calls.commit(batch.encoded)
        name = await self._begin()
        if self._journal is None:
            return await self._calls.commit(batch.encoded, name)
        return await self._journal.commit(self._calls, name, batch.encoded, batch.paths)

    async def _begin(self) -> str:
        """Begins a transaction in which the term is known to run."""
        name, rows = await self._calls.begin_reading(EPOCH)
        try:
            if self._term is not None:
                self._term.check(rows)
        except BaseException:
            await _roll_back(self._calls, name)
            raise
        return name

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `work` in a transaction and commits what it wrote.

        The whole is repeated, up to 5 times, when something it read was changed by others: `work`
        must have no effect but through its transaction.

        Args:
            work: reads and writes through the `Transaction` that it is given.

        Returns:
            What `work` returned.

        Raises:
            AbortedError: it was in conflict with others every time.
            TransientError: the outcome is unknown.
        """
        previous: str | None = None
        for attempt in range(1, MAX_TRANSACTION_TRIES):
            previous = await self._calls.begin(previous)
            try:
                return await self._attempt(work, previous)
            except AbortedError as error:
                delay = self._calls.delay(attempt, error.retry_after)
            await asyncio.sleep(delay)
        return await self._attempt(work, await self._calls.begin(previous))

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], name: str) -> T:
        transaction = Transaction(self._calls, name, self._term, self._journal)
        try:
            result = await work(transaction)
        except BaseException:
            # Also when cancelled: left open, it would stand in others' way until it expires.
            await _roll_back(self._calls, name)
            raise
        await transaction.finish()
        return result


class Transaction:
    """What `Datastore.transaction` gives to its work.

    Its reads do not see its own writes.

    Attributes:
        versions: the new version of each entity written, by path; filled by the commit.
    """

    def __init__(self, calls: Calls, name: str, term: Term | None, journal: Journal | None) -> None:
        self.versions: dict[Path, int] = {}
        self._calls = calls
        self._name = name
        self._unchecked = term
        self._journal = journal
        self._mutations: list[Mutation] = []

    async def lookup(self, paths: Sequence[Path]) -> dict[Path, Row]:
        """Reads entities by key; missing ones are absent from the result.

        Raises:
            LeadershipLostError: the term of the Datastore that gave the transaction has ended.
        """
        term, self._unchecked = self._unchecked, None
        if term is None:
            return await self._calls.lookup(paths, self._name)
        rows = await self._calls.lookup([*paths, EPOCH], self._name)
        term.check(rows)
        return rows if EPOCH in paths else {path: rows[path] for path in rows if path != EPOCH}

    def upsert(self, path: Path, properties: Properties) -> None:
        """Makes or replaces an entity when the transaction commits."""
        self._mutations.append(Upsert(path, properties))

    def delete(self, path: Path) -> None:
        """Removes an entity, if there is one, when the transaction commits."""
        self._mutations.append(Delete(path, None))

    async def finish(self) -> None:
        """Commits; with nothing written there is nothing to agree on, and it is rolled back."""
        if not self._mutations:
            await _roll_back(self._calls, self._name)
            return
        if self._unchecked is not None:
            await self.lookup([])
        paths = [mutation.path for mutation in self._mutations]
        encoded = self._calls.encode(self._mutations)
        if self._journal is None:
            versions = await self._calls.commit(encoded, self._name)
        else:
            versions = await self._journal.commit(self._calls, self._name, encoded, paths)
        self.versions.update(zip(paths, versions, strict=True))


async def _roll_back(calls: Calls, transaction: str) -> None:
    # Best effort: what cannot be rolled back expires by itself.
    with contextlib.suppress(RemoteError, TimeoutError):
        async with asyncio.timeout(ROLLBACK_SECONDS):
            await calls.rollback(transaction)
