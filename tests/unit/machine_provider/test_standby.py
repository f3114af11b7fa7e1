"""machine_provider.standby: one reading for all who ask, and none that outlives the standing by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from gce_backend.base.errors import TransientError
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.standby import READ_SECONDS, Standby
from support.simulation import VirtualClock


class Store:
    """What is read; a broker and its records in one."""

    def __init__(self, during: Callable[[], None]) -> None:
        self.records = self
        self.during = during

    def end_waits(self) -> None:
        """Nothing waits."""

    async def load(self) -> None:
        """Takes a second."""
        await asyncio.sleep(1)
        self.during()


async def test_many_who_ask_cost_one_reading() -> None:
    """Until it is too old."""
    made: list[Store] = []

    def make() -> MachineProvider:
        made.append(Store(lambda: None))
        return cast("MachineProvider", made[-1])

    standby = Standby(make, VirtualClock())
    found = await asyncio.gather(*(standby.read() for _ in range(5)))
    assert {one.age for one in found} == {1.0}
    await asyncio.sleep(READ_SECONDS - 2)
    assert (await standby.read()).age == READ_SECONDS - 1
    assert len(made) == 1
    await asyncio.sleep(1)
    assert (await standby.read()).age == 1.0
    assert len(made) == 2


async def test_a_takeover_during_a_reading_keeps_nothing() -> None:
    """The reading answers who asked, and takes no memory beside the picture of who works."""
    standby = Standby(lambda: cast("MachineProvider", Store(standby.forget)), VirtualClock())
    assert (await standby.read()).age == 1.0
    assert standby._broker is None


async def test_a_store_that_fails_at_first_is_an_error() -> None:
    """There is nothing older to tell."""

    def fail() -> None:
        raise TransientError("datastore", "unavailable", status=503)

    standby = Standby(lambda: cast("MachineProvider", Store(fail)), VirtualClock())
    with pytest.raises(TransientError):
        await standby.read()
