"""The composition root: builds clients, store and jobs, and knows their order of start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import aiohttp
import msgspec
import structlog

from gce_backend.auth import TokenSource
from gce_backend.clock import Clock
from gce_backend.conditions import Conditions
from gce_backend.context import Context
from gce_backend.datastore import Datastore
from gce_backend.errors import BackendError
from gce_backend.fleet import Fleet
from gce_backend.gce_client import ComputeClient, Timeouts
from gce_backend.history import History
from gce_backend.job import Job
from gce_backend.json_api import JsonApi, Limits
from gce_backend.limits import CallBudget, QuotaGroup
from gce_backend.loops import JOBS
from gce_backend.messages import Kind
from gce_backend.metrics import UNKNOWN_KIND, Metrics
from gce_backend.permissions import ResourceManager
from gce_backend.pubsub import Consumer
from gce_backend.pubsub_client import PubSub
from gce_backend.remotes import Remotes
from gce_backend.scheduler import Scheduler
from gce_backend.settings import EndpointSettings, Settings
from gce_backend.sizes import ComputeSizes
from gce_backend.store import Store
from gce_backend.turns import Turns
from gce_backend.web import documents, health
from gce_backend.web.access import Gate
from gce_backend.web.census import Census
from gce_backend.web.control import ControlApi
from gce_backend.web.pages.orders import Orders
from gce_backend.web.pages.session import Sessions
from gce_backend.web.pages.site import Site
from gce_backend.web.readings import Readings, checks
from gce_backend.web.samples import Samples
from gce_backend.web.server import Server
from gce_backend.web.view import View
from gce_backend.world import World

GOOGLE_SCOPES = (
    "https://www.googleapis.com/auth/compute",
    "https://www.googleapis.com/auth/datastore",
    "https://www.googleapis.com/auth/pubsub",
)
IDENTITY_SCOPES = ("https://www.googleapis.com/auth/userinfo.email",)
"""What the Machine Provider and the config service may learn from a token: who we are, no more."""
INSPECTION_SCOPES = ("https://www.googleapis.com/auth/cloudplatformprojects.readonly",)
"""What Cloud Resource Manager needs to say what we may do; `setup` alone asks."""

LOAD_RETRY_SECONDS = 5.0
LAG_INTERVAL_SECONDS = 1.0
LAG_MEMORY_SECONDS = 30.0
"""How long the health endpoint remembers that the event loop stood still: probes look seldom."""
MESSAGES_JOB = "process-pubsub-messages"
MAX_CONNECTIONS = 100


class Clients:
    """The clients of Google's services, on one HTTP session; closed together.

    Args:
        settings: the process settings.
        clock: the time.
        rng: jitter.
        metrics: told of every call.
    """

    def __init__(
        self, settings: Settings, clock: Clock, rng: random.Random, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS))
        self.tokens = self._token_source(GOOGLE_SCOPES)
        self.identity = self._token_source(IDENTITY_SCOPES)
        self._inspection = self._token_source(INSPECTION_SCOPES)

    def _token_source(self, scopes: Sequence[str]) -> TokenSource:
        metadata = self._settings.endpoints.metadata
        return TokenSource(
            self.session,
            metadata_root=metadata,
            scopes=scopes,
            metadata_only=metadata != EndpointSettings().metadata,
        )

    async def project(self) -> str:
        """The project of store and messages: the settings', else the credentials' own.

        Raises:
            RemoteError: it was to be asked for, and could not be.
        """
        return self._settings.project or await self.tokens.project()

    def datastore(self, project: str) -> Datastore:
        """The Datastore client."""
        return Datastore(
            session=self.session,
            token=self.tokens.token,
            project=project,
            api_root=self._settings.endpoints.datastore,
            clock=self._clock,
            namespace=self._settings.store.namespace,
            rng=self._rng,
            observer=self._metrics,
        )

    def pubsub(self, project: str) -> PubSub:
        """The Pub/Sub client."""
        return PubSub(
            session=self.session,
            token=self.tokens.token,
            api_root=self._settings.endpoints.pubsub,
            project=project,
            observer=self._metrics,
        )

    def compute(self, budget: CallBudget) -> ComputeClient:
        """The Compute Engine client."""
        settings = self._settings.compute
        return ComputeClient(
            session=self.session,
            tokens=self.tokens,
            root=self._settings.endpoints.compute,
            budget=budget,
            clock=self._clock,
            random=self._rng,
            observer=self._metrics,
            timeouts=Timeouts(
                connect=settings.connect_timeout,
                read=settings.read_timeout,
                total=settings.total_timeout,
            ),
        )

    def resource_manager(self) -> ResourceManager:
        """The client that asks what the caller may do."""
        return ResourceManager(
            JsonApi(
                session=self.session,
                tokens=self._inspection,
                root=self._settings.endpoints.resource_manager,
                limits=Limits(),
                retrier=None,
            )
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._inspection.close()
        await self.tokens.close()
        await self.identity.close()
        await self.session.close()


class Daemon:
    """The daemon, from start to stop.

    Args:
        settings: the process settings.
        clock: the time.
        rng: randomness; seeded, a whole run can be replayed.
        log: where events go.
        jobs: what to run.

    Attributes:
        url: where its HTTP endpoint listens, once started.
        context: what jobs are given; None until the entities are loaded.
        view: what documents and pages show; None until then, too.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        rng: random.Random,
        log: Any = None,
        jobs: Sequence[Job[Context]] = JOBS,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._log = log or structlog.get_logger()
        self._jobs = jobs
        self._metrics = Metrics()
        self._metrics.expect(jobs=[job.name for job in jobs], kinds=[*Kind, UNKNOWN_KIND])
        self._readings: Readings | None = None
        self._clients: Clients | None = None
        self._scheduler: Scheduler[Context] | None = None
        self._consumer: Consumer | None = None
        self._pulling: asyncio.Task[None] | None = None
        self._store_error = ""
        self._lag = self._lag_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()  # one of them has
        self._control = ControlApi(
            token=settings.http.token,
            context=lambda: self.context,
            wake=self._wake,
            log=self._log,
        )
        gate = Gate(host=settings.http.host, token=settings.http.token, clock=clock)
        site = Site(view=lambda: self.view, readiness=self._readiness, gate=gate, clock=clock)
        self._server = Server(
            gate=gate,
            liveness=self._liveness,
            readiness=self._readiness,
            metrics=self._render_metrics,
            routes=[
                *documents.routes(lambda: self.view, self._control.state),
                *self._control.routes(),
                *site.routes(),
                *Sessions(gate, site).routes(),
                *Orders(gate, self._control, site).routes(),
                site.nowhere(),
            ],
        )
        self.url = ""
        self.context: Context | None = None
        self.view: View | None = None

    async def start(self) -> None:
        """Listens, then goes to work in tasks of its own.

        Raises:
            SettingsError: it cannot listen, or the credentials cannot be used.
        """
        await self._server.start(self._settings.http.host, self._settings.http.port)
        self.url = self._server.url
        self._clients = Clients(self._settings, self._clock, self._rng, self._metrics)
        self._log.info(
            "daemon.started",
            url=self.url,
            credentials=self._clients.tokens.describe(),
            endpoints=msgspec.structs.asdict(self._settings.endpoints),
        )
        self._spawn("daemon.work", self._work(self._clients))
        self._spawn("daemon.lag", self._watch_lag())

    async def wait(self) -> None:
        """Waits until a task of the daemon ends, which only a defect makes it do.

        Raises:
            BaseException: what that task raised.
        """
        await self._ended.wait()
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Stops in order: ticks, running jobs (until the deadline), clients, the HTTP endpoint."""
        self._log.info("daemon.stopping", deadline=self._settings.shutdown_seconds)
        if self._pulling is not None:
            self._pulling.cancel()
        if self._scheduler is not None:
            self._scheduler.stop_ticks()
            late = await self._scheduler.drain(self._settings.shutdown_seconds)
            if late:
                self._log.warning("daemon.jobs_cancelled", jobs=list(late))
            await self._scheduler.cancel()
        if self._consumer is not None:
            await self._consumer.return_all()
        await self._close()

    async def abort(self) -> None:
        """Stops without waiting for running jobs."""
        if self._scheduler is not None:
            await self._scheduler.cancel()
        await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        if self._clients is not None:
            await self._clients.close()
        await self._server.close()
        self._log.info("daemon.stopped")

    def _spawn(self, name: str, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._ended.set())
        self._tasks.append(task)
        return task

    async def _work(self, clients: Clients) -> None:
        project = await self._insist("project.unknown", clients.project)
        store = Store(clients.datastore(project))
        fleet = Fleet(store, self._rng, self._clock)
        await self._insist("store.unreachable", fleet.load)
        self._log.info(
            "store.loaded",
            project=project,
            templates=len(fleet.templates),
            managers=len(fleet.managers),
            instances=len(fleet.instances),
        )
        for key, problem in fleet.corrupt.items():
            self._log.error("entity.corrupt", key=str(key), kind=key.kind, error=problem)
        history = History(
            store,
            self._clock,
            max_age=self._settings.history.max_age_days * 86400,
            max_events=self._settings.history.max_events,
        )
        budget = CallBudget(
            self._clock, dict.fromkeys(QuotaGroup, self._settings.compute.calls_per_minute)
        )
        compute = clients.compute(budget)
        remotes = Remotes(
            session=clients.session,
            tokens=clients.identity,
            settings=self._settings,
            fleet=fleet,
            observer=self._metrics,
        )
        consumer = Consumer(
            clients.pubsub(project),
            self._settings.pubsub.subscription,
            clock=self._clock,
            max_messages=self._settings.pubsub.max_messages,
            queue_size=self._settings.pubsub.queue_size,
            ack_deadline=self._settings.pubsub.ack_deadline_seconds,
            arrived=lambda: self._scheduler.wake(MESSAGES_JOB) if self._scheduler else None,
        )
        context = Context(
            project=project,
            settings=self._settings,
            clock=self._clock,
            rng=self._rng,
            new_id=self._new_id,
            fleet=fleet,
            world=World(),
            conditions=Conditions(self._clock, self._rng),
            compute=compute,
            sizes=ComputeSizes(compute),
            broker=remotes.broker,
            source=remotes.source,
            inbox=consumer,
            archive=history,
            turns=Turns(),
            listing_turns=Turns(),
            metrics=self._metrics,
            log=self._log,
        )
        scheduler = Scheduler(
            self._jobs,
            context,
            clock=self._clock,
            observer=self._metrics,
            log=self._log,
            overrides=self._settings.jobs,
        )
        self.context = context
        self._scheduler = scheduler
        self._consumer = consumer
        self.view = View(
            context=context,
            history=history,
            scheduler=scheduler,
            queue=consumer.status,
            budget=budget,
            census=Census(context),
            samples=Samples(self._clock),
        )
        self._readings = Readings(
            context, self.view.census, consumer=consumer, scheduler=scheduler, budget=budget
        )
        scheduler.start()
        self._pulling = self._spawn("daemon.pull", consumer.run())
        self._spawn("daemon.resync", self._resync(fleet))
        self._spawn("daemon.samples", self.view.samples.keep(self.view.census))
        await scheduler.wait()

    def _wake(self, jobs: Iterable[str] | None) -> None:
        """Runs these jobs soon; None means all of them."""
        if self._scheduler is None:
            return
        present = [job.name for job in self._jobs]
        for name in present if jobs is None else set(jobs).intersection(present):
            self._scheduler.wake(name)

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    async def _insist(self, event: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """Tries again until it succeeds: what is needed to start may come up later than we do."""
        while True:
            try:
                found = await act()
            except BackendError as error:
                self._store_error = str(error)
                self._log.error(event, error=str(error), retry_in=LOAD_RETRY_SECONDS)
                await asyncio.sleep(LOAD_RETRY_SECONDS)
            else:
                self._store_error = ""
                return found

    async def _resync(self, fleet: Fleet) -> None:
        """Reads all entities again, a page now and then: what others wrote is seen in the end."""
        review = fleet.review()
        while True:
            await asyncio.sleep(self._settings.store.resync_seconds / fleet.pages)
            try:
                if await anext(review, None) is None:
                    review = fleet.review()
            except BackendError as error:
                self._log.warning("store.resync_failed", error=str(error))
                review = fleet.review()

    async def _watch_lag(self) -> None:
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            now = self._clock.monotonic()
            lag = max(0.0, now - before - LAG_INTERVAL_SECONDS)
            self._metrics.loop_lag(lag)
            if lag >= self._lag or now - self._lag_at > LAG_MEMORY_SECONDS:
                self._lag, self._lag_at = lag, now

    def _liveness(self) -> list[health.Check]:
        now = self._clock.monotonic()
        stuck = self._scheduler.stuck(now) if self._scheduler else ()
        return health.liveness(stuck, self._lag)

    def _readiness(self) -> list[health.Check]:
        return health.readiness(
            store_loaded=self.context is not None,
            store_error=self._store_error,
            jobs=self._scheduler.status() if self._scheduler else (),
            messages=self._consumer.problem if self._consumer else "",
            now=self._clock.now(),
        )

    async def _render_metrics(self) -> bytes:
        found = await self._readings.read() if self._readings is not None else {}
        return self._metrics.render(found | checks(self._readiness()))
