"""The Machine Provider's stored state, and the picture of it in memory that work is found by.

Datastore is the truth: every change is decided, in a transaction, on what it holds then. The
picture follows each change; it is loaded at the start, and again in part after a change of unknown
outcome.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import CorruptEntityError, RemoteError, TransientError
from gce_backend.clients.datastore.client import Datastore, Filter, Path, Row, Transaction
from gce_backend.machine_provider.entities import (
    KINDS,
    LEASE_KIND,
    MACHINE_KIND,
    LeaseState,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    from_row,
    to_properties,
)
from gce_backend.machine_provider.leadership import EPOCH, Term
from gce_backend.machine_provider.queue import Held, kind_of
from gce_backend.machine_provider.wire import Dimensions

MAX_CHANGE = 400
"""Records in one change: a commit holds 500 mutations."""
CHANGE_TRIES = 3
PAUSE_SECONDS = 0.2

Found = Mapping[Path, Record]
Decision = Callable[[Found], Mapping[Path, Record | None]]


log = structlog.stdlib.get_logger()


class Records:
    """The stored state.

    Args:
        datastore: where it is.
        term: that must still run when something is written; None where nobody else writes.

    Attributes:
        machines: all machines, by state and key.
        untriaged: the lease requests without an answer, the oldest first.
        released: the leased machines that were given back.
        held: how many machines and leases each group and user holds.
        free: the names of the available machines, by kind.
        work: set when there may be something to do.
    """

    def __init__(self, datastore: Datastore, term: Term | None = None) -> None:
        self.machines: dict[MachineState, dict[Path, StoredMachine]] = {s: {} for s in MachineState}
        self.untriaged: dict[Path, StoredLease] = {}
        self.released: set[Path] = set()
        self.work = asyncio.Event()
        self._datastore = datastore
        self._term = term
        self._states: dict[Path, MachineState] = {}
        self.held = Held()
        self.free: dict[Dimensions, dict[str, None]] = {}
        self._by_lease: Counter[str] = Counter()
        self._expirations: list[tuple[int, Path]] = []
        self._uncertain: set[Path] = set()
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Reads everything that there may be work for.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        waiting = Filter("state", "EQUAL", str(LeaseState.UNTRIAGED))
        machines = await self._datastore.query(MACHINE_KIND)
        leases = await self._datastore.query(LEASE_KIND, filters=[waiting])
        found = [record for row in machines if (record := _readable(row)) is not None]
        requests = [record for row in leases if (record := _readable(row)) is not None]
        requests.sort(key=lambda lease: lease.created if isinstance(lease, StoredLease) else 0.0)
        for record in [*found, *requests]:
            self._picture(record.path, record)
        self.work.set()

    async def backup(self) -> list[Record]:
        """Everything that is stored now.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        rows = [row for kind in KINDS for row in await self._datastore.query(kind)]
        return [from_row(row) for row in rows]

    async def restore(self, backup: Sequence[Record]) -> None:
        """Puts what was stored in the place of what is stored now, and reads it.

        Raises:
            RemoteError: Datastore failed; part of it may have been restored.
        """
        wanted = {record.path: record for record in backup}
        async with self._lock:
            present = [row.path for kind in KINDS for row in await self._datastore.query(kind)]
            paths = list(dict.fromkeys([*present, *wanted]))
            for start in range(0, len(paths), MAX_CHANGE):
                part = paths[start : start + MAX_CHANGE]

                async def work(transaction: Transaction, part: Sequence[Path] = part) -> None:
                    if self._term is not None:
                        await self._read_in(transaction, [])
                    for path in part:
                        record = wanted.get(path)
                        if record is None:
                            transaction.delete(path)
                        else:
                            transaction.upsert(path, to_properties(record))

                await self._datastore.transaction(work)
            for path in paths:
                self._picture(path, wanted.get(path))
            self._uncertain.clear()
        self.work.set()

    async def read(self, paths: Sequence[Path]) -> Found:
        """What Datastore holds now."""
        rows = await self._datastore.lookup(paths)
        return {path: from_row(row) for path, row in rows.items()}

    async def change(self, paths: Sequence[Path], decide: Decision) -> Found:
        """Changes records that must agree, all or none.

        Args:
            paths: the keys of all records that the decision depends on; `MAX_CHANGE` at most.
            decide: given those that exist, says which get which value (None: removed). Called
                again when others interfered or when an outcome is unknown, so it must know a
                change that it already made.

        Returns:
            The new records.

        Raises:
            RemoteError: not changed, or perhaps; in doubt the picture is read again.
            LeadershipLostError: not changed: another process works.
        """
        async with self._lock:
            try:
                found, changes = await self._persist(paths, decide)
            except RemoteError:
                self._uncertain.update(paths)
                self.work.set()
                raise
            merged = {**found, **changes}
            for path, record in merged.items():
                self._picture(path, record)
        # Also without changes: an earlier try of unknown outcome may have made them.
        self.work.set()
        return {path: record for path, record in merged.items() if record is not None}

    async def _persist(
        self, paths: Sequence[Path], decide: Decision
    ) -> tuple[Found, Mapping[Path, Record | None]]:
        async def work(transaction: Transaction) -> tuple[Found, Mapping[Path, Record | None]]:
            rows = await self._read_in(transaction, paths)
            found = {path: from_row(row) for path, row in rows.items()}
            decided = decide(found)
            changes = {p: record for p, record in decided.items() if record != found.get(p)}
            for path, record in changes.items():
                if record is None:
                    transaction.delete(path)
                else:
                    transaction.upsert(path, to_properties(record))
            return found, changes

        for _ in range(CHANGE_TRIES - 1):
            try:
                return await self._datastore.transaction(work)
            except TransientError:  # the outcome is unknown: decide again on what is there now
                await asyncio.sleep(PAUSE_SECONDS)
        return await self._datastore.transaction(work)

    async def _read_in(self, transaction: Transaction, paths: Sequence[Path]) -> dict[Path, Row]:
        """What a transaction begins with: the rows, and a look whose turn it is."""
        if self._term is None:
            return await transaction.lookup(paths)
        rows = await transaction.lookup([*paths, EPOCH])
        self._term.check(rows)
        rows.pop(EPOCH, None)
        return rows

    def _picture(self, path: Path, record: Record | None) -> None:
        if path[0][0] == LEASE_KIND:
            if isinstance(record, StoredLease) and record.state is LeaseState.UNTRIAGED:
                self.untriaged[path] = record
            else:
                self.untriaged.pop(path, None)
        elif path[0][0] == MACHINE_KIND:
            state = self._states.pop(path, None)
            if state is not None:
                self._count(self.machines[state][path], -1)
            self.released.discard(path)
            if state is not None and not (
                isinstance(record, StoredMachine) and record.state is state
            ):
                del self.machines[state][path]
            if isinstance(record, StoredMachine):
                if record.released:
                    self.released.add(path)
                self._states[path] = record.state
                self.machines[record.state][path] = record
                self._count(record, 1)
                if record.state is MachineState.LEASED and record.ends is not None:
                    heapq.heappush(self._expirations, (record.ends, path))

    def _count(self, machine: StoredMachine, by: int) -> None:
        """Counts a machine in, or out, of what is free and what is held."""
        if machine.state is MachineState.AVAILABLE:
            kind, name = kind_of(machine.dimensions), machine.path[0][1]
            names = self.free.setdefault(kind, {})
            if by > 0:
                names[name] = None
            else:
                names.pop(name, None)
                if not names:
                    del self.free[kind]
        if machine.state is not MachineState.LEASED:
            return
        self.held.machines[machine.group, machine.user] += by
        before = self._by_lease[machine.lease]
        self._by_lease[machine.lease] = before + by
        if before + by == 0:
            del self._by_lease[machine.lease]
            self.held.leases[machine.group] -= 1
        elif before == 0:
            self.held.leases[machine.group] += 1

    async def refresh(self) -> None:
        """Reads again what the outcome of a change is unknown of.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        if not self._uncertain:
            return
        async with self._lock:
            paths = list(self._uncertain)
            found = await self.read(paths)
            for path in paths:
                self._picture(path, found.get(path))
            self._uncertain.difference_update(paths)

    def expired(self, now: UnixSeconds) -> list[Path]:
        """The machines whose lease has run out."""
        paths = []
        while self._expirations and self._expirations[0][0] <= now:
            end, path = heapq.heappop(self._expirations)
            machine = self.machines[MachineState.LEASED].get(path)
            if machine is not None and machine.ends == end:
                paths.append(path)
        return paths

    def next_expiration(self) -> float | None:
        """When the next lease runs out, at the earliest, in Unix seconds."""
        return self._expirations[0][0] if self._expirations else None


def _readable(row: Row) -> Record | None:
    """The record in a row; a row that holds none is reported and left alone."""
    try:
        return from_row(row)
    except CorruptEntityError as error:
        log.warning("machine_provider.record_unreadable", error=str(error))
        return None
