"""Machine Provider processes on an embedded Datastore and Pub/Sub, in simulated time.

Use it for a test of the service itself: turns, access, HTTP, queue.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gce_backend.base.clock import Clock
from gce_backend.daemon.local import local_settings
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.datastore import DatastoreService
from gce_backend.localcloud.luci_config import LuciConfigService
from gce_backend.localcloud.metadata import OAUTH_CLIENT, MetadataService
from gce_backend.localcloud.pubsub import PubSubService
from gce_backend.localcloud.tables import Tables
from gce_backend.machine_provider.service import ProviderService
from gce_backend.settings.settings import ProviderSettings, Settings
from gce_backend.web.pages.provider_site import ProviderSite
from support.simulation import VirtualClock

PROJECT = "broker-1"
DAEMON = f"gce-backend@{PROJECT}.iam.gserviceaccount.com"
ACCESS = f"""
client_ids: "{OAUTH_CLIENT}"
groups {{ name: "daemon" members: "{DAEMON}" roles: BACKEND backend: "GCE" }}
groups {{ name: "admins" members: "root@example.com" roles: [ADMINISTRATOR, VIEWER] }}
groups {{ name: "users" members: "*@example.com" roles: USER }}
"""


class Place:
    """A cloud, and the processes of a Machine Provider on it.

    Attributes:
        clock: the cloud's.
        process_clock: the clock of processes that start.
        access: its access.cfg.
        age: the header Age of the last answer; None when it is as of now.
    """

    def __init__(
        self, cloud: Cloud, clock: VirtualClock, session: aiohttp.ClientSession, access: Path
    ) -> None:
        self.cloud = cloud
        self.clock = clock
        self.process_clock: Clock = clock
        self.access = access
        self.age: int | None = None
        self._session = session
        self._running: list[ProviderService] = []
        self._tokens: dict[str, tuple[str, float]] = {}

    async def start(self, **provider: Any) -> ProviderService:
        """Starts one more process."""
        local = local_settings(Settings(), self.cloud.base_url, PROJECT, self.access.parent)
        wanted = ProviderSettings(**{"port": 0, "access": self.access, **provider})
        settings = msgspec.structs.replace(local, provider=wanted)
        service = ProviderService(
            settings,
            clock=self.process_clock,
            rng=random.Random(1),
            pages=lambda service: ProviderSite(
                lambda: service.provider,
                service.unready,
                self.clock,
                access_problem=lambda: service.access_problem,
            ).routes(),
        )
        await service.start()
        self._running.append(service)
        return service

    async def kill(self, service: ProviderService) -> None:
        """Ends a process without a word to the others."""
        self._running.remove(service)
        assert service.provider is not None
        service.provider.leadership.term = None  # so that it cannot release its turn
        await service.abort()

    async def close(self) -> None:
        """Stops what still runs."""
        for service in self._running:
            await service.abort()

    async def token(self, account: str) -> str:
        """An access token of an account."""
        token, until = self._tokens.get(account, ("", 0.0))
        if self.clock.now() < until:
            return token
        url = f"{self.cloud.base_url}/_localcloud/tokens/{account}"
        async with self._session.post(url) as response:
            answer = await response.json()
        until = self.clock.now() + answer["expires_in"] - 60
        self._tokens[account] = answer["access_token"], until
        return str(answer["access_token"])

    async def send(
        self, service: ProviderService, verb: str, path: str, account: str = "", body: Any = None
    ) -> tuple[int, Any]:
        """One request: its status, and its JSON or text."""
        headers = {"Authorization": f"Bearer {await self.token(account)}"} if account else {}
        request = self._session.request(verb, service.url + path, json=body, headers=headers)
        async with request as response:
            raw = await response.read()
            self.age = int(response.headers["Age"]) if "Age" in response.headers else None
            is_json = response.content_type == "application/json"
            return response.status, msgspec.json.decode(raw) if is_json else raw.decode()

    async def call(
        self, service: ProviderService, method: str, body: Any, account: str = DAEMON
    ) -> tuple[int, Any]:
        """A call of `api.method`."""
        api, _, name = method.partition(".")
        return await self.send(service, "POST", f"/_ah/api/{api}/v1/{name}", account, body)

    async def ok(
        self, service: ProviderService, method: str, body: Any, account: str = DAEMON
    ) -> Any:
        """A call that must succeed."""
        status, answer = await self.call(service, method, body, account)
        assert status == 200, answer
        return answer


@contextlib.asynccontextmanager
async def place(tmp_path: Path, access: str = ACCESS) -> AsyncIterator[Place]:
    """A cloud without a Machine Provider of its own, and an access.cfg."""
    clock = VirtualClock()
    options = CloudOptions(project=PROJECT, config_dir=tmp_path).instant()
    cloud = Cloud(Tables(None), clock, options)
    cloud.add(
        MetadataService(cloud),
        DatastoreService(cloud),
        PubSubService(cloud),
        LuciConfigService(cloud),
    )
    await cloud.start()
    file = tmp_path / "access.cfg"
    file.write_text(access, encoding="utf-8")
    try:
        async with aiohttp.ClientSession() as session:
            made = Place(cloud, clock, session, file)
            try:
                yield made
            finally:
                await made.close()
    finally:
        await cloud.close()
