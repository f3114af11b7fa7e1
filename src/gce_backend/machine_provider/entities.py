"""What the Machine Provider stores: a machine in the catalog, a lease request, a capacity."""

from __future__ import annotations

import enum
import hashlib

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import CorruptEntityError
from gce_backend.clients.datastore.client import Path, Properties, Row, Unindexed
from gce_backend.clients.datastore.values import WHOLE
from gce_backend.machine_provider.wire import (
    Dimensions,
    EntryMessage,
    Instruction,
    LeaseRequestMessage,
    LeaseResponse,
    Policies,
)

MACHINE_KIND = "CatalogMachineEntry"
LEASE_KIND = "LeaseRequest"
CAPACITY_KIND = "CatalogCapacityEntry"


class MachineState(enum.StrEnum):
    """Where a machine is in its life. What is to be done next follows from it."""

    NEW = "NEW"  # its topic and subscription are to be made, and SUBSCRIBED published
    AVAILABLE = "AVAILABLE"  # may be leased
    LEASED = "LEASED"  # somebody holds it
    RECLAIMED = "RECLAIMED"  # the lease has ended; it goes once its backend and lessee know
    DELETED = "DELETED"  # no longer in the catalog; its topic and subscription are to go


class LeaseState(enum.StrEnum):
    """Where a lease request is."""

    UNTRIAGED = "UNTRIAGED"  # no machine for it yet
    FULFILLED = "FULFILLED"  # got a machine, which may have been reclaimed since
    DENIED = "DENIED"  # no machine was there in time
    CANCELLED = "CANCELLED"  # its asker no longer wanted one, before it got one


class EndReason(enum.StrEnum):
    """Why a lease, or the wait for one, is over."""

    RELEASED = "RELEASED"  # it was given back
    EXPIRED = "EXPIRED"  # its time was over
    NOT_KEPT_ALIVE = "NOT_KEPT_ALIVE"  # its lessee was silent for longer than it wanted to be
    CANCELLED = "CANCELLED"  # its asker withdrew it
    WAITED_TOO_LONG = "WAITED_TOO_LONG"  # there was no machine in time


class InstructionState(enum.StrEnum):
    """How far a machine's instruction is."""

    PENDING = "PENDING"
    RECEIVED = "RECEIVED"
    EXECUTED = "EXECUTED"


class StoredMachine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A machine in the catalog.

    Attributes:
        backend: who manages it.
        hostname: unique within its backend.
        addition_id: unique to the call that added it, so that the call knows its own work again.
        dimensions: what it is.
        policies: how it is treated.
        state: where it is in its life.
        announced: whether the message about its present state (LEASED, RECLAIMED) has been sent.
        lease: name of the lease request that has it; "" when it is not leased.
        user: who holds it; "" when it is not leased.
        group: whose limits count; "" when it is not leased.
        lease_expiration_ts: end of the lease in Unix seconds; None when it is not leased, or
            leased indefinitely.
        alive_until: when the lease ends unless its lessee shows that it lives; None when never.
        released: whether its lease was given back, and ends with the next round of work.
        instruction: what it is to do.
        instruction_state: how far that is; None without an instruction.
        connect: the Swarming server that the machine is to be told of by a message; "" when it
            has been told.
        lessee_topic: where the lessee wants to hear of the lease, `projects/P/topics/T`, if so.
        lessee: name of the lease request that the lessee is to hear of next.
    """

    backend: str
    hostname: str
    addition_id: str
    dimensions: Dimensions
    policies: Policies
    state: MachineState = MachineState.NEW
    announced: bool = False
    lease: str = ""
    user: str = ""
    group: str = ""
    lease_expiration_ts: int | None = None
    alive_until: int | None = None
    released: bool = False
    instruction: Instruction | None = None
    instruction_state: InstructionState | None = None
    connect: str = ""
    lessee_topic: str = ""
    lessee: str = ""

    @property
    def path(self) -> Path:
        """Its key."""
        return machine_path(self.backend, self.hostname)

    @property
    def ends(self) -> int | None:
        """When its lease ends if nothing is done about it; None when it does not."""
        ends = [end for end in (self.lease_expiration_ts, self.alive_until) if end is not None]
        return min(ends, default=None)

    @property
    def entry(self) -> EntryMessage:
        """What the catalog says of it."""
        leased = self.state is MachineState.LEASED
        return EntryMessage(
            dimensions=self.dimensions,
            policies=self.policies,
            state=self.state,
            lease_expiration_ts=self.lease_expiration_ts if leased else None,
            leased_indefinitely=True if leased and self.lease_expiration_ts is None else None,
        )

    def in_state(self, state: MachineState) -> StoredMachine:
        """The same machine in a state without lease; the lessee is still to hear of its end."""
        return msgspec.structs.replace(
            self,
            state=state,
            announced=False,
            lease="",
            user="",
            group="",
            lease_expiration_ts=None,
            alive_until=None,
            released=False,
            instruction=None,
            instruction_state=None,
            connect="",
        )

    def told(self, instruction: Instruction) -> StoredMachine:
        """The same machine with something to do."""
        return msgspec.structs.replace(
            self,
            instruction=instruction,
            instruction_state=InstructionState.PENDING,
            connect=instruction.swarming_server or "",
        )


class StoredLease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lease request and what became of it.

    Attributes:
        user: who asked.
        request: what was asked.
        checksum: tells the same request from another with the same id.
        created: when, in Unix seconds.
        state: what became of it.
        backend: of the leased machine; "" before.
        hostname: of the leased machine; "" before.
        lease_expiration_ts: end of the lease in Unix seconds; None when it has none, or before.
        reclaimed_ts: when the machine was reclaimed, in Unix seconds; None while it is not.
        indefinite_ts: what the lessee is told of the end of a lease that has none.
        group: whose limits count.
        count: how many machines it asks for.
        label: what its asker calls it.
        others: backend and name of the machines that it got besides the first.
        fulfilled_ts: when it got them; None before.
        wait_until: when it is too late for it; None for the longest.
        keepalive: for how many seconds its lessee may be silent; None without limit.
        alive_until: when that is over.
        held: whether its machines are kept for a look after a failure.
        ended: why it is over; None while it is not.
    """

    user: str
    request: LeaseRequestMessage
    checksum: str = msgspec.field(name="request_hash")
    created: UnixSeconds
    state: LeaseState = LeaseState.UNTRIAGED
    backend: str = ""
    hostname: str = ""
    lease_expiration_ts: int | None = None
    reclaimed_ts: int | None = None
    indefinite_ts: int | None = None
    group: str = ""
    count: int = 1
    label: str = ""
    others: tuple[tuple[str, str], ...] = ()
    fulfilled_ts: int | None = None
    wait_until: UnixSeconds | None = None
    keepalive: int | None = None
    alive_until: int | None = None
    held: bool = False
    ended: EndReason | None = None

    @property
    def path(self) -> Path:
        """Its key."""
        return lease_path(self.user, self.request.request_id)

    @property
    def name(self) -> str:
        """Its key's name, by which machines refer to it."""
        return self.path[0][1]

    @property
    def machine(self) -> Path:
        """Key of the first machine that it got."""
        return machine_path(self.backend, self.hostname)

    @property
    def machines(self) -> list[Path]:
        """Keys of all machines that it got."""
        return [self.machine, *(machine_path(*other) for other in self.others)]

    @property
    def runs(self) -> bool:
        """Whether it has machines now."""
        return self.state is LeaseState.FULFILLED and self.reclaimed_ts is None

    @property
    def response(self) -> LeaseResponse:
        """What the client is told: after the reclamation no name, and its moment as the end."""
        if self.state is not LeaseState.FULFILLED:
            return LeaseResponse(
                client_request_id=self.request.request_id,
                request_hash=self.name,
                state=LeaseState.DENIED if self.state is LeaseState.CANCELLED else self.state,
            )
        is_held = self.reclaimed_ts is None
        end = self.lease_expiration_ts or self.indefinite_ts
        return LeaseResponse(
            client_request_id=self.request.request_id,
            request_hash=self.name,
            state=self.state,
            hostname=self.hostname if is_held else None,
            lease_expiration_ts=end if is_held else self.reclaimed_ts,
            leased_indefinitely=is_held and self.lease_expiration_ts is None,
        )


class Capacity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many machines of a sort a backend could provide.

    Attributes:
        dimensions: of what sort.
        count: how many.
    """

    dimensions: Dimensions
    count: int

    @property
    def path(self) -> Path:
        """Its key."""
        return ((CAPACITY_KIND, digest(self.dimensions)),)


Record = StoredMachine | StoredLease | Capacity
KINDS: dict[str, type[Record]] = {
    MACHINE_KIND: StoredMachine,
    LEASE_KIND: StoredLease,
    CAPACITY_KIND: Capacity,
}


def machine_path(backend: str, hostname: str) -> Path:
    """A machine's key."""
    return ((MACHINE_KIND, f"{backend}:{hostname}"),)


def lease_path(user: str, request_id: str) -> Path:
    """A lease request's key: ids are unique per user."""
    return named_lease_path(digest((user, request_id)))


def named_lease_path(name: str) -> Path:
    """The key of the lease request of this name."""
    return ((LEASE_KIND, name),)


def digest(value: object) -> str:
    """A name for a value: equal values have equal names."""
    encoded = msgspec.json.encode(value, order="deterministic")
    return hashlib.sha1(encoded, usedforsecurity=False).hexdigest()


def to_properties(record: Record) -> Properties:
    """How a record is stored: what is queried for, and the whole as one text."""
    whole = Unindexed(msgspec.json.encode(record).decode())
    return (
        {"record": whole}
        if isinstance(record, Capacity)
        else {
            "state": str(record.state),
            "record": whole,
        }
    )


def from_row(row: Row) -> Record:
    """The record in a row.

    Raises:
        CorruptEntityError: it is not one.
    """
    for name in (WHOLE, "record"):
        if name in row.problems:
            raise CorruptEntityError(f"{row.path}: {name}: {row.problems[name]}")
    text = row.properties.get("record")
    value = text.value if isinstance(text, Unindexed) else text
    try:
        return msgspec.json.decode(str(value), type=KINDS[row.path[0][0]])
    except (ValueError, RecursionError, KeyError) as error:
        raise CorruptEntityError(f"{row.path}: record: {error}") from error
