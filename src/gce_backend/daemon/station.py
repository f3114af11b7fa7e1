"""What a daemon works with once it has a picture: the jobs' context, and what is told of it.

A daemon that stands by has it as well: it shows the picture, and runs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gce_backend.base.clock import Clock
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.daemon.clients import Clients, Remotes
from gce_backend.engine.context import OPERATOR, Context
from gce_backend.engine.inbox import Consumer
from gce_backend.engine.machine_sizes import ComputeSizes
from gce_backend.engine.metrics import Metrics
from gce_backend.engine.rotation import Turns
from gce_backend.engine.scheduler import Scheduler
from gce_backend.fleet.conditions import Conditions
from gce_backend.fleet.history import History
from gce_backend.fleet.memory import Memory
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.loops import JOBS
from gce_backend.settings.settings import Settings
from gce_backend.web.documents.gauges import Readings
from gce_backend.web.survey.census import Census
from gce_backend.web.survey.samples import Samples
from gce_backend.web.survey.view import Standby, View

MESSAGES_JOB = "process-pubsub-messages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Everything that a daemon works with.

    Attributes:
        store: where the entities live.
        fleet: the picture of them.
        context: what jobs are given.
        scheduler: runs the jobs.
        consumer: pulls messages.
        view: what documents and pages show.
        readings: the gauges.
    """

    store: Store
    fleet: Fleet
    context: Context
    scheduler: Scheduler[Context]
    consumer: Consumer
    view: View
    readings: Readings


def build(
    *,
    project: str,
    settings: Settings,
    clients: Clients,
    store: Store,
    fleet: Fleet,
    clock: Clock,
    rng: random.Random,
    new_id: Callable[[], str],
    metrics: Metrics,
    log: Any,
    standby: Callable[[], Standby | None],
) -> Station:
    """Builds a station; nothing is called, and nothing runs.

    Args:
        project: the project of Datastore and Pub/Sub.
        standby: says that the daemon stands by; None while it leads.
    """
    history = History(
        store,
        clock,
        max_age=settings.history.max_age_days * 86400,
        max_events=settings.history.max_events,
    )
    budget = CallBudget(clock, dict.fromkeys(QuotaGroup, settings.compute.calls_per_minute))
    compute = clients.compute(budget)
    remotes = Remotes(
        session=clients.session,
        tokens=clients.identity,
        settings=settings,
        fleet=fleet,
        observer=metrics,
    )
    consumer = Consumer(
        clients.pubsub(project),
        settings.pubsub.subscription,
        clock=clock,
        max_messages=settings.pubsub.max_messages,
        queue_size=settings.pubsub.queue_size,
        ack_deadline=settings.pubsub.ack_deadline_seconds,
        arrived=lambda: scheduler.wake(MESSAGES_JOB),
    )
    context = Context(
        project=project,
        settings=settings,
        clock=clock,
        rng=rng,
        new_id=new_id,
        fleet=fleet,
        memory=Memory(),
        conditions=Conditions(clock, rng, OPERATOR),
        compute=compute,
        sizes=ComputeSizes(compute),
        broker=remotes.broker,
        source=remotes.source,
        inbox=consumer,
        archive=history,
        turns=Turns(),
        phantom_turns=Turns(),
        listing_turns=Turns(),
        metrics=metrics,
        log=log,
    )
    context.memory.hear(fleet.control)
    scheduler = Scheduler(
        JOBS,
        context.of_job,
        clock=clock,
        ended=metrics.job_run,
        log=log,
        overrides=settings.jobs,
    )
    view = View(
        context=context,
        history=history,
        scheduler=scheduler,
        queue=consumer.status,
        budget=budget,
        census=Census(context),
        samples=Samples(clock),
        standby=standby,
    )
    readings = Readings(context, view.census, consumer=consumer, scheduler=scheduler, budget=budget)
    return Station(
        store=store,
        fleet=fleet,
        context=context,
        scheduler=scheduler,
        consumer=consumer,
        view=view,
        readings=readings,
    )
