"""The Machine Provider as a service of the embedded cloud, whose Datastore and Pub/Sub it uses."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from gce_backend.base.errors import BackendError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.exchange import Exchange
from gce_backend.clients.pubsub import PubSub
from gce_backend.localcloud.cloud import (
    INNER_HEADERS,
    Call,
    Cloud,
    CloudControl,
    Route,
    ServiceError,
)
from gce_backend.localcloud.metadata import OAUTH_CLIENT
from gce_backend.machine_provider import api
from gce_backend.machine_provider.access.access_tokens import AccessTokens
from gce_backend.machine_provider.access.identity_tokens import IdentityTokens
from gce_backend.machine_provider.access.issuer_keys import IssuerKeys
from gce_backend.machine_provider.access.parsing import parse_access
from gce_backend.machine_provider.access.verifier import TokenVerifier
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.channels import Channels
from gce_backend.machine_provider.entities import KINDS
from gce_backend.machine_provider.gatekeeper import Gatekeeper

NAMESPACE = "machine-provider"
READY_SECONDS = 10.0
"""How long a request waits for the start."""
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
ACCESS = """\
client_ids: "{client}"
issuers {{ url: "{url}" audiences: "{url}" audiences: "machine-provider" email_domains: "*" }}
groups {{
  name: "own"
  members: "{account}"
  roles: [VIEWER, USER, BACKEND, ADMINISTRATOR]
  backend: "{backend}"
  without_end: true
}}
groups {{ name: "others" members: "*" roles: [VIEWER, USER] without_end: true }}
"""
"""Who may do what at the embedded Machine Provider."""

_REASONS = {401: "authError", 403: "forbidden", 404: "notFound"}
"""Google's words for the statuses of refusals; all others are `badRequest`."""


class _Kept(msgspec.Struct):
    """One record of a backup: its Datastore kind, and the record itself."""

    kind: str
    record: msgspec.Raw


class MachineProviderService:
    """The Machine Provider.

    Args:
        cloud: the cloud that it stands in.
        backend: whose machines the cloud's own account manages; other accounts manage none.
        connector: makes what it opens its connections to the cloud with.
    """

    name = "machine_provider"

    def __init__(
        self,
        cloud: Cloud,
        *,
        backend: str = "GCE",
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        connector: Callable[[], aiohttp.BaseConnector] = aiohttp.TCPConnector,
    ) -> None:
        self._cloud = cloud
        self._backend = backend
        self._new_id = new_id
        self._connector = connector
        self._broker: MachineProvider | None = None
        self._gatekeeper: Gatekeeper | None = None
        self._made = asyncio.Event()
        path = "/_localcloud/machine-provider/backup"
        cloud.add_controls(
            CloudControl("GET", path, self._get_backup), CloudControl("PUT", path, self._put_backup)
        )

    def routes(self) -> Iterable[Route]:
        """`POST /_ah/api/{api}/v1/{method}` for each method."""
        for name in api.METHODS:
            service, _, verb = name.partition(".")
            path = f"/_ah/api/{service}/v1/{verb}"
            # As the original, it answers 403 to who sends no token at all.
            yield Route(f"{self.name}.{name}", "POST", path, self._handler(name), False)

    def error_body(self, error: ServiceError) -> dict[str, Any]:
        """The error envelope of Google's APIs."""
        detail = {"domain": "global", "reason": error.reason, "message": error.message}
        return {"error": {"code": error.status, "message": error.message, "errors": [detail]}}

    def state(self) -> dict[str, Any]:
        """How many machines are in which state, which ones, and how many requests wait."""
        if self._broker is None:
            return {}
        records = self._broker.records
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

    async def run(self) -> None:
        """Runs the Machine Provider against this cloud's own endpoints."""
        root, project = self._cloud.base_url, self._cloud.options.project
        connector = self._connector()
        async with aiohttp.ClientSession(headers=INNER_HEADERS, connector=connector) as session:
            # Whatever credentials the environment names are not for this cloud.
            tokens = TokenSource(session, metadata_root=root, scopes=SCOPES, metadata_only=True)
            datastore = Datastore(
                session=session,
                tokens=tokens,
                project=project,
                api_root=f"{root}/v1",
                namespace=NAMESPACE,
                clock=self._cloud.clock,
            )
            pubsub = PubSub(session=session, tokens=tokens, api_root=f"{root}/v1", project=project)
            verifier = self._admit_with(Exchange(session, None, None))
            self._broker = MachineProvider(
                datastore,
                Channels(pubsub),
                self._cloud.clock,
                new_id=self._new_id,
                pause_seconds=self._cloud.options.dispatch_seconds,
            )
            self._made.set()
            try:
                await self._broker.run()
            finally:
                await verifier.close()
                await tokens.close()

    def _admit_with(self, exchange: Exchange) -> TokenVerifier:
        """Makes the gatekeeper, which asks this cloud's own metadata server whose tokens are."""
        url, clock = self._cloud.base_url, self._cloud.clock
        account = self._cloud.own_account
        policy = parse_access(
            ACCESS.format(url=url, account=account, backend=self._backend, client=OAUTH_CLIENT)
        )
        keys = IssuerKeys(exchange, clock)
        verifier = TokenVerifier(
            lambda: policy,
            access_tokens=AccessTokens(exchange, f"{url}/tokeninfo", clock),
            keys=keys,
            identity_tokens=IdentityTokens(keys, clock),
        )
        self._gatekeeper = Gatekeeper(verifier, lambda: policy, clock)
        return verifier

    def _handler(self, name: str) -> Callable[[Call], Awaitable[Any]]:
        async def handler(call: Call) -> object:
            authorization = call.request.headers.get("Authorization")
            try:
                gatekeeper = await self._made_gatekeeper()
                caller = await gatekeeper.admit(authorization, name, call.request.remote or "")
                api.request_of(name, call.body)  # what is no request needs no Machine Provider
                answer = await api.call(await self._started(), caller, name, call.body)
            except api.Refusal as refusal:
                reason = _REASONS.get(refusal.status, "badRequest")
                raise ServiceError(refusal.status, reason, refusal.message) from refusal
            except BackendError as error:
                raise ServiceError(503, "backendError", str(error)) from error
            return web.Response(status=204) if answer is None else answer

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

    async def _made_gatekeeper(self) -> Gatekeeper:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                await self._made.wait()
        if self._gatekeeper is None:
            raise _STARTING
        return self._gatekeeper

    async def _started(self) -> MachineProvider:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._made.wait()
                if self._broker is not None:
                    await self._broker.ready.wait()
                    return self._broker
        except TimeoutError:
            pass
        raise _STARTING


_STARTING = ServiceError(503, "backendError", "The Machine Provider is still starting.")
