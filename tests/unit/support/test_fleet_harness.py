"""A world's short way to its cloud: when it is taken, who sees it, what a client's end means."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp
import msgspec
import pytest

from gce_backend.daemon.clients import Clients
from gce_backend.engine.metrics import Metrics
from support.fleet_harness import PROJECT, World, world
from support.referee import Referee

PLACE = (("K", "n"),)


def connections(clients: Clients) -> int:
    """How many a client keeps."""
    connector = clients.session.connector
    assert isinstance(connector, aiohttp.TCPConnector)
    return len(connector._conns)


def clients_of(w: World) -> Clients:
    """Those of another daemon."""
    return Clients(w.settings, w.clock, random.Random(0), Metrics())


async def test_requests_go_the_short_way_until_a_fault_breaks_connections(
    tmp_path: Path, referee: Referee
) -> None:
    """The referee sees them on both ways, and the cloud counts them alike."""
    async with world(tmp_path, start=False) as w:
        clients = clients_of(w)
        datastore = clients.datastore(PROJECT)
        try:
            await w.reset_calls()
            seen = referee.tally.exchanges
            assert await datastore.lookup([PLACE]) == {}
            assert (connections(clients), referee.tally.exchanges) == (0, seen + 1)
            await w.inject("pubsub.*", kind="drop")
            assert await datastore.lookup([PLACE]) == {}
            assert (connections(clients), referee.tally.exchanges) == (1, seen + 2)
            assert (await w.calls())["datastore.projects.lookup"] == 2
        finally:
            await clients.close()


@pytest.mark.parametrize("way", ["short", "long"])
async def test_a_request_that_the_cloud_has_not_read_ends_with_its_client(
    tmp_path: Path, way: str
) -> None:
    """As on a connection: what has been read takes effect, what waits to be read does not."""
    async with world(tmp_path, start=False) as w:
        clients = clients_of(w)
        topics = f"/v1/projects/{PROJECT}/topics"
        try:
            for when, made in (("before", False), ("after", True)):
                await w.inject(
                    "pubsub.projects.topics.create", kind="latency", seconds=5, when=when
                )
                name = f"projects/{PROJECT}/topics/{when}"
                asked = asyncio.create_task(clients.pubsub(PROJECT).create_topic(name))
                await asyncio.sleep(1)
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                await asyncio.sleep(10)
                listed = await w.call("GET", topics)
                assert (name in {topic["name"] for topic in listed["topics"]}) is made
                await w.clear_faults()
        finally:
            await clients.close()


async def test_the_state_that_a_world_reads_is_what_the_cloud_answers(tmp_path: Path) -> None:
    """All services, or those that are named."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        url = f"{w.cloud.base_url}/_localcloud/state"
        async with w.session.get(url) as response:
            everything = msgspec.json.decode(await response.read())
        answered = everything["compute"]["projects"][PROJECT]["instances"]
        assert answered.keys() == (await w.vms()).keys()
        assert (await w.cloud_state()).keys() == everything.keys()
        assert (await w.cloud_state("compute")).keys() == {"compute"}
