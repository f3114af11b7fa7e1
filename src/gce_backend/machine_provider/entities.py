"""What the Machine Provider stores: machines in the catalog, lease requests, backends' offers."""

from __future__ import annotations

import enum
import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

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
    WireMessage,
)

MACHINE_KIND = "CatalogMachineEntry"
LEASE_KIND = "LeaseRequest"
CAPACITY_KIND = "CatalogCapacityEntry"
OFFER_KIND = "BackendOffer"
KEPT_SECONDS = 7 * 24 * 3600
"""How long a lease that has ended is kept: as long, its request id means that lease."""
MAX_WAIT_SECONDS = 4 * 3600
"""How long a request waits for a machine before it is denied."""
AGENT_ATTRIBUTE = "require_agent"
"""The attribute in a machine's policies with which its backend wants an agent (`true`)."""
LOST_AT = "lost_at"
"""The stored property by which lost leases are found: when they ended, Unix seconds."""
FORGET_AT = "forget_at"
"""The stored property by which ended leases are found: when they may be deleted, Unix seconds."""


class MachineState(enum.StrEnum):
    """A machine's state, which determines the next step."""

    NEW = "NEW"  # next: create its topic and subscription, and publish SUBSCRIBED
    AVAILABLE = "AVAILABLE"  # may be leased
    LEASED = "LEASED"  # somebody holds it
    RECLAIMED = "RECLAIMED"  # the lease has ended; deleted once its backend and lessee know
    DELETED = "DELETED"  # no longer in the catalog; next: delete its topic and subscription


class LeaseState(enum.StrEnum):
    """A lease request's state."""

    UNTRIAGED = "UNTRIAGED"  # no machine for it yet
    FULFILLED = "FULFILLED"  # got a machine, which may have been reclaimed since
    DENIED = "DENIED"  # no machine was there in time
    CANCELLED = "CANCELLED"  # the requester withdrew it before it got a machine


class EndReason(enum.StrEnum):
    """Why a lease, or the wait for one, ended."""

    RELEASED = "RELEASED"  # the lessee released it
    EXPIRED = "EXPIRED"  # its duration ended
    NOT_KEPT_ALIVE = "NOT_KEPT_ALIVE"  # its lessee sent no keepalive in time
    CANCELLED = "CANCELLED"  # the requester withdrew it
    WAITED_TOO_LONG = "WAITED_TOO_LONG"  # there was no machine in time
    LOST = "LOST"  # the VM of its machine, or of each of its machines, no longer exists
    PREEMPTED = "PREEMPTED"  # Compute Engine took back the VM of its machine, or of each


LOSSES = frozenset({EndReason.LOST, EndReason.PREEMPTED})
"""The ends that nobody wanted: a lease that ended so stays in its lessee's list for a while."""


class InstructionState(enum.StrEnum):
    """The state of a machine's instruction."""

    PENDING = "PENDING"
    RECEIVED = "RECEIVED"
    EXECUTED = "EXECUTED"


class SshServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a machine lets its lessee in.

    Attributes:
        address: a host name or an IP address.
        port: the TCP port.
        login: the login name.
        host_keys: the server's public keys, `TYPE BASE64` each.
    """

    address: str
    port: int
    login: str
    host_keys: tuple[str, ...]


class MachineAgent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a machine's agent said last.

    Attributes:
        ssh: where it lets lessees in; None when the machine has no SSH server.
        serves: the lease whose lessee it has let in; "" when none.
        admits: the digest of the keys that it lets in; "" when none.
    """

    version: str
    ssh: SshServer | None = None
    serves: str = ""
    admits: str = ""


class StoredMachine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A machine in the catalog.

    Attributes:
        backend: the backend that manages it.
        hostname: unique within its backend.
        addition_id: unique to the call that added it, so that the call recognizes its own work.
        announced: whether the message about its present state (LEASED, RECLAIMED) has been sent.
        lease: the name of its lease request; "" when it is not leased.
        user: the lessee; "" when it is not leased.
        group: the group whose limits the lease counts against; "" when it is not leased.
        lease_expiration_ts: end of the lease in Unix seconds; None when it is not leased, or
            leased indefinitely.
        alive_until: when the lease ends without another keepalive; None when it needs none.
        released: whether its lease was released; the lease ends with the next round of work.
        instruction_state: the state of the instruction; None without one.
        connect: the Swarming server that a message still has to tell the machine; "" when no
            message is due.
        lessee_topic: the topic for messages to the lessee, `projects/P/topics/T`, if any.
        lessee: the name of the lease request that the next message to the lessee is about.
        agent: what its agent said last; None while it has said nothing.
        trouble: what its backend says is wrong with its VM while it is leased; "" when nothing is.
        gone: whether its VM no longer exists.
        preempted_ts: when Compute Engine was known to take its VM back, in Unix seconds; None
            while it does not. Such a machine is not leased any more.
        cordoned: whether an administrator keeps it from being leased; a lease that runs goes on.
        held: whether its lease is held so that a failure can be investigated.
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
    agent: MachineAgent | None = None
    trouble: str = ""
    gone: bool = False
    preempted_ts: int | None = None
    cordoned: bool = False
    held: bool = False

    @property
    def path(self) -> Path:
        """Its key."""
        return machine_path(self.backend, self.hostname)

    @property
    def ends(self) -> int | None:
        """When its lease ends unless somebody extends it; None when it does not end."""
        ends = [end for end in (self.lease_expiration_ts, self.alive_until) if end is not None]
        return min(ends, default=None)

    @property
    def requires_agent(self) -> bool:
        """Whether its backend wants it leased only while its agent reports."""
        return any(
            pair.key == AGENT_ATTRIBUTE and pair.value == "true"
            for pair in self.policies.backend_attributes
        )

    @property
    def entry(self) -> EntryMessage:
        """Its catalog entry."""
        leased = self.state is MachineState.LEASED
        return EntryMessage(
            dimensions=self.dimensions,
            policies=self.policies,
            state=self.state,
            lease_expiration_ts=self.lease_expiration_ts if leased else None,
            leased_indefinitely=True if leased and self.lease_expiration_ts is None else None,
        )

    def in_state(self, state: MachineState) -> StoredMachine:
        """The same machine without a lease; the lessee still has to be notified of the end."""
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
            trouble="",
            gone=False,
            held=False,
        )

    def told(self, instruction: Instruction) -> StoredMachine:
        """The same machine with an instruction."""
        return msgspec.structs.replace(
            self,
            instruction=instruction,
            instruction_state=InstructionState.PENDING,
            connect=instruction.swarming_server or "",
        )


class StoredLease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lease request and its outcome.

    Attributes:
        user: the lessee: the requester, or whom the lease was transferred to.
        checksum: distinguishes a repeated request from another one with the same id.
        created: when it was made, in Unix seconds.
        backend: the leased machine's backend; "" before the lease.
        hostname: the leased machine's host name; "" before the lease.
        lease_expiration_ts: end of the lease in Unix seconds; None when it has none, or before.
        reclaimed_ts: when the machine was reclaimed, in Unix seconds; None while it is not.
        indefinite_ts: the end that the answer names for a lease without end.
        group: the group whose limits it counts against.
        count: how many machines it asks for.
        label: the requester's label for it.
        tags: the requester's tags, `KEY:VALUE` each.
        others: backend and name of its machines besides the first.
        fulfilled_ts: when it got its machines; None before.
        wait_until: when it stops waiting; None for the longest wait.
        keepalive: the longest time between two keepalives, in seconds; None without limit.
        alive_until: when that time ends.
        ssh_keys: the lessee's public keys, in OpenSSH's form.
        held: whether its machines are kept so that a failure can be investigated.
        held_ts: since when, in Unix seconds; None while they are not.
        ended: why it ended; None while it has not.
        message: what befell its machines' VMs, of a lease that is LOST or PREEMPTED; else "".
        former: the lessees who have transferred it, in order; the first one is the requester.
        transferred_ts: when it was last transferred, in Unix seconds; None if it never was.
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
    tags: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    fulfilled_ts: int | None = None
    wait_until: UnixSeconds | None = None
    keepalive: int | None = None
    alive_until: int | None = None
    ssh_keys: tuple[str, ...] = ()
    held: bool = False
    held_ts: int | None = None
    ended: EndReason | None = None
    message: str = ""
    former: tuple[str, ...] = ()
    transferred_ts: int | None = None

    @property
    def requester(self) -> str:
        """Who requested it: its request id is unique among this user's."""
        return self.former[0] if self.former else self.user

    @property
    def path(self) -> Path:
        """Its key."""
        return lease_path(self.requester, self.request.request_id)

    @property
    def name(self) -> str:
        """Its key's name, by which machines refer to it."""
        return self.path[0][1]

    @property
    def machine(self) -> Path:
        """The key of its first machine."""
        return machine_path(self.backend, self.hostname)

    @property
    def machines(self) -> list[Path]:
        """The keys of all its machines."""
        return [self.machine, *(machine_path(*other) for other in self.others)]

    @property
    def runs(self) -> bool:
        """Whether it has machines now."""
        return self.state is LeaseState.FULFILLED and self.reclaimed_ts is None

    @property
    def forget_at(self) -> int | None:
        """When it may be deleted, in Unix seconds; None while it waits or runs."""
        if self.state is LeaseState.UNTRIAGED or self.runs:
            return None
        return int(self.reclaimed_ts or self.created + MAX_WAIT_SECONDS) + KEPT_SECONDS

    @property
    def response(self) -> LeaseResponse:
        """The answer to the requester. After reclamation: no host name, and the actual end.

        For a requester who has transferred the lease, it ended then.
        """
        if self.state is not LeaseState.FULFILLED:
            return LeaseResponse(
                client_request_id=self.request.request_id,
                request_hash=self.name,
                state=LeaseState.DENIED if self.state is LeaseState.CANCELLED else self.state,
            )
        over = self.reclaimed_ts if self.user == self.requester else self.transferred_ts
        end = self.lease_expiration_ts or self.indefinite_ts
        is_held = over is None
        return LeaseResponse(
            client_request_id=self.request.request_id,
            request_hash=self.name,
            state=self.state,
            hostname=self.hostname if is_held else None,
            lease_expiration_ts=end if is_held else over,
            leased_indefinitely=is_held and self.lease_expiration_ts is None,
        )


class Capacity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many machines with certain dimensions a backend could provide.

    Attributes:
        count: the number of machines.
    """

    dimensions: Dimensions
    count: int

    @property
    def path(self) -> Path:
        """Its key."""
        return ((CAPACITY_KIND, digest(self.dimensions)),)


class OfferedKind(WireMessage, frozen=True, kw_only=True):
    """Machines of one kind.

    Attributes:
        dimensions: those of each machine.
        count: how many there are at most.
    """

    dimensions: Dimensions
    count: Annotated[int, Meta(ge=0, le=10**6)]


class StoredOffer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machines that a backend makes if they are asked for.

    Attributes:
        backend: the backend.
        source: which of its daemons says so.
        kinds: the machines, by kind.
        said: when it said so, Unix seconds.
    """

    backend: str
    source: str
    kinds: tuple[OfferedKind, ...]
    said: int

    @property
    def path(self) -> Path:
        """Its key."""
        return offer_path(self.backend, self.source)


Record = StoredMachine | StoredLease | Capacity | StoredOffer
KINDS: dict[str, type[Record]] = {
    MACHINE_KIND: StoredMachine,
    LEASE_KIND: StoredLease,
    CAPACITY_KIND: Capacity,
    OFFER_KIND: StoredOffer,
}


def machine_path(backend: str, hostname: str) -> Path:
    """A machine's key."""
    return ((MACHINE_KIND, f"{backend}:{hostname}"),)


def offer_path(backend: str, source: str) -> Path:
    """An offer's key."""
    return ((OFFER_KIND, digest((backend, source))),)


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
    """The stored form of a record: the fields that queries use, and the whole record as text."""
    whole = Unindexed(msgspec.json.encode(record).decode())
    if isinstance(record, Capacity | StoredOffer):
        return {"record": whole}
    ended: Properties = {}
    if isinstance(record, StoredLease) and record.forget_at is not None:
        ended = {FORGET_AT: record.forget_at}
        if record.ended in LOSSES and record.reclaimed_ts is not None:
            ended = {**ended, LOST_AT: record.reclaimed_ts}
    return {"state": str(record.state), "record": whole, **ended}


def from_row(row: Row) -> Record:
    """The record in a row.

    Raises:
        CorruptEntityError: the row does not hold a valid record.
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
