"""The Machine Provider as a service of the embedded cloud, whose Datastore and Pub/Sub it uses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import msgspec

from gce_backend.base.errors import BackendError
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.pubsub import PubSub
from gce_backend.localcloud.cloud import INNER_HEADERS, Call, Cloud, Route, ServiceError
from gce_backend.machine_provider import wire
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.channels import Channels

NAMESPACE = "machine-provider"
READY_SECONDS = 10.0
"""How long a request waits for the start."""
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
USER = "local"
"""Who asks: all tokens of the embedded metadata server are of one account."""

Method = Callable[[MachineProvider, Any], Awaitable[Any]]


async def _add_machine(broker: MachineProvider, request: wire.AddRequest) -> wire.AddResponse:
    return (await broker.catalog.add([request]))[0]


async def _add_machines(broker: MachineProvider, batch: wire.AddBatch) -> wire.AddBatchResponse:
    return wire.AddBatchResponse(await broker.catalog.add(batch.requests))


async def _delete_machine(
    broker: MachineProvider, request: wire.DeleteRequest
) -> wire.DeleteResponse:
    return await broker.catalog.delete(request)


async def _get(broker: MachineProvider, name: wire.MachineName) -> wire.EntryMessage:
    entry = await broker.catalog.get(name)
    if entry is None:
        raise _not_cataloged()
    return entry


async def _modify_capacity(
    broker: MachineProvider, request: wire.CapacityRequest
) -> wire.CapacityResponse:
    return await broker.catalog.modify_capacity(request)


async def _lease(broker: MachineProvider, request: wire.LeaseRequestMessage) -> wire.LeaseResponse:
    return (await broker.leases.lease(USER, [request]))[0]


async def _batched_lease(
    broker: MachineProvider, batch: wire.LeaseBatch
) -> wire.LeaseBatchResponse:
    return wire.LeaseBatchResponse(await broker.leases.lease(USER, batch.requests))


async def _release(broker: MachineProvider, request: wire.ReleaseRequest) -> wire.ReleaseResponse:
    return (await broker.leases.release(USER, [request]))[0]


async def _batched_release(
    broker: MachineProvider, batch: wire.ReleaseBatch
) -> wire.ReleaseBatchResponse:
    return wire.ReleaseBatchResponse(await broker.leases.release(USER, batch.requests))


async def _instruct(
    broker: MachineProvider, request: wire.InstructRequest
) -> wire.InstructResponse:
    return await broker.leases.instruct(USER, request)


async def _poll(broker: MachineProvider, name: wire.MachineName) -> wire.PollResponse:
    answer = await broker.catalog.poll(name)
    if answer is None:
        raise _not_cataloged()
    return answer


async def _ack(broker: MachineProvider, name: wire.MachineName) -> dict[str, str]:
    if not await broker.catalog.ack(name):
        raise _not_cataloged()
    return {}


def _not_cataloged() -> ServiceError:
    return ServiceError(404, "notFound", "CatalogMachineEntry not found")


_METHODS: dict[str, tuple[type[wire.WireMessage], Method]] = {
    "catalog.add_machine": (wire.AddRequest, _add_machine),
    "catalog.add_machines": (wire.AddBatch, _add_machines),
    "catalog.delete_machine": (wire.DeleteRequest, _delete_machine),
    "catalog.get": (wire.MachineName, _get),
    "catalog.modify_capacity": (wire.CapacityRequest, _modify_capacity),
    "machine_provider.lease": (wire.LeaseRequestMessage, _lease),
    "machine_provider.batched_lease": (wire.LeaseBatch, _batched_lease),
    "machine_provider.release": (wire.ReleaseRequest, _release),
    "machine_provider.batched_release": (wire.ReleaseBatch, _batched_release),
    "machine_provider.instruct": (wire.InstructRequest, _instruct),
    "machine.poll": (wire.MachineName, _poll),
    "machine.ack": (wire.MachineName, _ack),
}


class MachineProviderService:
    """The Machine Provider.

    Args:
        cloud: the cloud that it stands in.
        backend: whose machines the callers may manage.
        new_id: makes a unique id.
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
        self._made = asyncio.Event()

    def routes(self) -> Iterable[Route]:
        """`POST /_ah/api/{api}/v1/{method}` for each method."""
        for name, (kind, method) in _METHODS.items():
            api, _, verb = name.partition(".")
            handler = self._handler(kind, method)
            yield Route(f"{self.name}.{name}", "POST", f"/_ah/api/{api}/v1/{verb}", handler)

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
            self._broker = MachineProvider(
                datastore,
                Channels(pubsub),
                self._cloud.clock,
                new_id=self._new_id,
                backend=self._backend,
                pause_seconds=self._cloud.options.dispatch_seconds,
            )
            self._made.set()
            try:
                await self._broker.run()
            finally:
                await tokens.close()

    def _handler(
        self, kind: type[wire.WireMessage], method: Method
    ) -> Callable[[Call], Awaitable[Any]]:
        async def handler(call: Call) -> object:
            try:
                request = msgspec.convert(call.body, kind, strict=False)
            except msgspec.ValidationError as error:
                raise ServiceError(400, "badRequest", str(error)) from error
            try:
                return await method(await self._started(), request)
            except BackendError as error:
                raise ServiceError(503, "backendError", str(error)) from error

        return handler

    async def _started(self) -> MachineProvider:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._made.wait()
                if self._broker is not None:
                    await self._broker.ready.wait()
                    return self._broker
        except TimeoutError:
            pass
        raise ServiceError(503, "backendError", "The Machine Provider is still starting.")
