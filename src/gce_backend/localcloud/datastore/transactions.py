"""Open transactions: the state that each reads, what it has read, and whether that has changed.

Concurrency is optimistic. A transaction reads the state at which it began, whatever others commit;
it does not see its own writes, which are part of its commit. A commit fails when others have
changed what the transaction has read or writes. A query reads all entities that its filter selects,
whatever its limit. So an entity that enters, changes in, or leaves its results is a conflict.
"""

from __future__ import annotations

import base64
import secrets

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.datastore.past import ChangeLog
from gce_backend.localcloud.datastore.plans import Plan
from gce_backend.localcloud.datastore.storage import Entities, StorageChange
from gce_backend.localcloud.statuses import aborted, invalid

MAX_SECONDS = 270.0
MAX_IDLE_SECONDS = 60.0


class OpenTransaction(msgspec.Struct):
    """An open transaction.

    Attributes:
        began: monotonic time.
        used: monotonic time of its last call.
        moment: Unix time of what it reads: its beginning, or its readTime.
        version: the last commit's until then.
        read_only: whether it may not write.
        names: the keys that it has read, present or not.
        plans: the queries that it has run.
    """

    began: float
    used: float
    moment: UnixSeconds
    version: int
    read_only: bool
    names: set[str] = msgspec.field(default_factory=set)
    plans: list[Plan] = msgspec.field(default_factory=list)

    def has_read(self, change: StorageChange) -> bool:
        """Whether it has read a changed entity."""
        return change.name in self.names or any(plan.touched_by(change) for plan in self.plans)


class Transactions:
    """The open transactions; a restart ends them.

    Args:
        log: what commits change.
    """

    def __init__(self, clock: Clock, log: ChangeLog) -> None:
        self._clock = clock
        self._log = log
        self._open: dict[str, OpenTransaction] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, version: int, moment: UnixSeconds, *, read_only: bool) -> str:
        """Opens a transaction that reads the state at a version, that of a moment, and names it."""
        self._expire()
        name = base64.b64encode(secrets.token_bytes(18)).decode()
        now = self._clock.monotonic()
        self._open[name] = OpenTransaction(now, now, moment, version, read_only)
        return name

    def get(self, name: str) -> OpenTransaction:
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

    def seen_by(self, transaction: OpenTransaction, now: Entities) -> Entities:
        """The entities as a transaction sees them."""
        return self._log.view(transaction.version, now)

    def finish(self, name: str, written: set[str]) -> None:
        """Ends a transaction that is to be committed.

        Args:
            name: the transaction.
            written: the names of the keys that it writes.

        Raises:
            ServiceError: others have changed what it has read or writes.
        """
        transaction = self.get(name)
        contended = any(
            change.name in written or transaction.has_read(change)
            for change in self._log.since(transaction.version)
        )
        self.end(name)
        if contended and not transaction.read_only:
            raise aborted("Aborted due to cross-transaction contention. Please retry.")

    def end(self, name: str) -> None:
        """Forgets a transaction."""
        self._open.pop(name, None)

    def _expire(self) -> None:
        now = self._clock.monotonic()
        for name, transaction in list(self._open.items()):
            if now - transaction.began > MAX_SECONDS or now - transaction.used > MAX_IDLE_SECONDS:
                self.end(name)
