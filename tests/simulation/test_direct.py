"""The short way gives the same answers, at the same times, as a connection."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import aiohttp
import pytest

from gce_backend.base.errors import TransientError
from gce_backend.clients.exchange import Answer, Deadlines, Exchange, HttpRequest
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from simulation.direct import ShortWay, short
from simulation.loop import Process, SimulatedLoop
from simulation.network import Harmless, MemoryConnector, Request
from simulation.nodes import WorldClock
from simulation.test_loop import run

LOOKUP = "/v1/projects/local-project:lookup"
BODY = b'{"keys": [{"path": [{"kind": "K", "name": "n"}]}]}'


class _Busy(Harmless):
    """Something might happen to every request, and does not."""

    def is_quiet(self, request: Request) -> bool:
        """It is not."""
        del request
        return False


async def _asked(
    loop: SimulatedLoop, verb: str, path: str, body: bytes | None, fault: Fault | None
) -> tuple[Any, ...]:
    """The answer's status and body, or the error; how long it took; whether it was short."""
    process = Process("cloud")
    cloud = embedded_cloud(
        None,
        WorldClock(loop),
        CloudOptions(authenticate=False),
        connector=lambda: MemoryConnector(loop.network, "cloud"),
    )
    with process.entered():
        root = await cloud.start()
    if fault is not None:
        cloud.faults.add(copy.copy(fault))
    connector = MemoryConnector(loop.network, "d1")
    async with aiohttp.ClientSession(connector=connector) as session:
        exchange = Exchange(session, None, None)
        request = HttpRequest("a.b", verb, root + path, Deadlines(total=20), 10**6, body=body)
        with short(ShortWay(loop.network, cloud, process.context())):
            begun = loop.time()
            try:
                answer: Answer | None = await exchange.send(request, None)
            except TransientError as error:
                found: tuple[Any, ...] = (str(error),)
            else:
                assert answer is not None
                found = answer.status, answer.body, answer.headers["Content-Type"]
            took = round(loop.time() - begun, 6)
        is_short = not connector._conns
    await asyncio.sleep(60)  # what was given up is served to its end
    await cloud.close()
    return found, took, is_short


@pytest.mark.parametrize(
    ("verb", "path", "body", "fault"),
    [
        ("POST", LOOKUP, BODY, None),
        (
            "GET",
            "/compute/v1/projects/local-project/zones/nowhere/instances?maxResults=1",
            None,
            None,
        ),
        ("GET", "/nothing/here", None, None),
        ("GET", "/_localcloud/calls", None, None),
        ("POST", LOOKUP, BODY, Fault(method="datastore.*", status=503, reason="UNAVAILABLE")),
        ("POST", LOOKUP, BODY, Fault(method="datastore.*", kind="latency", seconds=3.0)),
        ("POST", LOOKUP, BODY, Fault(method="datastore.*", kind="latency", seconds=30.0)),
    ],
)
def test_both_ways_give_the_same_answer_at_the_same_time(
    verb: str, path: str, body: bytes | None, fault: Fault | None
) -> None:
    """Status, body, kind of body, seconds; a call that is too slow is given up."""
    answers = []
    for busy in (False, True):

        async def work(loop: SimulatedLoop, busy: bool = busy) -> tuple[Any, ...]:
            if busy:
                loop.network.harm = _Busy()
            return await _asked(loop, verb, path, body, fault)

        found, took, is_short = run(work)
        answers.append((found, took))
        slow = fault is not None and fault.seconds > 20
        assert is_short is not busy or slow, "a connection that was given up is not kept"
    assert answers[0] == answers[1]
