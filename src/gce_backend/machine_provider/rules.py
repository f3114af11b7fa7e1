"""The Machine Provider's pure decisions: refusals and their reasons, matches, and due times."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.machine_provider.entities import (
    MAX_WAIT_SECONDS,
    EndReason,
    LeaseState,
    MachineState,
    StoredLease,
    StoredMachine,
)
from gce_backend.machine_provider.wire import (
    Dimensions,
    LeaseRequestMessage,
)

MAX_LEASE_SECONDS = 21 * 24 * 3600
FOR_EVER_SECONDS = 10_000 * 24 * 3600
"""Seconds from now to the end that answers name for a lease without end."""

_TOPIC = re.compile(r"(?!goog)[A-Za-z][-A-Za-z0-9_.~+%]{2,254}")


def topic_error(topic: str | None, project: str | None) -> str | None:
    """Why messages cannot be sent to this topic, as far as its name shows."""
    if topic and not _TOPIC.fullmatch(topic):
        return "INVALID_TOPIC"
    if project and "/" in project:
        return "INVALID_PROJECT"
    return "UNSPECIFIED_TOPIC" if project and not topic else None


def owned(dimensions: Dimensions, backend: str) -> Dimensions:
    """The same dimensions, with the caller's own backend if they name none."""
    if dimensions.backend is not None:
        return dimensions
    return msgspec.structs.replace(dimensions, backend=backend)


def backend_error(dimensions: Dimensions, backend: str) -> str | None:
    """Why a caller that manages `backend` may not change this."""
    return None if dimensions.backend == backend else "MISMATCHED_BACKEND"


def name_error(dimensions: Dimensions, backend: str) -> str | None:
    """Why a machine of these dimensions is not changed: another's backend, or no host name."""
    error = backend_error(dimensions, backend)
    return error or (None if dimensions.hostname else "UNSPECIFIED_HOSTNAME")


def lease_error(
    request: LeaseRequestMessage, now: UnixSeconds, longest: float = MAX_LEASE_SECONDS
) -> str | None:
    """Why a lease request is refused. Its length is checked before its topic; 0 means absent.

    Args:
        longest: the longest lease allowed, in seconds.
    """
    error = _length_error(request, now, longest)
    return error or topic_error(request.pubsub_topic, request.pubsub_project)


def length(request: LeaseRequestMessage, now: UnixSeconds) -> float | None:
    """The requested length of a lease in seconds; None when the request names no end."""
    if request.duration:
        return float(request.duration)
    return request.lease_expiration_ts - now if request.lease_expiration_ts else None


def _length_error(request: LeaseRequestMessage, now: UnixSeconds, longest: float) -> str | None:
    duration, end = request.duration, request.lease_expiration_ts
    given = sum(bool(length) for length in (duration, end, request.indefinite))
    if given > 1:
        return "MUTUAL_EXCLUSION_ERROR"
    if given == 0:
        return "LEASE_LENGTH_UNSPECIFIED"
    seconds = length(request, now)
    if seconds is None:
        return None
    if seconds <= 0:
        return "NONPOSITIVE_DEADLINE" if duration else "LEASE_EXPIRATION_TS_ERROR"
    return "LEASE_TOO_LONG" if seconds > longest else None


def valid_until(lease: StoredLease) -> UnixSeconds:
    """When a request stops waiting: by its own limit, a missing keepalive, or the longest wait."""
    ends = (
        lease.created + MAX_WAIT_SECONDS,
        lease.request.lease_expiration_ts or None,
        lease.wait_until,
        lease.alive_until,
    )
    return min(end for end in ends if end is not None)


def fulfilled(
    lease: StoredLease, machines: Sequence[StoredMachine], now: UnixSeconds, project: str
) -> tuple[StoredLease, list[StoredMachine]]:
    """A request and the machines that it gets, from now on.

    Args:
        lease: the request.
        machines: available machines that fit, as many as it asks for.
        project: the project of the lessee's topic when the request does not name one.
    """
    request = lease.request
    end = int(now) + request.duration if request.duration else request.lease_expiration_ts or None
    got = msgspec.structs.replace(
        lease,
        state=LeaseState.FULFILLED,
        backend=machines[0].backend,
        hostname=machines[0].hostname,
        others=tuple((machine.backend, machine.hostname) for machine in machines[1:]),
        fulfilled_ts=int(now),
        lease_expiration_ts=end,
        indefinite_ts=int(now) + FOR_EVER_SECONDS if end is None else None,
    )
    topic, owner = request.pubsub_topic, request.pubsub_project or project
    return got, [
        msgspec.structs.replace(
            machine.in_state(MachineState.LEASED),
            lease=lease.name,
            user=lease.user,
            group=lease.group,
            lease_expiration_ts=end,
            alive_until=lease.alive_until,
            connect=(request.on_lease.swarming_server or "") if request.on_lease else "",
            lessee_topic=f"projects/{owner}/topics/{topic}" if topic else "",
            lessee=lease.name if topic else "",
        )
        for machine in machines
    ]


def ending(machine: StoredMachine, now: UnixSeconds) -> EndReason | None:
    """Why a lease ends now; None while it runs."""
    if machine.released:
        return EndReason.RELEASED
    if machine.lease_expiration_ts is not None and machine.lease_expiration_ts <= now:
        return EndReason.EXPIRED
    if machine.alive_until is not None and machine.alive_until <= now:
        return EndReason.NOT_KEPT_ALIVE
    return None
