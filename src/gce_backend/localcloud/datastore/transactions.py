"""Open transactions: what they have read, and whether that is still so.

Concurrency is optimistic. A read in a transaction is of the moment at which it began: where what
it reads has changed since, that read answers ABORTED, in read-only transactions too (Google's keep
old versions for those). At the commit, everything read is looked at once more. A query has read its
kind under its ancestor, so an entity that it did not match can also be in its way.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable

import msgspec

from gce_backend.clock import Clock
from gce_backend.localcloud.datastore.keys import Index, KeyPath
from gce_backend.localcloud.datastore.storage import Change
from gce_backend.localcloud.statuses import aborted, invalid

MAX_SECONDS = 270.0
MAX_IDLE_SECONDS = 60.0


class Transaction(msgspec.Struct):
    """An open transaction.

    Attributes:
        began: monotonic time.
        used: monotonic time of its last call.
        version: the last commit's when it began.
        read_only: whether it may not write.
        names: the keys that it has read, present or not.
        ranges: the queries that it has read.
    """

    began: float
    used: float
    version: int
    read_only: bool
    names: set[str] = msgspec.field(default_factory=set)
    ranges: list[tuple[Index, KeyPath]] = msgspec.field(default_factory=list)

    def has_read(self, change: Change) -> bool:
        """Whether a change is of something that it has read."""
        if change.name in self.names:
            return True
        path, index = change.key.path, change.key.home
        return any(
            read in {index, index._replace(kind="")} and path[: len(ancestor)] == ancestor
            for read, ancestor in self.ranges
        )


class Transactions:
    """The open transactions; a restart ends them.

    Args:
        clock: when they expire.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, Transaction] = {}
        self._changes: list[Change] = []

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, version: int, *, read_only: bool) -> str:
        """Opens a transaction that reads the state at a version, and names it."""
        self._expire()
        name = base64.b64encode(secrets.token_bytes(18)).decode()
        now = self._clock.monotonic()
        self._open[name] = Transaction(now, now, version, read_only)
        return name

    def get(self, name: str) -> Transaction:
        """An open transaction.

        Raises:
            ServiceError: it is not open, or has expired.
        """
        self._expire()
        transaction = self._open.get(name)
        if transaction is None:
            raise invalid("The referenced transaction has expired or is no longer valid.")
        transaction.used = self._clock.monotonic()
        return transaction

    def check(self, name: str) -> None:
        """Looks whether everything that a transaction has read is still so.

        Raises:
            ServiceError: it is not; the transaction has been ended.
        """
        transaction = self._open[name]
        for change in reversed(self._changes):
            if change.version <= transaction.version:
                break
            if transaction.has_read(change):
                self.end(name)
                raise aborted("Aborted due to cross-transaction contention. Please retry.")

    def end(self, name: str) -> None:
        """Forgets a transaction, and the changes that no open one can be in conflict with."""
        self._open.pop(name, None)
        if not self._open:
            self._changes.clear()

    def note(self, changes: Iterable[Change]) -> None:
        """Remembers what a commit changed, while that can matter."""
        if self._open:
            self._changes.extend(changes)

    def _expire(self) -> None:
        now = self._clock.monotonic()
        for name, transaction in list(self._open.items()):
            if now - transaction.began > MAX_SECONDS or now - transaction.used > MAX_IDLE_SECONDS:
                self.end(name)
