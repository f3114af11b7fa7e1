"""Calls of the embedded cloud's services to each other."""

from __future__ import annotations

import asyncio

import pytest

from gce_backend.base.errors import MalformedResponseError, TransientError
from gce_backend.clients.exchange import Answer, Deadlines, Exchange, HttpRequest
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.faults import Fault
from gce_backend.localcloud.inner import InnerSession
from gce_backend.localcloud.pubsub import PubSubService
from gce_backend.localcloud.tables import Tables
from support.simulation import VirtualClock

GET = "pubsub.projects.topics.get"
CREATE = "pubsub.projects.topics.create"


async def test_inner_call_meets_the_rules_and_faults_of_every_call() -> None:
    """Routes, tokens, bodies, faults and deadlines count; the call is not counted as one."""
    cloud = Cloud(Tables(None), VirtualClock(1_700_000_000.0), CloudOptions())
    cloud.authenticate_with(lambda token: token == "good")
    cloud.add(PubSubService(cloud))
    await cloud.start()
    exchange = Exchange(InnerSession(cloud), None, None)

    async def send(
        verb: str, path: str, body: bytes | None = None, *, known: bool = True
    ) -> Answer:
        url = f"{cloud.base_url}/v1/projects/p{path}"
        return await exchange.send(
            HttpRequest("a.call", verb, url, Deadlines(total=1.0), 2**20, {}, body),
            "good" if known else "bad",
        )

    try:
        assert (await send("PUT", "/topics/one%2Btwo", b"{}")).status == 200
        made = await send("GET", "/topics/one%2Btwo")
        assert b'"name":"projects/p/topics/one+two"' in made.body
        assert (await send("GET", "/topics?pageSize=-1")).status == 400
        assert (await send("PUT", "/topics/bad", b"{")).status == 400
        assert (await send("GET", "/topics/one%2Btwo", known=False)).status == 401
        assert (await send("GET", "/nothing")).status == 501
        assert not cloud.calls[GET] + cloud.calls[CREATE]

        cloud.faults.add(Fault(method=GET, kind="drop"))  # one from outside
        assert (await send("GET", "/topics/one%2Btwo")).status == 200
        for fault, problem in (
            (Fault(method=GET, kind="drop", inner=True), "broke"),
            (Fault(method=GET, kind="latency", seconds=2.0, inner=True), "too slow"),
        ):
            cloud.faults.add(fault)
            with pytest.raises(TransientError, match=problem):
                await send("GET", "/topics/one%2Btwo")
            assert fault.fired == 1
        cloud.faults.add(Fault(method=CREATE, kind="drop", when="after", inner=True))
        with pytest.raises((TransientError, MalformedResponseError)):
            await send("PUT", "/topics/lost", b"{}")
        assert (await send("GET", "/topics/lost")).status == 200  # the call had taken effect
    finally:
        await cloud.close()


async def test_many_inner_calls_at_once_leave_turns_of_the_loop_to_others() -> None:
    """A burst of them does not hold the loop: others get a turn for each call."""
    cloud = Cloud(Tables(None), VirtualClock(1_700_000_000.0), CloudOptions())
    cloud.authenticate_with(lambda _: True)
    cloud.add(PubSubService(cloud))
    await cloud.start()
    exchange, turns = Exchange(InnerSession(cloud), None, None), 0
    url, calls = f"{cloud.base_url}/v1/projects/p/topics", 20
    ask = HttpRequest("a.call", "GET", url, Deadlines(total=60.0), 2**20)

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    try:
        answers = await asyncio.gather(*(exchange.send(ask, "t") for _ in range(calls)))
        assert [answer.status for answer in answers] == [200] * calls
        assert turns >= calls
    finally:
        task.cancel()
        await cloud.close()
