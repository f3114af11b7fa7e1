"""What a job gets: the picture, the clients, the clock; nothing that it could create itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from gce_backend.base.clock import Clock
from gce_backend.clients.config_source import ConfigSource
from gce_backend.clients.machine_provider import MachineProviderClient
from gce_backend.engine.inbox import Consumer
from gce_backend.engine.machine_sizes import ComputeSizes
from gce_backend.engine.metrics import Metrics
from gce_backend.engine.rotation import Turns
from gce_backend.fleet.conditions import Condition, Conditions
from gce_backend.fleet.history import History
from gce_backend.fleet.memory import Memory
from gce_backend.fleet.picture import Fleet
from gce_backend.gce_client import ComputeClient
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.model.keys import GroupKey, Key, MachineKey
from gce_backend.settings.settings import Settings

OPERATOR = "operator"
"""The job's name in the context of pages and of orders."""
SELF_CHECK = "self-check"
"""The job's name in the context of the daemon's self-check."""
PAUSED = "Paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that a job may use, bound to that job.

    Attributes:
        job: the name of the job that has it; OPERATOR for pages and orders.
        project: the project of Datastore and Pub/Sub.
        new_id: makes a request id, a UUID.
        fleet: the picture of all entities.
        memory: what was last seen and is not stored.
        conditions: the conditions of all jobs; a job sets and ends its own.
        compute: the Compute Engine client.
        sizes: machines' and disks' sizes.
        broker: the Machine Provider, at the address that its entity names.
        source: where configuration comes from, at the address that its entity names.
        inbox: the Machine Provider's messages.
        archive: what happened, to be kept within bounds.
        turns: the order of machines in the lease sweep.
        phantom_turns: the order of deleted machines in it.
        listing_turns: the order in which unchanged groups have their members listed.
        metrics: counts.
        log: the log; each line names the job.
    """

    job: str = OPERATOR
    project: str
    settings: Settings
    clock: Clock
    rng: random.Random
    new_id: Callable[[], str]
    fleet: Fleet
    memory: Memory
    conditions: Conditions
    compute: ComputeClient
    sizes: ComputeSizes
    broker: Callable[[], MachineProviderClient]
    source: Callable[[], ConfigSource]
    inbox: Consumer
    archive: History
    turns: Turns[MachineKey]
    phantom_turns: Turns[MachineKey]
    listing_turns: Turns[GroupKey]
    metrics: Metrics
    log: structlog.stdlib.BoundLogger

    def of_job(self, job: str) -> Context:
        """The same context, bound to the job of that name."""
        conditions, log = self.conditions.of_job(job), self.log.bind(job=job)
        return replace(self, job=job, conditions=conditions, log=log)

    @property
    def paused(self) -> bool:
        """Whether the daemon must change nothing: the one switch.

        It is also True while the stored orders cannot be read, because they may hold a pause.
        """
        unheard = CONTROL_KEY in self.fleet.corrupt
        return unheard or not self.settings.actuate or self.fleet.control.paused

    def is_paused(self, key: Key) -> bool:
        """Whether this entity's resource must not be changed now."""
        control = self.fleet.control
        return self.paused or any(pause.covers(key) for pause in control.pauses)

    def conditions_of(self, key: Key) -> tuple[Condition, ...]:
        """The conditions of an entity, and the pauses that hold it."""
        moment = self.clock.monotonic()
        pauses = tuple(
            Condition(
                subject=key,
                job=OPERATOR,
                reason=PAUSED,
                message=f"{pause}",
                since=pause.since,
                failures=0,
                retry_at=moment,
            )
            for pause in self.fleet.control.pauses_in_force
            if pause.covers(key)
        )
        return (*self.conditions.of(key), *pauses)
