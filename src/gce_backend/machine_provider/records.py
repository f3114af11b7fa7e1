"""The Machine Provider's stored state, and the picture of it in memory that shows what to do.

Datastore is authoritative: a transaction decides every change on what Datastore holds at that time.
The picture follows each change. It is loaded at the start, and partly reloaded after a change of
unknown outcome.
"""

from __future__ import annotations

import asyncio
import heapq
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import structlog

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import CorruptEntityError, RemoteError, TransientError
from gce_backend.clients.datastore.client import Datastore, Filter, Path, Row, Transaction
from gce_backend.machine_provider.agent_watch import AgentWatch
from gce_backend.machine_provider.entities import (
    FORGET_AT,
    KINDS,
    LEASE_KIND,
    LOST_AT,
    MACHINE_KIND,
    OFFER_KIND,
    EndReason,
    LeaseState,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    StoredOffer,
    from_row,
    to_properties,
)
from gce_backend.machine_provider.losses import lost_at
from gce_backend.machine_provider.queue import Held, kind_of, matches
from gce_backend.machine_provider.wire import Dimensions

MAX_CHANGE = 400
"""Records in one change: a commit holds 500 mutations."""
CHANGE_TRIES = 3
PAUSE_SECONDS = 0.2

K = TypeVar("K")
Found = Mapping[Path, Record]
Decision = Callable[[Found], Mapping[Path, Record | None]]


log = structlog.stdlib.get_logger()


class Records:
    """The stored state.

    Args:
        datastore: where the state is stored.
        agents: knows which agents report.
        ended: called with the reason when a lease ends, or when a request stops waiting.

    Attributes:
        machines: all machines, by state and key.
        kinds: the same by kind, state and key: a catalog has many machines, and few kinds.
        untriaged: the lease requests without an answer, oldest first.
        released: the leased machines that were released.
        held: how many machines and leases each group and user holds.
        users: the leases that run, by user, each with how many machines the user holds of it.
        waiting: how many requests of each user wait.
        wanted: the kinds that requests wait for, each with how many requests.
        free: the names of the machines that can be leased now, by kind.
        agents: knows which agents report.
        work: set when there may be work to do.
        news: set, and replaced, when a lease request changes.
        doomed: the leased machines whose VMs are gone or are taken back.
        offers: what backends make if it is asked for.
    """

    def __init__(
        self,
        datastore: Datastore,
        agents: AgentWatch,
        ended: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.agents = agents
        self.machines: dict[MachineState, dict[Path, StoredMachine]] = {s: {} for s in MachineState}
        self.untriaged: dict[Path, StoredLease] = {}
        self.released: set[Path] = set()
        self.work = asyncio.Event()
        self.news = asyncio.Event()
        self.doomed: dict[Path, StoredMachine] = {}
        self.offers: dict[Path, StoredOffer] = {}
        self._watched: weakref.WeakValueDictionary[str, asyncio.Event] = (
            weakref.WeakValueDictionary()
        )
        self._datastore = datastore
        self._ended = ended
        self._states: dict[Path, MachineState] = {}
        self.held = Held()
        self.users: dict[str, Counter[str]] = {}
        self.waiting: Counter[str] = Counter()
        self.wanted: Counter[Dimensions] = Counter()
        self.free: dict[Dimensions, dict[str, None]] = {}
        self.kinds: dict[Dimensions, dict[MachineState, dict[Path, StoredMachine]]] = {}
        self._expirations: list[tuple[int, Path]] = []
        self._uncertain: set[Path] = set()
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Reads everything that may need work.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        waiting = Filter("state", "EQUAL", str(LeaseState.UNTRIAGED))
        machines = await self._datastore.query(MACHINE_KIND)
        leases = await self._datastore.query(LEASE_KIND, filters=[waiting])
        offers = await self._datastore.query(OFFER_KIND)
        found = [record for row in [*machines, *offers] if (record := _readable(row)) is not None]
        requests = [record for row in leases if (record := _readable(row)) is not None]
        requests.sort(key=lambda lease: lease.created if isinstance(lease, StoredLease) else 0.0)
        for record in [*found, *requests]:
            self._picture(record.path, record)
        self.work.set()

    async def backup(self) -> list[Record]:
        """All stored records.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        rows = [row for kind in KINDS for row in await self._datastore.query(kind)]
        return [from_row(row) for row in rows]

    async def restore(self, backup: Sequence[Record]) -> None:
        """Replaces the stored records with earlier ones, and reads them.

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
        """Changes several records in one transaction, all or none.

        Args:
            paths: the keys of all records that the decision depends on; `MAX_CHANGE` at most.
            decide: given the records that exist, returns the new values (None: remove). Called
                again after a conflict or an unknown outcome, so it must recognize a change
                that it already made.

        Returns:
            The new records.

        Raises:
            RemoteError: nothing changed, or the outcome is unknown and the picture is read again.
            LeadershipLostError: nothing changed: another process leads.
        """
        async with self._lock:
            try:
                found, changes = await self._persist(paths, decide)
            except RemoteError:
                self._uncertain.update(paths)
                self.work.set()
                raise
            for path, record in changes.items():
                before, reason = _end_of(found.get(path)), _end_of(record)
                if reason is not None and before is None:
                    self._ended(reason.value)
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
            rows = await transaction.lookup(paths)
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
            except TransientError:  # the outcome is unknown: decide again on the present records
                await asyncio.sleep(PAUSE_SECONDS)
        return await self._datastore.transaction(work)

    def _picture(self, path: Path, record: Record | None) -> None:
        if path[0][0] == LEASE_KIND:
            self._picture_lease(path, record)
        elif path[0][0] == MACHINE_KIND:
            self._picture_machine(path, record)
        elif isinstance(record, StoredOffer):
            self.offers[path] = record
        else:
            self.offers.pop(path, None)

    def _picture_lease(self, path: Path, record: Record | None) -> None:
        self.tell()
        self._stir(path[0][1])
        before = self.untriaged.get(path)
        if isinstance(record, StoredLease) and record.state is LeaseState.UNTRIAGED:
            self.untriaged[path] = record
            if before is None:
                self._wait(record, 1)
        elif before is not None:
            del self.untriaged[path]
            self._wait(before, -1)

    def _picture_machine(self, path: Path, record: Record | None) -> None:
        state = self._states.pop(path, None)
        if state is not None:
            self._stir(self.machines[state][path].lease)
            self._count(path, self.machines[state][path], -1)
        self.released.discard(path)
        self.doomed.pop(path, None)
        if state is not None and not (isinstance(record, StoredMachine) and record.state is state):
            del self.machines[state][path]
        if not isinstance(record, StoredMachine):
            self.agents.forget(path)
            return
        self.agents.see(record)
        if record.released:
            self.released.add(path)
        self._states[path] = record.state
        self.machines[record.state][path] = record
        self._count(path, record, 1)
        if record.state is MachineState.LEASED and lost_at(record) is not None:
            self.doomed[path] = record
        if record.state is MachineState.LEASED and record.ends is not None:
            heapq.heappush(self._expirations, (record.ends, path))

    def _wait(self, lease: StoredLease, by: int) -> None:
        """Adds a request to, or removes it from, those that wait."""
        _add(self.waiting, lease.user, by)
        _add(self.wanted, kind_of(lease.request.dimensions), by)

    def may_grant(self) -> bool:
        """Whether a machine is free that a request may be waiting for."""
        return any(matches(asked, kind) for kind in self.free for asked in self.wanted)

    def hear(self, machine: StoredMachine) -> None:
        """Notes a report of a machine's agent; the machine can be leased again if it could not."""
        state = self._states.get(machine.path)
        if state is not None and self.agents.hear(machine):
            self._picture(machine.path, self.machines[state][machine.path])
            self.work.set()

    def hush(self) -> None:
        """Takes the machines whose agents have become silent from those that can be leased."""
        for path in self.agents.hush():
            self._picture(path, self.machines[self._states[path]][path])

    def tell(self) -> None:
        """Lets those who wait for news look again."""
        self.news.set()
        self.news = asyncio.Event()

    def watch(self, lease: str) -> asyncio.Event:
        """What is set when a lease, or one of its machines, changes."""
        return self._watched.setdefault(lease, asyncio.Event())

    def end_watches(self) -> None:
        """Lets those who wait for news of any kind look again."""
        self.tell()
        for lease in tuple(self._watched):
            self._stir(lease)

    def _stir(self, lease: str) -> None:
        event = self._watched.pop(lease, None)
        if event is not None:
            event.set()

    def is_leasable(self, machine: StoredMachine) -> bool:
        """Whether an available machine may be leased: its VM stays, and its agent reports."""
        kept = machine.cordoned or machine.preempted_ts is not None
        return not kept and self.agents.allows(machine)

    def lost_leases(self, now: UnixSeconds) -> dict[str, list[Path]]:
        """The leases whose machines' VMs are all lost, with their machines."""
        found: dict[tuple[str, str], list[Path]] = {}
        for path, machine in self.doomed.items():
            end = lost_at(machine)
            if end is not None and end <= now:
                found.setdefault((machine.user, machine.lease), []).append(path)
        return {
            name: lost
            for (user, name), lost in found.items()
            if len(lost) == self.users[user][name]
        }

    def next_loss(self, now: UnixSeconds) -> float | None:
        """When the next machine is lost, in Unix seconds; None when none is about to be."""
        ends = [end for one in self.doomed.values() if (end := lost_at(one)) is not None]
        return min((end for end in ends if end > now), default=None)

    def _count(self, path: Path, machine: StoredMachine, by: int) -> None:
        """Adds a machine to, or removes it from, its kind, the free and the held machines."""
        kind = kind_of(machine.dimensions)
        self._sort(path, machine, kind, by)
        if machine.state is MachineState.AVAILABLE:
            name = path[0][1]
            names = self.free.setdefault(kind, {})
            if by > 0 and self.is_leasable(machine):
                names[name] = None
            else:
                names.pop(name, None)
                if not names:
                    del self.free[kind]
        if machine.state is not MachineState.LEASED:
            return
        _add(self.held.machines, (machine.group, machine.user), by)
        _add(self.held.investigated, machine.group, by * machine.held)
        leases = self.users.setdefault(machine.user, Counter())
        before = leases[machine.lease]
        _add(leases, machine.lease, by)
        if before + by == 0:
            _add(self.held.leases, machine.group, -1)
        elif before == 0:
            _add(self.held.leases, machine.group, 1)
        if not leases:
            del self.users[machine.user]

    def _sort(self, path: Path, machine: StoredMachine, kind: Dimensions, by: int) -> None:
        """Adds a machine to, or removes it from, the machines of its kind."""
        states = self.kinds.setdefault(kind, {})
        if by > 0:
            states.setdefault(machine.state, {})[path] = machine
            return
        del states[machine.state][path]
        if not states[machine.state]:
            del states[machine.state]
        if not states:
            del self.kinds[kind]

    def fitting(
        self, dimensions: Dimensions, *states: MachineState
    ) -> Iterator[Collection[StoredMachine]]:
        """The machines in these states that have every requested dimension, kind by kind."""
        wanted, name = kind_of(dimensions), dimensions.hostname
        for kind, found in self.kinds.items():
            if matches(wanted, kind):
                for state in states:
                    machines = found.get(state, {}).values()
                    yield (
                        machines
                        if name is None
                        else [one for one in machines if one.dimensions.hostname == name]
                    )

    async def refresh(self) -> None:
        """Reads the records of a change of unknown outcome again.

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

    async def forget(self, now: UnixSeconds) -> int:
        """Deletes the leases that ended long ago; returns how many.

        Raises:
            RemoteError: Datastore cannot be read or written.
        """
        due = Filter(FORGET_AT, "LESS_THAN_OR_EQUAL", int(now))
        rows = await self._datastore.query(LEASE_KIND, filters=[due], keys_only=True)
        paths = [row.path for row in rows]

        def decide(found: Found) -> dict[Path, Record | None]:
            ends = {
                path: lease.forget_at
                for path, lease in found.items()
                if isinstance(lease, StoredLease)
            }
            return {path: None for path, end in ends.items() if end is not None and end <= now}

        for start in range(0, len(paths), MAX_CHANGE):
            await self.change(paths[start : start + MAX_CHANGE], decide)
        return len(paths)

    async def lost(self, since: int) -> Found:
        """The leases that have ended since then because their machines' VMs were gone.

        Args:
            since: Unix seconds.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        recent = Filter(LOST_AT, "GREATER_THAN_OR_EQUAL", since)
        rows = await self._datastore.query(LEASE_KIND, filters=[recent])
        return {row.path: found for row in rows if (found := _readable(row)) is not None}

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


def _add(counter: Counter[K], key: K, by: int) -> None:
    """Adds to a count; what counts nothing takes no memory."""
    counter[key] += by
    if not counter[key]:
        del counter[key]


def _end_of(record: Record | None) -> EndReason | None:
    return record.ended if isinstance(record, StoredLease) else None


def _readable(row: Row) -> Record | None:
    """The record in a row; a row without a valid record is reported and left unchanged."""
    try:
        return from_row(row)
    except CorruptEntityError as error:
        log.warning("machine_provider.record_unreadable", error=str(error))
        return None
