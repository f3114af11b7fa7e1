"""What a standby process knows: the stored state, read when somebody asks and it is too old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.errors import RemoteError
from gce_backend.machine_provider.broker import MachineProvider

READ_SECONDS = 10.0
"""How old an answer may be before the stored state is read again."""
MOST_SECONDS = 300.0
"""How old it may be while the stored state cannot be read."""

log = structlog.stdlib.get_logger()


class Reading(NamedTuple):
    """The machines and leases as they were stored.

    Attributes:
        broker: answers reads.
        age: seconds since it was read.
    """

    broker: MachineProvider
    age: float


class Standby:
    """Reads the stored state for a process that does not work on it.

    Args:
        make: makes what answers reads, without any state.
    """

    def __init__(self, make: Callable[[], MachineProvider], clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._broker: MachineProvider | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._terms = 0

    async def read(self) -> Reading:
        """The stored state, at most `READ_SECONDS` old, or older while it cannot be read.

        Raises:
            RemoteError: Datastore fails.
        """
        async with self._reading:
            if self._age() >= READ_SECONDS:
                begun, broker, terms = self._clock.monotonic(), self._make(), self._terms
                broker.end_waits()  # nothing tells a standby process of news
                try:
                    await broker.records.load()
                    if terms != self._terms:  # this process took over meanwhile
                        return Reading(broker, self._clock.monotonic() - begun)
                    self._broker, self._read_at = broker, begun
                except RemoteError as error:
                    if self._age() >= MOST_SECONDS:
                        raise
                    log.warning("machine_provider.not_loaded", error=str(error))
            assert self._broker is not None  # noqa: S101 -- its age is infinite until then
            return Reading(self._broker, self._age())

    def forget(self) -> None:
        """Frees the memory: this process works now."""
        self._broker, self._read_at = None, float("-inf")
        self._terms += 1

    def _age(self) -> float:
        return self._clock.monotonic() - self._read_at
