"""A running embedded cloud (Datastore, Pub/Sub, metadata server) and an HTTP client for it.

Use it for a test of the embedded cloud alone, without a daemon.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.datastore import DatastoreService
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.pubsub import PubSubService
from gce_backend.localcloud.tables import Tables
from support.simulation import VirtualClock
from support.watch import BY_HAND

TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
FLAVOR = {"Metadata-Flavor": "Google"}

D = TypeVar("D", bound=Datastore)


class Running:
    """A running cloud.

    Attributes:
        authorization: the headers of an authenticated call.
    """

    def __init__(self, cloud: Cloud, session: aiohttp.ClientSession) -> None:
        self.cloud = cloud
        self.session = session
        self.url = cloud.base_url
        self.metadata, self.datastore, self.pubsub = services(cloud)
        self.authorization: dict[str, str] = {}

    async def authenticate(self) -> None:
        """Gets a token from the metadata server."""
        async with self.session.get(self.url + TOKEN_PATH, headers=FLAVOR) as response:
            token = (await response.json())["access_token"]
        self.authorization = {"Authorization": f"Bearer {token}"}

    async def call(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """An authenticated call: status and JSON."""
        data = None if body is None else io.BytesIO(msgspec.json.encode(body))
        headers = self.authorization | BY_HAND
        request = self.session.request(verb, self.url + path, data=data, headers=headers)
        async with request as response:
            return response.status, await response.json()

    async def ok(self, verb: str, path: str, body: Any = None) -> Any:
        """The JSON of a call that succeeds."""
        status, answer = await self.call(verb, path, body)
        assert status == 200, answer
        return answer

    async def refused(self, verb: str, path: str, body: Any = None) -> tuple[int, str]:
        """The status and the status word of a call that fails."""
        status, answer = await self.call(verb, path, body)
        assert status >= 400, answer
        assert answer["error"]["code"] == status
        return status, answer["error"]["status"]


def services(cloud: Cloud) -> tuple[MetadataService, DatastoreService, PubSubService]:
    """The three services of a cloud of `running`."""
    metadata, datastore, pubsub = cloud._services
    assert isinstance(metadata, MetadataService)
    assert isinstance(datastore, DatastoreService)
    assert isinstance(pubsub, PubSubService)
    return metadata, datastore, pubsub


@contextlib.asynccontextmanager
async def running(
    state: Path | None = None, options: CloudOptions | None = None
) -> AsyncIterator[Running]:
    """Runs a cloud while the block lasts."""
    cloud = Cloud(Tables(state), VirtualClock(), options or CloudOptions())
    cloud.add(MetadataService(cloud), DatastoreService(cloud), PubSubService(cloud))
    await cloud.start()
    try:
        async with aiohttp.ClientSession() as session:
            run = Running(cloud, session)
            await run.authenticate()
            yield run
    finally:
        await cloud.close()


def datastore_of(run: Running, kind: type[D]) -> D:
    """A client of a running cloud's Datastore."""
    tokens = TokenSource(run.session, metadata_root=run.url, scopes=["s"], metadata_only=True)
    return kind(
        session=run.session,
        tokens=tokens,
        project="p",
        api_root=run.url + "/v1",
        clock=run.cloud.clock,
        rng=random.Random(1),  # spreads retries; no secret
    )
