"""The composition root: builds clients, store and jobs, and knows their order of start and stop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import msgspec
import structlog

from gce_backend import __version__
from gce_backend.actions.offers import keep_offering
from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.base.tasks import Tasks, first_of
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.datastore.leadership import Leadership
from gce_backend.clients.datastore.terms import Term
from gce_backend.clients.webhook import Webhook
from gce_backend.daemon.clients import Clients, Connector, tcp_connector
from gce_backend.daemon.station import Station, build
from gce_backend.daemon.token_file import TokenFile
from gce_backend.engine.context import SELF_CHECK, Context
from gce_backend.engine.demand_watch import DemandWatch
from gce_backend.engine.inbox import Consumer
from gce_backend.engine.metrics import UNKNOWN_KIND, Metrics
from gce_backend.engine.scheduler import Scheduler
from gce_backend.fleet.follower import Follower
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.schema import check, migrate
from gce_backend.fleet.store import Store
from gce_backend.loops import JOBS
from gce_backend.model.entities import STORE_IDENTITY_KEY
from gce_backend.rules.messages import MessageKind
from gce_backend.rules.notices import Sender
from gce_backend.rules.ownership import new_store_id
from gce_backend.settings.settings import WEBHOOK_FORMATS, Settings
from gce_backend.setup.self_check import SelfCheck
from gce_backend.web import health
from gce_backend.web.access import Gate
from gce_backend.web.documents import routes
from gce_backend.web.documents.gauges import Readings, checks
from gce_backend.web.documents.orders import ControlApi
from gce_backend.web.notifier import Notifier
from gce_backend.web.pages.orders import Orders
from gce_backend.web.pages.session import Sessions
from gce_backend.web.pages.site import Site
from gce_backend.web.server import Server
from gce_backend.web.survey.view import Standby, View
from gce_backend.web.teller import Teller

LOAD_RETRY_SECONDS = 5.0
HAND_OVER_SECONDS = 0.5
"""Seconds at most for which a leader that stops lets its jobs finish."""
LAG_INTERVAL_SECONDS = 1.0
LAG_MEMORY_SECONDS = 30.0
"""Seconds for which `/healthz` remembers that the event loop stood still."""
SIZES_JOB = "resize-instance-groups"


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
        view: what documents and pages show; None until the entities are loaded.
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
        self._follower: Follower | None = None
        self._waiting: Station | None = None
        self._self_check: SelfCheck | None = None
        self._store_error = ""
        self._lag = self._lag_at = 0.0
        self._tasks = Tasks()
        self._token_file = TokenFile(settings.http, self._log, self._metrics)
        gate = Gate(
            settings.http,
            self._token_file.tokens,
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
                *routes.routes(lambda: self.view, self._absence),
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
        self._clock.earliest()  # what the clock is set ahead from now on ends no lease
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
        if self._settings.http.tokens_file is not None:
            self._tasks.spawn("daemon.tokens", self._token_file.watch())

    async def wait(self) -> None:
        """Waits until one of its tasks ends, which only a defect causes.

        Raises:
            BaseException: what that task raised.
        """
        await self._tasks.wait()

    async def stop(self) -> None:
        """Stops in order: ticks, running jobs (until the deadline), leadership, clients, HTTP."""
        deadline = self._settings.shutdown_seconds
        if self.leadership is not None:  # others wait, and resume what is cut off from the store
            deadline = min(deadline, HAND_OVER_SECONDS)
        self._log.info("daemon.stopping", deadline=deadline)
        if self._consumer is not None:
            self._consumer.stop_pulling()
        if self._scheduler is not None:
            self._scheduler.stop_ticks()
            late = await self._scheduler.drain(deadline)
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
        if self._settings.store.leader_election:
            await self._elect(clients, project, datastore)
        else:
            store = Store(datastore, self._log)
            await self._migrate(store)
            fleet = Fleet(store, self._rng, self._clock)
            await self._insist("store.unreachable", fleet.load)
            await self._lead(clients, self._build(clients, project, store, fleet))

    async def _elect(self, clients: Clients, project: str, datastore: Datastore) -> None:
        """Works while this daemon leads; stands by, with a picture that is current, while not."""
        self.leadership = leadership = Leadership(
            datastore,
            self._clock,
            me=f"{socket.gethostname()}, process {os.getpid()}, {self.url}",
            takeover_seconds=self._settings.store.takeover_seconds,
            able=lambda: check(Store(datastore)),
        )
        clients.only_while(leadership.assure)

        def stand_by() -> Coroutine[Any, Any, None]:
            self._follower = follower = Follower(
                datastore,
                lambda store: Fleet(store, self._rng, self._clock),
                clock=self._clock,
                log=self._log,
            )
            self._waiting = None
            return self._stand_by(clients, project, follower)

        await leadership.run(lambda term: self._succeed(clients, project, term), stand_by)

    async def _stand_by(self, clients: Clients, project: str, follower: Follower) -> None:
        """Keeps a picture that is current, and shows it, until this daemon leads."""
        fleet = await follower.load()
        self._waiting = station = self._build(clients, project, follower.store, fleet)
        self._log.info("standby.ready", instances=len(fleet.instances))
        self.view = station.view
        await first_of(
            follower.keep(),
            self._resync(fleet),
            station.view.samples.keep(station.view.census),
        )

    async def _succeed(self, clients: Clients, project: str, term: Term) -> None:
        """Leads in a term, with the picture that was kept until then."""
        follower = self._follower
        if follower is None:
            raise RuntimeError("a daemon stands by before it leads")
        fleet = await self._insist("store.unreachable", lambda: follower.succeed(term))
        if await self._migrate(follower.store):
            await self._insist("store.unreachable", fleet.load)
        station = self._waiting or self._build(clients, project, follower.store, fleet)
        self._follower = self._waiting = None
        await self._lead(clients, station)

    async def _migrate(self, store: Store) -> bool:
        """Brings the store to this release's schema; returns whether that changed anything."""
        schema = await self._insist("store.unusable", lambda: migrate(store, __version__))
        if schema.before == schema.after:
            return False
        self._log.info("store.migrated", before=schema.before, after=schema.after)
        return True

    def _build(self, clients: Clients, project: str, store: Store, fleet: Fleet) -> Station:
        return build(
            project=project,
            settings=self._settings,
            clients=clients,
            store=store,
            fleet=fleet,
            clock=self._clock,
            rng=self._rng,
            new_id=self._new_id,
            metrics=self._metrics,
            log=self._log,
            standby=self._standby,
        )

    async def _lead(self, clients: Clients, station: Station) -> None:
        """Does the daemon's work until it is cancelled."""
        fleet, context, scheduler = station.fleet, station.context, station.scheduler
        if STORE_IDENTITY_KEY not in fleet.corrupt:
            fresh = new_store_id(self._rng)
            await self._insist("store.unidentified", lambda: fleet.identify(fresh))
        context.memory.store_id = fleet.identity
        self._log.info(
            "store.loaded",
            project=context.project,
            templates=len(fleet.templates),
            managers=len(fleet.managers),
            instances=len(fleet.instances),
            store_id=fleet.identity,
        )
        self._self_check = self_check = SelfCheck(
            context,
            store=station.store,
            pubsub=clients.pubsub(context.project),
            resource_manager=clients.resource_manager(),
            process=self._new_id(),
            url=self.url,
        )
        self.context, self.view, self._readings = context, station.view, station.readings
        self._scheduler, self._consumer = scheduler, station.consumer
        webhooks = self._webhooks(clients)
        sender = Sender(context.project, self._settings.owner)
        tellers = [
            Teller(style, webhook, self._settings.webhooks[style], sender)
            for style, webhook in webhooks.items()
        ]
        scheduler.start()
        try:
            await first_of(
                station.consumer.run(),
                self_check.run(),
                DemandWatch(context, lambda: scheduler.wake(SIZES_JOB)).run(),
                keep_offering(context),
                self._resync(fleet),
                station.view.samples.keep(station.view.census),
                *([Notifier(station.view, station.store, tellers).run()] if tellers else ()),
                *(webhook.run() for webhook in webhooks.values()),
                _failure_of(scheduler),
            )
        finally:
            self.context = self.view = self._readings = None
            self._scheduler = self._consumer = self._self_check = None
            await scheduler.cancel()

    def _webhooks(self, clients: Clients) -> dict[str, Webhook]:
        """The webhooks of the settings, by their formats."""
        return {
            style: clients.webhook(style, settings, self._log, self._metrics)
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
            return health.standby(self.leadership.holder, self.leadership.error, self._age())
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
        return str(self._standby() or "the daemon has not loaded its entities yet")

    def _standby(self) -> Standby | None:
        if self.leadership is None or self.leadership.term is not None:
            return None
        return Standby(leader=self.leadership.holder, age=self._age())

    def _age(self) -> float | None:
        """Seconds since the picture of a standby daemon was current; None before it is loaded."""
        return self._follower.age if self._follower is not None else None

    def _looked_at(self) -> dict[str, str]:
        if self.context is None:
            return {}
        found = self.context.conditions.of_job(SELF_CHECK).mine()
        return {str(condition.subject): condition.message for condition in found}

    async def _render_metrics(self) -> bytes:
        found = await self._readings.read() if self._readings is not None else {}
        leads = self.leadership is None or self.leadership.term is not None
        age = 0.0 if self.context is not None else self._age()
        return self._metrics.render(found | checks(self._readiness(), leads=leads, age=age))


async def _failure_of(scheduler: Scheduler[Context]) -> None:
    """Raises what a defect of the scheduler raised; does not end when the scheduler is stopped."""
    await scheduler.wait()
    await asyncio.Event().wait()
