"""Calls that take effect long after their caller has given up."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from gce_backend.localcloud.faults import Fault
from localcloud.compute_world import GROUPS, TEMPLATES, World, group_body, template_body, world

GROUP = f"{GROUPS}/workers"


def late(at: World, method: str, seconds: float = 600.0, held: float = 0.0) -> Fault:
    """Lets the next call of a method be executed late."""
    fault = Fault(method=f"compute.{method}", kind="late", seconds=seconds, held=held)
    at.cloud.faults.add(fault)
    return fault


async def test_late_growth_shrinks_what_has_grown_meanwhile() -> None:
    """The caller learns nothing; ten minutes later the old size is taken for the new one."""
    async with world() as at:
        await at.template()
        await at.group(size=2)
        fault = late(at, "instanceGroupManagers.resize")
        with pytest.raises(aiohttp.ClientError):
            await at.post(f"{GROUP}/resize", size="3")
        await at.post(f"{GROUP}/resize", size="5")
        await at.later(595)
        assert (await at.get(GROUP))["targetSize"] == 5
        assert (fault.fired, fault.executed) == (1, 0)
        await at.later(10)
        assert (await at.get(GROUP))["targetSize"] == 3
        assert (fault.fired, fault.executed) == (1, 1)


async def test_late_deletion_of_a_group_meets_the_one_that_was_made_since() -> None:
    """It goes by name: the group that is there is deleted."""
    async with world() as at:
        await at.template()
        await at.group()
        fault = late(at, "instanceGroupManagers.delete", 70.0)
        # The client repeats a DELETE whose connection was cut: this is the answer to the second.
        await at.done((await at.call("DELETE", GROUP)).body)
        assert fault.fired == 1
        await at.done(await at.post(GROUPS, group_body()))
        await at.later(80)
        assert (await at.call("GET", GROUP)).reason == "notFound"
        assert fault.executed == 1


async def test_late_call_whose_request_id_was_repeated_changes_nothing() -> None:
    """As at Google: the operation of the one that came first is its answer."""
    async with world() as at:
        await at.template()
        await at.group(size=1)
        one = "7a1fdd4c-7b5c-4a0e-9b9e-0d3f9f3b2a11"
        fault = late(at, "instanceGroupManagers.resize", 60.0)
        with pytest.raises(aiohttp.ClientError):
            await at.post(f"{GROUP}/resize", size="3", requestId=one)
        await at.post(f"{GROUP}/resize", size="3", requestId=one)
        await at.post(f"{GROUP}/resize", size="6")
        await at.later(90)
        assert (await at.get(GROUP))["targetSize"] == 6
        assert fault.executed == 1


async def test_caller_that_waits_meets_its_own_time_out() -> None:
    """Held for longer than it waits; a body sent with the call is not lost."""
    async with world() as at:
        fault = late(at, "instanceTemplates.insert", 45.0, held=300.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await at.post(TEMPLATES, template_body())
        assert (await at.call("GET", f"{TEMPLATES}/small")).reason == "notFound"
        await at.later(20)
        assert (await at.get(f"{TEMPLATES}/small"))["name"] == "small"
        assert fault.executed == 1
