"""What backends make if it is asked for: a request for it waits, and is not unsatisfiable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from gce_backend.base.dates import UnixSeconds
from gce_backend.machine_provider.entities import OfferedKind, StoredOffer
from gce_backend.machine_provider.queue import kind_of
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.wire import Dimensions, WireMessage

MAX_KINDS = 500
"""Kinds of machines in one offer."""
MAX_BYTES = 900_000
"""Bytes of one offer: an entity holds 1 MiB."""
VALID_SECONDS = 3600
"""How long an offer holds: a daemon repeats it more often while it runs."""


class Offer(WireMessage, frozen=True, kw_only=True):
    """backends.offer: which machines a backend makes if they are asked for.

    Attributes:
        source: which of the backend's daemons says so; what it said before no longer holds.
        kinds: the machines, those that are in the catalog included.
    """

    source: Annotated[str, Meta(min_length=1, max_length=100)]
    kinds: Annotated[tuple[OfferedKind, ...], Meta(max_length=MAX_KINDS)]


async def take(records: Records, backend: str, offer: Offer, now: UnixSeconds) -> bool:
    """Stores an offer; returns False when it is too large to be stored.

    Args:
        records: the stored state.
        backend: whose offer it is.
        offer: the offer.
        now: Unix seconds.

    Raises:
        RemoteError: Datastore fails.
    """
    counts = Counter[Dimensions]()
    for one in offer.kinds:
        counts[msgspec.structs.replace(kind_of(one.dimensions), backend=backend)] += one.count
    kinds = tuple(OfferedKind(dimensions=kind, count=count) for kind, count in counts.items())
    stored = StoredOffer(backend=backend, source=offer.source, kinds=kinds, said=int(now))
    if len(msgspec.json.encode(stored)) > MAX_BYTES:
        return False
    await records.change([stored.path], lambda _: {stored.path: stored})
    return True


def offered(offers: Iterable[StoredOffer], now: UnixSeconds) -> Mapping[Dimensions, int]:
    """How many machines of each kind the backends make at most, by what they said lately."""
    counts = Counter[Dimensions]()
    for offer in offers:
        if offer.said + VALID_SECONDS > now:
            for kind in offer.kinds:
                counts[kind.dimensions] += kind.count
    return +counts
