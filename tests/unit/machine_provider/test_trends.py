"""machine_provider.trends: a sample a minute, of all machines, and of large kinds and groups."""

from __future__ import annotations

from typing import cast

import pytest
from msgspec.structs import replace

from gce_backend.clients.datastore.client import Datastore
from gce_backend.machine_provider import trends as trends_module
from gce_backend.machine_provider.agent_watch import AgentWatch
from gce_backend.machine_provider.entities import MachineState
from gce_backend.machine_provider.queue import kind_of
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.trends import ALL, EVERY_SECONDS, Trend, Trends
from support.simulation import VirtualClock
from unit.machine_provider.test_waiting import leased, request


class Clock(VirtualClock):
    """A clock that a test turns."""

    moment = 0.0

    def now(self) -> float:
        """What `moment` says."""
        return self.moment

    monotonic = now


async def test_a_sample_counts_machines_and_waits_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of more kinds than are kept, those with the most machines have a line of their own."""
    monkeypatch.setattr(trends_module, "MAX_ROWS", 2)
    clock = Clock()
    store = cast("Datastore", None)
    records, trends = Records(store, AgentWatch(clock)), Trends(clock, store)
    trends.sample(records)
    for number in range(7):  # three kinds: 3, 2 and 2 machines
        records._picture(leased(number).path, leased(number))
    free = replace(leased(9).in_state(MachineState.AVAILABLE))
    records._picture(free.path, free)
    waits = request("waits", num_cpus=1)
    records._picture(waits.path, waits)
    trends.waited(7.0)
    clock.moment = EVERY_SECONDS - 1
    trends.sample(records)
    clock.moment = EVERY_SECONDS
    assert trends.due_in() == 0
    for _ in range(2):
        trends.sample(records)
    records._picture(waits.path, None)
    clock.moment += EVERY_SECONDS
    trends.sample(records)
    assert list(trends.machines.times) == [0, 60, 120]
    assert trends.machines.of(ALL) == [(0, 0, 0), (7, 1, 0), (7, 1, 0)]
    assert trends.machines.of(Trend(kind_of(free.dimensions)))[1] == (3, 1, 0)
    assert trends.machines.of(Trend(group="users"))[1:] == [(7, 0, 0)] * 2
    assert len(trends.machines.rows) == 1 + 2 + 1
    assert trends.waits.of(ALL) == [(0,), (60,), (0,)]
