"""The Machine Provider as a service of the embedded cloud, whose Datastore and Pub/Sub it uses."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.exchange import Exchange
from gce_backend.clients.pubsub import PubSub
from gce_backend.localcloud.cloud import INNER_HEADERS, Call, Cloud, CloudControl, Route, Service
from gce_backend.localcloud.inner import InnerSession
from gce_backend.localcloud.metadata import OAUTH_CLIENT
from gce_backend.localcloud.statuses import ServiceError
from gce_backend.machine_provider import api, lease_api, openapi
from gce_backend.machine_provider.access.parsing import parse_access
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.entities import KINDS
from gce_backend.machine_provider.metrics import ProviderMetrics
from gce_backend.machine_provider.provider import READY_SECONDS, Provider
from gce_backend.machine_provider.server import REASONS, path_of

NAMESPACE = "machine-provider"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
ACCESS = """\
client_ids: "{client}"
issuers {{ url: "{url}" audiences: "{url}" audiences: "machine-provider" email_domains: "*" }}
groups {{
  name: "own"
  members: "{account}"
  roles: [VIEWER, USER, BACKEND, ADMINISTRATOR]
  backend: "GCE"
  without_end: true
  max_held: 10
  transfer_to: "others"
}}
groups {{
  name: "others"
  members: "*"
  roles: [VIEWER, USER]
  without_end: true
  max_held: 10
  transfer_to: "own"
}}
"""
"""Who may do what at the embedded Machine Provider."""


class _Kept(msgspec.Struct):
    """One record of a backup: its Datastore kind, and the record itself."""

    kind: str
    record: msgspec.Raw


class MachineProviderService(Service):
    """The Machine Provider.

    Args:
        connector: makes the connector of its HTTP client; None: its calls to Datastore and Pub/Sub
            take no connection.

    Attributes:
        provider: the Machine Provider; None until `run` has made it.
    """

    name = "machine_provider"

    def __init__(
        self,
        cloud: Cloud,
        *,
        connector: Callable[[], aiohttp.BaseConnector] | None = None,
    ) -> None:
        self._cloud = cloud
        self._connector = connector
        self._provider: Provider | None = None
        self._made = asyncio.Event()
        path = "/_localcloud/machine-provider/backup"
        cloud.add_controls(
            CloudControl("GET", path, self._get_backup), CloudControl("PUT", path, self._put_backup)
        )

    def routes(self) -> Iterable[Route]:
        """`POST /_ah/api/{api}/v1/{method}` for each method."""
        for name in api.METHODS:
            # Like the original, it answers 403 to a request without a token.
            yield Route(f"{self.name}.{name}", "POST", path_of(name), self._handler(name), False)
        for verb, path, name in lease_api.ROUTES:
            yield Route(f"{self.name}.{name}", verb, path, self._handler(name), False)
        yield Route(f"{self.name}.openapi", "GET", openapi.PATH, _openapi, False)

    def state(self) -> dict[str, Any]:
        """How many machines are in which state, which ones, and how many requests wait."""
        if self.provider is None or self.provider.working is None:
            return {}
        records = self.provider.working.records
        machines = {str(state): len(found) for state, found in records.machines.items()}
        catalog = {
            machine.hostname: str(state)
            for state, found in records.machines.items()
            for machine in found.values()
        }
        return {
            "machines": machines,
            "catalog": catalog,
            "waiting_requests": len(records.untriaged),
        }

    def unready(self) -> Mapping[str, str]:
        """The problems that keep it from answering."""
        return {"start": "it is starting"} if self.provider is None else self.provider.unready()

    async def run(self) -> None:
        """Runs the Machine Provider against this cloud's own endpoints."""
        root, project = self._cloud.base_url, self._cloud.options.project
        connector = self._connector() if self._connector is not None else None
        async with aiohttp.ClientSession(headers=INNER_HEADERS, connector=connector) as session:
            calls = session if self._connector is not None else InnerSession(self._cloud)
            # The credentials in the environment are not for this cloud.
            tokens = TokenSource(session, metadata_root=root, scopes=SCOPES, metadata_only=True)
            datastore = Datastore(
                session=calls,
                tokens=tokens,
                project=project,
                api_root=f"{root}/v1",
                namespace=NAMESPACE,
                clock=self._cloud.clock,
            )
            pubsub = PubSub(session=calls, tokens=tokens, api_root=f"{root}/v1", project=project)
            account = self._cloud.own_account
            access = ACCESS.format(url=root, account=account, client=OAUTH_CLIENT)
            policy = parse_access(access)
            self.provider = Provider(
                datastore=datastore,
                pubsub=pubsub,
                exchange=Exchange(session, None, None),
                tokeninfo=f"{root}/tokeninfo",
                policy=lambda: policy,
                clock=self._cloud.clock,
                new_id=lambda: uuid.uuid4().hex,
                name=self.name,
                pause_seconds=self._cloud.options.dispatch_seconds,
                takeover_seconds=0.0,  # no other process has this cloud's state
                metrics=ProviderMetrics(),
            )
            self._made.set()
            try:
                await self.provider.run()
            finally:
                await self.provider.close()
                await tokens.close()

    def _handler(self, name: str) -> Callable[[Call], Awaitable[Any]]:
        async def handler(call: Call) -> object:
            authorization = call.request.headers.get("Authorization")
            query = call.query if call.request.method == "GET" else {}
            provider = await self._made_provider()
            try:
                answer = await provider.call(
                    name,
                    authorization,
                    call.request.remote or "",
                    {**call.body, **query, **call.path},
                )
            except api.Refusal as refusal:
                reason = REASONS.get(refusal.status, "badRequest")
                raise ServiceError(refusal.status, reason, refusal.message) from refusal
            return web.Response(status=204) if answer.value is None else answer.value

        return handler

    async def _get_backup(self, _: web.Request) -> web.Response:
        records = await (await self._started()).records.backup()
        kept = [
            _Kept(record.path[0][0], msgspec.Raw(msgspec.json.encode(record))) for record in records
        ]
        return web.Response(body=msgspec.json.encode(kept), content_type="application/json")

    async def _put_backup(self, request: web.Request) -> web.Response:
        try:
            kept = msgspec.json.decode(await request.read(), type=list[_Kept])
            records = [msgspec.json.decode(one.record, type=KINDS[one.kind]) for one in kept]
        except (msgspec.DecodeError, KeyError) as error:
            return web.json_response({"error": f"not a backup: {error}"}, status=400)
        await (await self._started()).records.restore(records)
        return web.json_response({})

    async def _made_provider(self) -> Provider:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                await self._made.wait()
        if self.provider is None:
            raise ServiceError(503, "backendError", "The Machine Provider is still starting.")
        return self.provider

    async def _started(self) -> MachineProvider:
        try:
            return await (await self._made_provider()).started()
        except api.Refusal as refusal:
            raise ServiceError(503, "backendError", refusal.message) from refusal


async def _openapi(_: Call) -> Mapping[str, Any]:
    """The description of the API."""
    return openapi.document()
