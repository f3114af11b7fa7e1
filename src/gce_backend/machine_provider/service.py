"""`gce-backend machine-provider`: one process of the Machine Provider, from start to stop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError, SettingsError
from gce_backend.base.tasks import Tasks
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.config_source import LuciSource
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.exchange import Exchange
from gce_backend.clients.pubsub import PubSub
from gce_backend.machine_provider.access_file import AccessFile
from gce_backend.machine_provider.access_import import AccessImport, config_service
from gce_backend.machine_provider.api import Refusal
from gce_backend.machine_provider.entities import MachineState
from gce_backend.machine_provider.metrics import ProviderMetrics, Readings
from gce_backend.machine_provider.provider import Answered, Provider
from gce_backend.machine_provider.server import ProviderServer
from gce_backend.settings.settings import EndpointSettings, ProviderSettings, Settings

SCOPES = (
    "https://www.googleapis.com/auth/datastore",
    "https://www.googleapis.com/auth/pubsub",
)
"""The OAuth scopes of its own tokens."""
IDENTITY_SCOPES = ("https://www.googleapis.com/auth/userinfo.email",)
"""Those of the tokens for LUCI Config: they only identify the process."""
MAX_CONNECTIONS = 100
RETRY_SECONDS = 5.0

log = structlog.get_logger()


class ProviderService:
    """One process of the Machine Provider.

    Args:
        rng: jitter.
        connector: makes the connector of its HTTP clients.
        pages: returns the routes of pages for people, given this service.

    Attributes:
        url: where it listens, once started.
        provider: the Machine Provider; None until the project is known.

    Raises:
        SettingsError: the settings do not name access.cfg, or the file cannot be read.
        InvalidConfigurationError: the file has problems.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        rng: random.Random,
        connector: Callable[[], aiohttp.BaseConnector] = lambda: aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS
        ),
        pages: Callable[[ProviderService], Iterable[web.RouteDef]] = lambda _: (),
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._connector = connector
        self._access = self._access_of(settings.provider)
        self._metrics = ProviderMetrics()
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._session: aiohttp.ClientSession | None = None
        self._tokens: TokenSource | None = None
        self._identity: TokenSource | None = None
        self._tasks = Tasks()
        self._problem = "it is starting"
        self.provider: Provider | None = None
        self.url = ""
        self._server = ProviderServer(
            call=self._call,
            alive=dict,  # a process that answers needs no restart
            ready=self.unready,
            metrics=self._rendered,
            answered=self._metrics.answered,
            clock=clock,
            log=log,
            refused=self._metrics.refused,
            pages=pages(self),
        )

    def _access_of(self, settings: ProviderSettings) -> AccessFile | AccessImport:
        if settings.access_source != "file":
            return AccessImport(self._config_service, self._store, self._leading_store)
        return AccessFile.named_by(settings)

    def _config_service(self) -> LuciSource:
        session, tokens = self._session, self._identity
        if session is None or tokens is None:
            raise SettingsError("the process is not started")
        return config_service(self._settings.provider, session, tokens, self._metrics)

    def _store(self) -> Datastore | None:
        return self.provider.store if self.provider is not None else None

    def _leading_store(self) -> Datastore | None:
        return self.provider.leading_store if self.provider is not None else None

    @property
    def access_problem(self) -> str:
        """Why the present access.cfg is not in force; "" when it is."""
        return self._access.problem

    async def start(self) -> None:
        """Starts listening, then works in its own tasks.

        Raises:
            SettingsError: it cannot listen, or the credentials cannot be used.
        """
        provider = self._settings.provider
        await self._server.start(
            provider.host, provider.port, port_setting="GCE_BACKEND_PROVIDER__PORT"
        )
        self.url = self._server.url
        endpoints = self._settings.endpoints
        self._session = aiohttp.ClientSession(connector=self._connector())
        self._tokens, self._identity = (
            TokenSource(
                self._session,
                metadata_root=endpoints.metadata,
                scopes=scopes,
                metadata_only=endpoints.metadata != EndpointSettings().metadata,
            )
            for scopes in (SCOPES, IDENTITY_SCOPES)
        )
        log.info(
            "machine_provider.started",
            url=self.url,
            credentials=self._tokens.describe(),
            process=self._name,
        )
        self._tasks.spawn("machine_provider.work", self._work(self._session, self._tokens))
        self._tasks.spawn("machine_provider.access", self._access.watch())

    async def wait(self) -> None:
        """Waits until one of its tasks ends, which only a defect causes.

        Raises:
            BaseException: what that task raised.
        """
        await self._tasks.wait()

    async def stop(self) -> None:
        """Stops in order: listening, calls in progress, its own work, leadership, clients."""
        log.info("machine_provider.stopping", process=self._name)
        if self.provider is not None:
            self.provider.end_waits()
        await self._server.close()
        await self.abort()
        log.info("machine_provider.stopped", process=self._name)

    async def abort(self) -> None:
        """Stops without waiting for calls in progress."""
        if self.provider is not None:
            self.provider.end_waits()
        await self._server.close()
        await self._tasks.end()
        if self.provider is not None:
            await self.provider.close()
            self.provider = None
        for tokens in (self._tokens, self._identity):
            if tokens is not None:
                await tokens.close()
        if self._session is not None:
            await self._session.close()

    async def _work(self, session: aiohttp.ClientSession, tokens: TokenSource) -> None:
        project = await self._project(tokens)
        endpoints, settings = self._settings.endpoints, self._settings.provider
        datastore = Datastore(
            session=session,
            tokens=tokens,
            project=project,
            api_root=endpoints.datastore,
            namespace=settings.namespace,
            clock=self._clock,
            rng=self._rng,
            observer=self._metrics,
        )
        pubsub = PubSub(
            session=session,
            tokens=tokens,
            api_root=endpoints.pubsub,
            project=project,
            observer=self._metrics,
        )
        self.provider = Provider(
            datastore=datastore,
            pubsub=pubsub,
            exchange=Exchange(session, None, self._metrics),
            tokeninfo=endpoints.tokeninfo,
            policy=self._access.policy,
            clock=self._clock,
            new_id=lambda: uuid.uuid4().hex,
            name=self._name,
            pause_seconds=settings.pause_seconds,
            takeover_seconds=settings.takeover_seconds,
            metrics=self._metrics,
            require_agent=settings.require_agent,
            agent_silent_seconds=settings.agent_silent_seconds,
        )
        self._problem = ""
        await self.provider.run()

    async def _project(self, tokens: TokenSource) -> str:
        """The project; asks until it is known."""
        while self._settings.project is None:
            try:
                return await tokens.project()
            except BackendError as error:
                self._problem = str(error)
                log.warning("machine_provider.not_loaded", error=self._problem)
                await asyncio.sleep(RETRY_SECONDS)
        return self._settings.project

    async def _call(self, name: str, authorization: str | None, remote: str, body: Any) -> Answered:
        provider = self._provider()
        return await provider.call(name, authorization, remote, body)

    def _provider(self) -> Provider:
        if self.provider is None:
            raise Refusal(503, f"The Machine Provider cannot work: {self._problem}.")
        return self.provider

    def unready(self) -> Mapping[str, str]:
        """The problems that keep this process from answering; a standby process is not ready."""
        if self.provider is None:
            return {"store": self._problem}
        missing = {"access": self._access.missing} if self._access.missing else {}
        return {**missing, **self.provider.unready()}

    async def _rendered(self, authorization: str | None, peer: str | None) -> bytes:
        if peer is not None:
            await self._provider().gatekeeper.admit(authorization, "service.metrics", peer)
        return self._metrics.render(self._readings())

    def _readings(self) -> Readings:
        working = self.provider.working if self.provider is not None else None
        readings: dict[str, Mapping[tuple[str, ...], float]] = {
            "leader": {(): float(working is not None)},
            "access_valid": {(): float(not self._access.problem)},
        }
        if working is not None:
            records = working.records
            oldest = min((lease.created for lease in records.untriaged.values()), default=None)
            age = 0.0 if oldest is None else max(self._clock.now() - oldest, 0.0)
            readings["machines"] = {
                (str(state),): float(len(found)) for state, found in records.machines.items()
            }
            held, leased = records.held, Counter[tuple[str, str]]()
            for machine in records.machines[MachineState.LEASED].values():
                leased[machine.group, machine.dimensions.os_family or ""] += 1
            agents, cataloged = records.agents, sum(map(len, records.machines.values()))
            readings["agents"] = {
                ("reports",): float(agents.reporting),
                ("silent",): float(len(agents.silent)),
                ("none",): float(cataloged - agents.reporting - len(agents.silent)),
            }
            idle = Counter[str]()
            for kind, names in records.free.items():
                idle[kind.os_family or ""] += len(names)
            readings["leases"] = {(group,): float(n) for group, n in held.leases.items() if n}
            readings["machines_leased"] = {of: float(n) for of, n in leased.items()}
            readings["machines_idle"] = {(family,): float(n) for family, n in idle.items()}
            readings["requests_waiting"] = {(): float(len(records.untriaged))}
            readings["request_waiting_longest_seconds"] = {(): age}
        return readings
