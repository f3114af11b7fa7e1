"""machine_provider.agent_watch: who is silent, and for how long."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from gce_backend.machine_provider.agent_watch import AgentWatch
from gce_backend.machine_provider.entities import (
    AGENT_ATTRIBUTE,
    MachineAgent,
    MachineState,
    StoredMachine,
)
from gce_backend.machine_provider.wire import Dimensions, KeyValue, Policies
from support.simulation import VirtualClock


def machine(name: str, *, agent: bool = True) -> StoredMachine:
    """A machine, with an agent that has reported or without one."""
    return StoredMachine(
        backend="GCE",
        hostname=name,
        addition_id=name,
        dimensions=Dimensions(hostname=name),
        policies=Policies(),
        state=MachineState.AVAILABLE,
        agent=MachineAgent(version="1") if agent else None,
    )


async def test_an_agent_is_silent_after_its_time_and_not_before() -> None:
    """From its last report, or from when this process first saw the machine."""
    clock = VirtualClock()
    watch = AgentWatch(clock, silent_seconds=60)
    one, two = machine("vm-1"), machine("vm-2")
    watch.see(one)
    await asyncio.sleep(30)
    watch.see(two)
    watch.see(one)  # another change of the machine is no report
    assert watch.next_silence() == 30
    await asyncio.sleep(29)
    assert watch.hush() == []
    await asyncio.sleep(1)
    assert watch.hush() == [one.path]
    assert (watch.voice(one), watch.voice(two)) == ("silent", "reports")
    assert not watch.allows(one)
    assert watch.hear(one)
    assert not watch.hear(one)
    assert watch.allows(one)
    await asyncio.sleep(30)
    assert watch.hush() == [two.path]
    assert watch.reporting == 1


def test_a_machine_whose_backend_wants_an_agent_waits_for_it_alone() -> None:
    """By an attribute of its policies; only `true` means it."""
    watch, one = AgentWatch(VirtualClock()), machine("vm-1", agent=False)

    def wanting(value: str) -> StoredMachine:
        pair = KeyValue(key=AGENT_ATTRIBUTE, value=value)
        return replace(one, policies=Policies(backend_attributes=(pair,)))

    told = [(watch.awaits(it), watch.allows(it)) for it in (one, wanting("true"), wanting("no"))]
    assert told == [(False, True), (True, False), (False, True)]
    heard = replace(wanting("true"), agent=MachineAgent(version="1"))
    assert (watch.awaits(heard), watch.allows(heard)) == (False, True)


async def test_a_machine_that_left_or_is_added_anew_is_not_watched() -> None:
    """Its name may come again, with an agent that has said nothing yet."""
    watch = AgentWatch(VirtualClock(), required=True)
    one = machine("vm-1")
    watch.see(one)
    watch.see(replace(one, state=MachineState.DELETED))
    assert (watch.reporting, watch.next_silence()) == (0, None)
    watch.see(one)
    watch.see(machine("vm-1", agent=False))
    assert watch.reporting == 0
    assert not watch.allows(machine("vm-1", agent=False))
    assert AgentWatch(VirtualClock()).allows(machine("vm-1", agent=False))
