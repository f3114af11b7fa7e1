"""What the API for people and jobs takes and answers: plain JSON, times in Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gce_backend.machine_provider.wire import Dimensions, WireMessage

MAX_COUNT = 100
"""Machines of one lease: they are given and ended in one commit."""

LeaseStage = Literal["pending", "active", "held", "ended"]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Duration = Annotated[int, Meta(ge=1, le=21 * 24 * 3600)]


class NewLease(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """leases.create.

    Attributes:
        request_id: unique for its asker; the same again is the same lease.
        dimensions: what the machines must be.
        duration: of the lease, in seconds; exactly one of these three is set.
        ends_at: its end.
        without_end: whether it has none.
        count: how many machines, all or none.
        label: what its asker calls it.
        wait: seconds to wait for them at most; absent: four hours.
        keepalive: seconds without `leases.keepalive` after which it ends; absent: never.
    """

    request_id: Id
    dimensions: Dimensions = Dimensions()
    duration: Duration | None = None
    ends_at: int | None = None
    without_end: bool = False
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1
    label: Annotated[str, Meta(max_length=200)] = ""
    wait: Annotated[int, Meta(ge=0, le=4 * 3600)] | None = None
    keepalive: Annotated[int, Meta(ge=10, le=3600)] | None = None


class LeaseName(WireMessage, frozen=True, kw_only=True):
    """leases.get, release, keepalive: a lease by the id that its document names."""

    id: Id


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


class LeaseQuery(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """leases.list.

    Attributes:
        everybody: also those of others, for who may see them.
    """

    everybody: bool = False


class Nothing(WireMessage, frozen=True, kw_only=True):
    """A request that says nothing."""


class NearestDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The kind of machine nearest to what no machine is.

    Attributes:
        dimensions: what it is.
        differs: in which dimensions it is not what was asked for.
    """

    dimensions: Dimensions
    differs: tuple[str, ...]


class WaitDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request waits.

    Attributes:
        place: in the queue, from 1.
        reason: `limit`, `reserved`, `starting`, `leased` or `unsatisfiable`.
        message: the same in a sentence.
        earliest: when enough machines are free at the earliest, as leases end now; absent when
            that is not known.
        nearest: of an unsatisfiable request, what there is.
    """

    place: int
    reason: Literal["limit", "reserved", "starting", "leased", "unsatisfiable"]
    message: str
    earliest: int | None = None
    nearest: NearestDocument | None = None


class LeaseDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A lease.

    Attributes:
        id: names it in the API.
        request_id: its asker's own name for it.
        user: whose it is.
        group: whose limits count.
        label: what its asker calls it.
        state: `pending`, `active`, `held` or `ended`.
        ended: why it is over.
        dimensions: what was asked for.
        count: how many machines.
        machines: their names, while it is active.
        created: when it was asked for.
        began: when it got its machines.
        ends_at: its end; absent without end.
        alive_until: when it ends unless it is kept alive.
        waiting: why it is pending.
    """

    id: str
    request_id: str
    user: str
    group: str
    state: LeaseStage
    dimensions: Dimensions
    count: int
    created: float
    label: str = ""
    ended: str | None = None
    machines: tuple[str, ...] = ()
    began: int | None = None
    ends_at: int | None = None
    alive_until: int | None = None
    waiting: WaitDocument | None = None


class LeaseList(WireMessage, frozen=True, kw_only=True):
    """Leases, the newest first."""

    leases: tuple[LeaseDocument, ...]


class MachineDocument(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A machine of the catalog."""

    name: str
    backend: str
    state: str
    dimensions: Dimensions
    user: str = ""
    ends_at: int | None = None


class MachineList(WireMessage, frozen=True, kw_only=True):
    """The catalog."""

    machines: tuple[MachineDocument, ...]


class WhoAmI(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The caller, as the Machine Provider sees it."""

    user: str
    roles: Sequence[str]
    group: str = ""
    limits: Mapping[str, object] = msgspec.field(default_factory=dict)
