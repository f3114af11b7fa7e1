"""What foreign clients have asked, asked again: `make foreign-clients` records it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from yarl import URL

from foreign_clients.recording import MARK, Exchange, Recording, at_the_end_of
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import CloudOptions
from support.referee import Referee
from support.simulation import VirtualClock
from support.watch import BY_HAND

RECORDED = sorted((Path(__file__).parents[1] / "foreign_clients" / "recorded").glob("*.jsonl"))
BEYOND_DISCOVERY = {
    "airflow": [r"target_size: no such field", "integerValue: 1 is no string"],
    "ansible": [
        "kind: only Google writes this field",
        "diskSizeGb: 20 is no string",
        "is no boolean",
        "labels: None is no object",
        "updateMask: no such parameter",
    ],
    "node-datastore": ["is none of"],
}
"""What clients send beyond Google's discovery documents, and Google takes: numbers for enums and
for 64-bit integers, original names of fields, `True`, masks in queries."""


class Replay:
    """A cloud that is asked what a client has asked.

    Args:
        url: the cloud's address.
        session: what it is asked with.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._given: dict[str, str] = {}

    async def ask(self, exchange: Exchange) -> tuple[int, list[str]]:
        """The status and the members of the answer to a recorded request."""
        path, body = exchange.path, exchange.body
        for mark, text in self._given.items():
            path = path.replace(MARK.format(mark), quote(text, safe=""))
            body = body.replace(MARK.format(mark), text)
        headers = {"Content-Type": exchange.kind} if exchange.kind else {}
        request = self._session.request(
            exchange.verb,
            URL(self._url + path, encoded=True),
            data=body.encode() or None,
            headers=headers,
        )
        async with request as response:
            raw = await response.read()
            answer = msgspec.json.decode(raw) if raw else None
            if response.status == exchange.status:
                for mark, way in exchange.gives.items():
                    self._given[mark] = at_the_end_of(way, answer)
            return response.status, sorted(answer) if isinstance(answer, dict) else []


@contextlib.asynccontextmanager
async def replay(recording: Recording) -> AsyncIterator[Replay]:
    """A cloud at the time at which a recording began."""
    clock = VirtualClock(recording.epoch)
    cloud = embedded_cloud(None, clock, CloudOptions(authenticate=False).instant())
    url = await cloud.start()
    try:
        async with aiohttp.ClientSession(headers=BY_HAND) as session:
            yield Replay(url, session)
    finally:
        await cloud.close()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_line_18_a_recorded_client_is_answered_as_when_it_was_recorded(
    path: Path, referee: Referee
) -> None:
    """Each request with the same status and the same members, at the same distance in time."""
    for pattern in BEYOND_DISCOVERY.get(path.stem, ()):
        referee.expect(pattern)
    recording = Recording.read(path)
    differing = []
    now = 0.0
    async with replay(recording) as cloud:
        for number, exchange in enumerate(recording.exchanges, 2):
            await asyncio.sleep(max(0.0, exchange.at - now))
            now = exchange.at
            found = await cloud.ask(exchange)
            if found != (exchange.status, exchange.members):
                differing.append((number, exchange.verb, exchange.path, found))
    assert differing == []


def test_there_is_a_recording_of_each_client() -> None:
    """None of them is empty."""
    clients = {path.stem: Recording.read(path) for path in RECORDED}
    assert {"airflow", "ansible", "node-compute", "node-datastore", "node-pubsub"} == clients.keys()
    assert all(len(recording.exchanges) > 10 for recording in clients.values())
