"""Requests and answers of the API for people and jobs: plain JSON, times in Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gce_backend.machine_provider.wire import Backend, Dimensions, Int64, WireMessage

MAX_SSH_KEYS = 10
MAX_TAGS = 10
MAX_COUNT = 100
"""Machines of one lease: one commit grants them all, and one ends the lease."""

MAX_WAIT_SECONDS = 55
"""Longest wait of a call for news: proxies end a request that has no answer for a minute."""

LeaseStage = Literal["pending", "active", "held", "ended"]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Tag = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,63}:[ -~]{0,200}\Z")]
Duration = Annotated[int, Meta(ge=1, le=21 * 24 * 3600)]

_KINDS = (
    "ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)"
    "|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh[.]com"
)
HostKey = Annotated[str, Meta(pattern=rf"^({_KINDS}) [A-Za-z0-9+/]+=*\Z", max_length=2000)]
SshKey = Annotated[str, Meta(pattern=rf"^({_KINDS}) [A-Za-z0-9+/]+=*( [ -~]*)?\Z", max_length=2200)]
"""A public key with a comment, as in a `.pub` file. Options such as `command=` are refused."""


class NewLease(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """leases.create.

    Attributes:
        request_id: unique for its requester; a repeated request returns the same lease.
        dimensions: the dimensions that the machines must have.
        duration: of the lease, in seconds; exactly one of these three is set.
        ends_at: its end.
        without_end: whether it has no end.
        count: how many machines, all or none.
        label: the requester's label for it.
        tags: `KEY:VALUE` each, by which lists of leases can be filtered.
        wait: the longest wait in seconds; absent: four hours.
        keepalive: seconds without `leases.keepalive` after which it ends; absent: never.
        ssh_keys: public keys with which the machines' agents let the lessee in by SSH.
    """

    request_id: Id
    dimensions: Dimensions = Dimensions()
    duration: Duration | None = None
    ends_at: Int64 | None = None
    without_end: bool = False
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1
    label: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\Z")] = ""
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    wait: Annotated[int, Meta(ge=0, le=4 * 3600)] | None = None
    keepalive: Annotated[int, Meta(ge=10, le=3600)] | None = None
    ssh_keys: Annotated[tuple[SshKey, ...], Meta(max_length=MAX_SSH_KEYS)] = ()


class LeaseName(WireMessage, frozen=True, kw_only=True):
    """leases.get, keepalive: a lease by the id that its document names."""

    id: Id


class LeaseLook(LeaseName, frozen=True, kw_only=True, omit_defaults=True):
    """leases.get.

    Attributes:
        after: the version that the caller knows; absent: none.
        wait: the longest wait in seconds for another version; absent: none.
    """

    after: Annotated[str, Meta(max_length=100)] = ""
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0


class Extension(LeaseName, frozen=True, kw_only=True):
    """leases.extend.

    Attributes:
        duration: from now, in seconds.
    """

    duration: Duration


class Hold(LeaseName, frozen=True, kw_only=True):
    """leases.hold.

    Attributes:
        duration: for which the machines are kept from now, in seconds; absent: as the group allows.
    """

    duration: Duration | None = None


class Release(LeaseName, frozen=True, kw_only=True, omit_defaults=True):
    """leases.release.

    Attributes:
        failed: whether the work on the machines failed. They are then held, as long as access.cfg
            says, if it lets the group hold machines after failures.
    """

    failed: bool = False


class Transfer(LeaseName, frozen=True, kw_only=True):
    """leases.transfer.

    Attributes:
        user: the e-mail address of the next lessee.
    """

    user: Annotated[str, Meta(min_length=3, max_length=320)]


class NewKeys(LeaseName, frozen=True, kw_only=True):
    """leases.admit.

    Attributes:
        ssh_keys: the public keys with which the machines' agents let the lessee in from now on.
    """

    ssh_keys: Annotated[tuple[SshKey, ...], Meta(max_length=MAX_SSH_KEYS)]


class LeaseQuery(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """leases.list.

    Attributes:
        everybody: whether to list the leases of all users, if the caller may see them.
        tag: lists those with this tag alone, `KEY:VALUE`.
    """

    everybody: bool = False
    tag: str = ""


class Nothing(WireMessage, frozen=True, kw_only=True):
    """A request without fields."""


class NearestDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The kind of machine that is nearest to an unsatisfiable request.

    Attributes:
        dimensions: its dimensions.
        differs: the dimensions that do not match the request.
    """

    dimensions: Dimensions
    differs: tuple[str, ...]


class WaitDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request waits.

    Attributes:
        place: in the queue, from 1.
        reason: `limit`, `reserved`, `starting`, `leased`, `no_agent`, `cordoned` or
            `unsatisfiable`.
        message: the reason as a sentence.
        earliest: when enough machines are free if leases end as planned; absent when that is
            not known.
        nearest: for an unsatisfiable request, the nearest kind of machine.
    """

    place: int
    reason: Literal[
        "limit", "reserved", "starting", "leased", "no_agent", "cordoned", "unsatisfiable"
    ]
    message: str
    earliest: int | None = None
    nearest: NearestDocument | None = None


class SshAccess(WireMessage, frozen=True, kw_only=True):
    """How the lessee reaches a machine by SSH.

    Attributes:
        machine: the machine's name.
        address: a host name or an IP address.
        port: the TCP port.
        login: the login name.
        host_keys: the server's public keys, `TYPE BASE64` each.
        ready: whether the machine has let the lessee in.
    """

    machine: str
    address: str
    port: int
    login: str
    host_keys: tuple[str, ...]
    ready: bool


class MachineTrouble(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with a leased machine's VM, as its agent or its backend says.

    Attributes:
        machine: the machine's name.
        message: a sentence.
        gone: whether the VM no longer exists.
        preempted: whether Compute Engine takes the VM back: it stops within 30 s.
    """

    machine: str
    message: str
    gone: bool
    preempted: bool = False


class LeaseDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A lease.

    Attributes:
        id: its id in the API.
        request_id: the requester's id for it.
        user: the lessee.
        requester: who requested it, if it was transferred since.
        group: the group whose limits it counts against.
        label: the requester's label for it.
        tags: the requester's tags, `KEY:VALUE` each.
        state: `pending`, `active`, `held` or `ended`.
        ended: why it ended.
        message: what befell its machines' VMs when they were lost, or whose it is now.
        dimensions: the requested dimensions.
        count: how many machines.
        machines: their names, while it is active.
        created: when it was requested.
        began: when it got its machines.
        ends_at: its end; absent without end.
        alive_until: when it ends unless it is kept alive.
        waiting: why it is pending; in a long queue, absent during the first second.
        agents: those of its machines whose agents have reported.
        ssh: how its machines are reached by SSH, as far as their agents have reported it.
        troubles: what is wrong with its machines.
        version: changes with its state, machines and troubles.
    """

    id: str
    request_id: str
    user: str
    group: str
    state: LeaseStage
    dimensions: Dimensions
    count: int
    created: float
    requester: str = ""
    label: str = ""
    tags: tuple[str, ...] = ()
    ended: str | None = None
    message: str = ""
    machines: tuple[str, ...] = ()
    began: int | None = None
    ends_at: int | None = None
    alive_until: int | None = None
    waiting: WaitDocument | None = None
    agents: tuple[str, ...] = ()
    ssh: tuple[SshAccess, ...] = ()
    troubles: tuple[MachineTrouble, ...] = ()
    version: str = ""


class LeaseList(WireMessage, frozen=True, kw_only=True):
    """Leases, newest first."""

    leases: tuple[LeaseDocument, ...]


class MachineDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A machine of the catalog.

    Attributes:
        name: its name.
        backend: the backend that manages it.
        state: its state.
        dimensions: its dimensions.
        user: the lessee, if the caller may see it.
        ends_at: when its lease ends; absent without end or lease.
        agent: `reports` or `silent`; absent while its agent has never reported.
        leasable: whether it can be leased now.
        cordoned: whether an administrator keeps it from being leased.
    """

    name: str
    backend: str
    state: str
    dimensions: Dimensions
    user: str = ""
    ends_at: int | None = None
    agent: str = ""
    leasable: bool = False
    cordoned: bool = False


class MachineName(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machines.get, machines.cordon, machines.uncordon.

    Attributes:
        name: the machine's name.
        backend: the backend that manages it; needed where several have such a machine.
    """

    name: Id
    backend: str = ""


class MachineList(WireMessage, frozen=True, kw_only=True):
    """The catalog."""

    machines: tuple[MachineDocument, ...]


class GroupHoldings(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """What a group of users holds.

    Attributes:
        name: the group's.
        machines: how many its members hold.
        leases: how many leases run.
        held: machines of these that are held after a failure.
        waiting: requests that wait.
        limits: its limits, as access.cfg says; empty when access.cfg no longer names it.
    """

    name: str
    machines: int = 0
    leases: int = 0
    held: int = 0
    waiting: int = 0
    limits: Mapping[str, object] = msgspec.field(default_factory=dict)


class UserHoldings(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """What a user holds.

    Attributes:
        user: an e-mail address, or issuer and subject.
        group: the group whose limits the leases count against.
        machines: how many the user holds.
        waiting: requests that wait.
    """

    user: str
    group: str
    machines: int = 0
    waiting: int = 0


class Holdings(WireMessage, frozen=True, kw_only=True):
    """users.list: who holds and wants how much, those with most machines first."""

    groups: tuple[GroupHoldings, ...]
    users: tuple[UserHoldings, ...]


class SshReport(WireMessage, frozen=True, kw_only=True):
    """Where a machine lets its lessee in; see `SshAccess`."""

    address: Annotated[str, Meta(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}\Z")]
    port: Annotated[int, Meta(ge=1, le=65535)]
    login: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}\Z")]
    host_keys: Annotated[tuple[HostKey, ...], Meta(min_length=1, max_length=MAX_SSH_KEYS)]


class MachineReport(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machines.report: what a machine's agent says.

    Attributes:
        name: the machine's name.
        backend: the backend that manages the machine.
        version: the agent's version.
        ssh: where it lets lessees in; absent when the machine has no SSH server.
        serves: the id of the lease whose lessee it has let in; "" when none.
        admits: the SHA-256 of the keys that it lets in, joined by line feeds; "" when none.
        preempted: whether Compute Engine takes the VM back.
    """

    name: Id
    backend: Backend = "GCE"
    version: Annotated[str, Meta(max_length=50)]
    ssh: SshReport | None = None
    serves: Annotated[str, Meta(max_length=200)] = ""
    admits: Annotated[str, Meta(max_length=64)] = ""
    preempted: bool = False


class TroubleReport(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machines.trouble: what a backend says of a leased machine's VM.

    Attributes:
        name: the machine's name.
        message: what is wrong, as a sentence; "" when nothing is wrong any longer.
        gone: whether the VM no longer exists.
        preempted: whether Compute Engine took it back.
    """

    name: Id
    message: Annotated[str, Meta(max_length=500)] = ""
    gone: bool = False
    preempted: bool = False


class MachineLease(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A lease as its machines are told of it.

    Attributes:
        id: its id.
        user: the lessee.
        label: the requester's label for it.
        ends_at: its end; absent without end.
        ssh_keys: the lessee's public keys.
    """

    id: str
    user: str
    label: str = ""
    ends_at: int | None = None
    ssh_keys: tuple[str, ...] = ()


class MachineOrders(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to `machines.report` and `machines.trouble`.

    Attributes:
        state: the machine's state in the catalog; `GONE` when it has left the catalog.
        lease: its lease; absent when it is not leased.
    """

    state: str
    lease: MachineLease | None = None


class WhoAmI(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The caller, as the Machine Provider sees it."""

    user: str
    roles: Sequence[str]
    group: str = ""
    limits: Mapping[str, object] = msgspec.field(default_factory=dict)
