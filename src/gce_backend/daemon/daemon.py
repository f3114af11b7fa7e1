"""The composition root: builds clients, store and jobs, and knows their order of start and stop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import structlog

from gce_backend import __version__
from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.base.tasks import Tasks, first_of
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.datastore.leadership import Leadership
from gce_backend.daemon.clients import Clients, Connector, Remotes, tcp_connector
from gce_backend.engine.context import OPERATOR, SELF_CHECK, Context
from gce_backend.engine.demand_watch import DemandWatch
from gce_backend.engine.inbox import Consumer
from gce_backend.engine.machine_sizes import ComputeSizes
from gce_backend.engine.metrics import UNKNOWN_KIND, Metrics
from gce_backend.engine.rotation import Turns
from gce_backend.engine.scheduler import Scheduler
from gce_backend.fleet.conditions import Conditions
from gce_backend.fleet.history import History
from gce_backend.fleet.memory import Memory
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.schema import migrate
from gce_backend.fleet.store import Store
from gce_backend.loops import JOBS
from gce_backend.model.entities import STORE_IDENTITY_KEY
from gce_backend.rules.messages import MessageKind
from gce_backend.rules.ownership import new_store_id
from gce_backend.settings.settings import WEBHOOK_FORMATS, Settings
from gce_backend.settings.tokens import named_tokens
from gce_backend.setup.self_check import SelfCheck
from gce_backend.web import health
from gce_backend.web.access import Gate
from gce_backend.web.documents import routes
from gce_backend.web.documents.gauges import Readings, checks
from gce_backend.web.documents.orders import ControlApi
from gce_backend.web.notifier import Destination, Notifier
from gce_backend.web.pages.orders import Orders
from gce_backend.web.pages.session import Sessions
from gce_backend.web.pages.site import Site
from gce_backend.web.server import Server
from gce_backend.web.survey.census import Census
from gce_backend.web.survey.samples import Samples
from gce_backend.web.survey.view import View

LOAD_RETRY_SECONDS = 5.0
LAG_INTERVAL_SECONDS = 1.0
LAG_MEMORY_SECONDS = 30.0
"""Seconds for which `/healthz` remembers that the event loop stood still."""
SIZES_JOB = "resize-instance-groups"
MESSAGES_JOB = "process-pubsub-messages"


class Daemon:
    """The daemon, from start to stop.

    Args:
        rng: randomness; seeded, a whole run can be replayed.
        log: where events go.
        connector: makes what its clients open their connections with.

    Raises:
        SettingsError: the file of tokens cannot be used.

    Attributes:
        url: where its HTTP endpoint listens, once started.
        leadership: decides which daemon on the store works; None when there is only one.
        context: what jobs are given; None until the entities are loaded, and while it stands by.
        view: what documents and pages show; None at the same times.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        rng: random.Random,
        log: Any = None,
        connector: Connector = tcp_connector,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._log = log or structlog.get_logger()
        self._connector = connector
        self._metrics = Metrics()
        self._metrics.expect(
            jobs=[job.name for job in JOBS],
            kinds=[*MessageKind, UNKNOWN_KIND],
            webhooks=WEBHOOK_FORMATS,
        )
        self._readings: Readings | None = None
        self._clients: Clients | None = None
        self._scheduler: Scheduler[Context] | None = None
        self._consumer: Consumer | None = None
        self._self_check: SelfCheck | None = None
        self._store_error = ""
        self._lag = self._lag_at = 0.0
        self._tasks = Tasks()
        gate = Gate(
            settings.http,
            named_tokens(settings.http),
            clock=clock,
            log=self._log,
            refused=self._metrics.refused_request,
        )
        self._control = ControlApi(
            gate=gate,
            context=lambda: self.context,
            absence=self._absence,
            wake=self._wake,
            log=self._log,
        )
        site = Site(view=lambda: self.view, readiness=self._readiness, gate=gate, clock=clock)
        self._server = Server(
            gate=gate,
            liveness=self._liveness,
            readiness=self._readiness,
            metrics=self._render_metrics,
            routes=[
                *routes.routes(lambda: self.view, self._control.state, self._absence),
                *self._control.routes(),
                *site.routes(),
                *Sessions(gate, site).routes(),
                *Orders(gate, self._control, site).routes(),
                site.nowhere(),
            ],
            log=self._log,
            refused=self._metrics.refused_request,
        )
        self.url = ""
        self.leadership: Leadership | None = None
        self.context: Context | None = None
        self.view: View | None = None

    async def start(self) -> None:
        """Starts listening, then works in its own tasks.

        Raises:
            SettingsError: it cannot listen, or the credentials cannot be used.
        """
        http = self._settings.http
        await self._server.start(http.host, http.port, port_setting="GCE_BACKEND_HTTP__PORT")
        self.url = self._server.url
        self._clients = Clients(
            self._settings, self._clock, self._rng, self._metrics, connector=self._connector
        )
        self._log.info(
            "daemon.started",
            url=self.url,
            credentials=self._clients.tokens.describe(),
            endpoints=msgspec.structs.asdict(self._settings.endpoints),
        )
        self._tasks.spawn("daemon.work", self._work(self._clients))
        self._tasks.spawn("daemon.lag", self._watch_lag())

    async def wait(self) -> None:
        """Waits until one of its tasks ends, which only a defect causes.

        Raises:
            BaseException: what that task raised.
        """
        await self._tasks.wait()

    async def stop(self) -> None:
        """Stops in order: ticks, running jobs (until the deadline), leadership, clients, HTTP."""
        self._log.info("daemon.stopping", deadline=self._settings.shutdown_seconds)
        if self._consumer is not None:
            self._consumer.stop_pulling()
        if self._scheduler is not None:
            self._scheduler.stop_ticks()
            late = await self._scheduler.drain(self._settings.shutdown_seconds)
            if late:
                self._log.warning("daemon.jobs_cancelled", jobs=list(late))
            await self._scheduler.cancel()
        if self._consumer is not None:
            await self._consumer.return_all()
        if self._self_check is not None:
            await self._self_check.end()
        await self._tasks.end()
        if self.leadership is not None:
            await self.leadership.release()
        await self.abort()

    async def abort(self) -> None:
        """Stops without waiting for running jobs."""
        await self._tasks.end()
        if self._clients is not None:
            await self._clients.close()
        await self._server.close()
        self._log.info("daemon.stopped")

    async def _work(self, clients: Clients) -> None:
        project = await self._insist("project.unknown", clients.project)
        datastore = clients.datastore(project)
        if not self._settings.store.leader_election:
            await self._lead(clients, project, datastore)
            return
        self.leadership = leadership = Leadership(
            datastore,
            self._clock,
            me=f"{socket.gethostname()}, process {os.getpid()}, {self.url}",
            takeover_seconds=self._settings.store.takeover_seconds,
        )
        clients.only_while(leadership.assure)
        await leadership.run(lambda term: self._lead(clients, project, datastore.within(term)))

    async def _lead(self, clients: Clients, project: str, datastore: Datastore) -> None:
        """Does the daemon's work until it is cancelled."""
        store = Store(datastore, self._log)
        schema = await self._insist("store.unusable", lambda: migrate(store, __version__))
        if schema.before != schema.after:
            self._log.info("store.migrated", before=schema.before, after=schema.after)
        fleet = Fleet(store, self._rng, self._clock)
        await self._insist("store.unreachable", fleet.load)
        if STORE_IDENTITY_KEY not in fleet.corrupt:
            fresh = new_store_id(self._rng)
            await self._insist("store.unidentified", lambda: fleet.identify(fresh))
        self._log.info(
            "store.loaded",
            project=project,
            templates=len(fleet.templates),
            managers=len(fleet.managers),
            instances=len(fleet.instances),
            store_id=fleet.identity,
        )
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
            memory=Memory(store_id=fleet.identity),
            conditions=Conditions(self._clock, self._rng, OPERATOR),
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
            JOBS,
            context.of_job,
            clock=self._clock,
            ended=self._metrics.job_run,
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
        self._self_check = SelfCheck(
            context,
            store=store,
            pubsub=clients.pubsub(project),
            resource_manager=clients.resource_manager(),
            process=self._new_id(),
            url=self.url,
        )
        destinations = self._destinations(clients)
        scheduler.start()
        try:
            await first_of(
                consumer.run(),
                self._self_check.run(),
                DemandWatch(context, lambda: scheduler.wake(SIZES_JOB)).run(),
                self._resync(fleet),
                self.view.samples.keep(self.view.census),
                *([Notifier(self.view, store, destinations).run()] if destinations else ()),
                *(destination.webhook.run() for destination in destinations.values()),
                _failure_of(scheduler),
            )
        finally:
            self.context = self.view = self._readings = None
            self._scheduler = self._consumer = self._self_check = None
            await scheduler.cancel()

    def _destinations(self, clients: Clients) -> dict[str, Destination]:
        """The webhooks of the settings, by their formats."""
        return {
            style: Destination(clients.webhook(style, settings, self._log, self._metrics), settings)
            for style, settings in self._settings.webhooks.items()
            if settings.url is not None
        }

    def _wake(self, jobs: Iterable[str] | None) -> None:
        """Runs these jobs soon; None means all of them."""
        if self._scheduler is None:
            return
        present = [job.name for job in JOBS]
        for name in present if jobs is None else set(jobs).intersection(present):
            self._scheduler.wake(name)

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    async def _insist(self, event: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """Repeats until it succeeds: a service that the start needs may come up later."""
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
        """Reads all entities again, page by page, to find what other processes wrote."""
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
        if self.leadership is not None and self.leadership.term is None:
            return health.standby(self.leadership.holder, self.leadership.error)
        return health.readiness(
            store_loaded=self.context is not None,
            store_error=self._store_error,
            jobs=self._scheduler.status() if self._scheduler else (),
            messages=self._consumer.problem if self._consumer else "",
            looked_at=self._looked_at(),
            now=self._clock.now(),
        )

    def _absence(self) -> str:
        """Why there is no context."""
        if self.leadership is not None and self.leadership.term is None:
            return f"this daemon stands by: {self.leadership.holder or 'no daemon'} leads"
        return "the daemon has not loaded its entities yet"

    def _looked_at(self) -> dict[str, str]:
        if self.context is None:
            return {}
        found = self.context.conditions.of_job(SELF_CHECK).mine()
        return {str(condition.subject): condition.message for condition in found}

    async def _render_metrics(self) -> bytes:
        found = await self._readings.read() if self._readings is not None else {}
        leads = self.leadership is None or self.leadership.term is not None
        return self._metrics.render(found | checks(self._readiness(), leads=leads))


async def _failure_of(scheduler: Scheduler[Context]) -> None:
    """Raises what a defect of the scheduler raised; does not end when the scheduler is stopped."""
    await scheduler.wait()
    await asyncio.Event().wait()
