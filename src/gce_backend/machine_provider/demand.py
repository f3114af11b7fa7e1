"""What waiting requests ask for: the daemon reads it, and makes machines for it.

A reader names the version that it knows, and gets an answer when that changes or its wait is over.
So a new request is known at once, and costs one call a minute while nobody asks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.entities import StoredLease
from gce_backend.machine_provider.lease_documents import MAX_WAIT_SECONDS
from gce_backend.machine_provider.queue import Allotment
from gce_backend.machine_provider.wire import Dimensions, WireMessage

TOGETHER_SECONDS = 0.05
"""Changes within this time are one answer."""


class DemandQuery(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """demand.get.

    Attributes:
        after: the version that the caller knows; absent: none.
        wait: the longest wait in seconds for another version; absent: none.
    """

    after: Annotated[str, Meta(max_length=100)] = ""
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0


class WaitingMachines(WireMessage, frozen=True, kw_only=True):
    """Machines of one kind that requests wait for.

    Attributes:
        dimensions: the dimensions that they must have.
        count: how many.
    """

    dimensions: Dimensions
    count: int


class DemandDocument(WireMessage, frozen=True, kw_only=True):
    """What requests wait for.

    Attributes:
        version: changes with the content.
        waiting: the kinds of machines, in the order of their dimensions.
    """

    version: str
    waiting: tuple[WaitingMachines, ...]


def document_of(
    requests: Iterable[StoredLease], allotment: Allotment, backend: str | None
) -> DemandDocument:
    """The demand for one backend's machines.

    A request whose group is at its limit waits for its own leases, and one that names a host name
    for that machine: more machines would serve neither.

    Args:
        requests: the waiting requests.
        allotment: what the queue decides about them.
        backend: the backend; None for all.
    """
    counts: Counter[Dimensions] = Counter()
    for lease in requests:
        dimensions = lease.request.dimensions
        hindrance = allotment.waiting.get(lease.name)
        elsewhere = backend is not None and dimensions.backend not in {None, backend}
        limited = hindrance is not None and bool(hindrance.limit)
        if not elsewhere and not limited and dimensions.hostname is None:
            counts[dimensions] += lease.count
    kinds = sorted(counts.items(), key=lambda item: msgspec.json.encode(item[0]))
    waiting = tuple(WaitingMachines(dimensions=kind, count=count) for kind, count in kinds)
    digest = hashlib.sha256(msgspec.json.encode(waiting)).hexdigest()[:16]
    return DemandDocument(version=digest, waiting=waiting)


async def read_demand(
    broker: MachineProvider, backend: str | None, query: DemandQuery
) -> DemandDocument:
    """The demand for a backend's machines, once it differs from what the caller knows.

    Args:
        backend: the backend; None for all.
        query: the version that the caller knows, and how long it waits.
    """
    clock, records = broker.clock, broker.records
    deadline = clock.monotonic() + query.wait
    while True:
        news = records.news
        allotment = broker.leases.allotment(clock.now())
        found = document_of(records.untriaged.values(), allotment, backend)
        left = deadline - clock.monotonic()
        if found.version != query.after or left <= 0 or broker.ending:
            return found
        try:
            async with asyncio.timeout(left):
                await news.wait()
                await asyncio.sleep(TOGETHER_SECONDS)
        except TimeoutError:
            pass
