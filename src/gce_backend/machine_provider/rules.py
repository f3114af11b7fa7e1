"""The Machine Provider's pure decisions: what is refused and why, what matches, what is due."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from gce_backend.machine_provider.entities import (
    LeaseState,
    MachineState,
    StoredLease,
    StoredMachine,
)
from gce_backend.machine_provider.wire import (
    AddRequest,
    Dimensions,
    KeyValue,
    LeaseRequestMessage,
    Policies,
)

MAX_LEASE_SECONDS = 21 * 24 * 3600

_TOPIC = re.compile(r"(?!goog)[A-Za-z][-A-Za-z0-9_.~+%]{2,254}")
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")


def topic_error(topic: str | None, project: str | None) -> str | None:
    """Why messages cannot go to this topic."""
    if topic is None:
        return None if project is None else "UNSPECIFIED_TOPIC"
    if not _TOPIC.fullmatch(topic):
        return "INVALID_TOPIC"
    if project is not None and not _PROJECT.fullmatch(project):
        return "INVALID_PROJECT"
    return None


def backend_error(dimensions: Dimensions, backend: str) -> str | None:
    """Why a caller that manages `backend` may not add this."""
    if dimensions.backend is None:
        return "UNSPECIFIED_BACKEND"
    return None if dimensions.backend == backend else "MISMATCHED_BACKEND"


def addition_error(request: AddRequest, backend: str) -> str | None:
    """Why a machine is not taken into the catalog, but for its name being in use."""
    error = backend_error(request.dimensions, backend)
    if error is None and not request.dimensions.hostname:
        error = "UNSPECIFIED_HOSTNAME"
    return error or topic_error(request.policies.backend_topic, request.policies.backend_project)


def attributes(policies: Policies) -> tuple[KeyValue, ...]:
    """The attributes that messages about a machine carry."""
    found = policies.backend_attributes
    return (found,) if isinstance(found, KeyValue) else found


def lease_error(request: LeaseRequestMessage, now: float) -> str | None:
    """Why a lease request is refused."""
    error = topic_error(request.pubsub_topic, request.pubsub_project)
    if error is not None:
        return error
    lengths = [request.duration, request.lease_expiration_ts, request.indefinite or None]
    given = sum(length is not None for length in lengths)
    if given > 1:
        return "MUTUAL_EXCLUSION_ERROR"
    if given == 0:
        return "LEASE_LENGTH_UNSPECIFIED"
    length: float | None = request.duration
    if length is not None and length <= 0:
        return "NONPOSITIVE_DEADLINE"
    if request.lease_expiration_ts is not None:
        length = request.lease_expiration_ts - now
        if length <= 0:
            return "LEASE_EXPIRATION_TS_ERROR"
    return "LEASE_TOO_LONG" if length is not None and length > MAX_LEASE_SECONDS else None


def valid_until(lease: StoredLease) -> float | None:
    """When it is too late to fulfil a request, in Unix seconds; None: never.

    A request for a duration is not kept longer than it wants a machine for: nobody waits for it.
    """
    if lease.request.lease_expiration_ts is not None:
        return float(lease.request.lease_expiration_ts)
    return None if lease.request.duration is None else lease.created + lease.request.duration


def fulfilled(
    lease: StoredLease, machine: StoredMachine, now: float
) -> tuple[StoredLease, StoredMachine]:
    """A request and the machine that it gets, from now on."""
    end = lease.request.lease_expiration_ts
    if lease.request.duration is not None:
        end = int(now) + lease.request.duration
    got = msgspec.structs.replace(
        lease,
        state=LeaseState.FULFILLED,
        backend=machine.backend,
        hostname=machine.hostname,
        lease_expiration_ts=end,
    )
    held = msgspec.structs.replace(
        machine.in_state(MachineState.LEASED), lease=lease.name, lease_expiration_ts=end
    )
    instruction = lease.request.on_lease
    return got, held if instruction is None else held.told(instruction)


def matches(asked: Dimensions, machine: Dimensions) -> bool:
    """Whether a machine has every dimension that is asked for, labels in any order."""
    for field in Dimensions.__struct_fields__:
        wanted, found = getattr(asked, field), getattr(machine, field)
        if wanted is None or wanted == ():
            continue
        if isinstance(wanted, tuple):
            wanted, found = set(wanted), set(found)
        if wanted != found:
            return False
    return True


def pair(
    leases: Iterable[StoredLease], machines: Iterable[StoredMachine]
) -> Iterator[tuple[StoredLease, StoredMachine]]:
    """Gives each request, in their order, the first machine that fits and is not given yet.

    Requests for the same dimensions share one walk over the machines, so that a batch of like
    requests costs no more than a single one.
    """
    offered = list(machines)
    taken: set[int] = set()
    walks: dict[Dimensions, Iterator[int]] = {}
    for lease in leases:
        asked = lease.request.dimensions
        if asked not in walks:
            walks[asked] = _walk(asked, offered, taken)
        place = next(walks[asked], None)
        if place is not None:
            taken.add(place)
            yield lease, offered[place]


def _walk(asked: Dimensions, offered: list[StoredMachine], taken: set[int]) -> Iterator[int]:
    for place, machine in enumerate(offered):
        if place not in taken and matches(asked, machine.dimensions):
            yield place
