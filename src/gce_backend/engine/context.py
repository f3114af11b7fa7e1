"""What a job is given: the picture, the clients, the clock; nothing that it could make itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from gce_backend.base.clock import Clock
from gce_backend.clients.config_source import ConfigBundle
from gce_backend.clients.machine_provider import MachineProviderClient
from gce_backend.clients.pubsub import Received
from gce_backend.configuration.types import TemplateConfig
from gce_backend.engine.metrics import Metrics
from gce_backend.engine.rotation import Turns
from gce_backend.fleet.conditions import Condition, Conditions
from gce_backend.fleet.memory import World
from gce_backend.fleet.picture import Fleet
from gce_backend.gce_client import ComputeClient
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.model.keys import Key
from gce_backend.rules.catalog_entry import Shape
from gce_backend.settings.settings import Settings

OPERATOR = "operator"
"""Stands where a condition that no job has met names its job."""
PAUSED = "Paused"


class ConfigSource(Protocol):
    """Where configuration comes from."""

    async def fetch(self, known_revision: str | None) -> ConfigBundle | None:
        """The present configuration, all of it from one revision; None when it is `known_revision`.

        Raises:
            RemoteError: it could not be read.
            SettingsError: it is not said where to read it.
        """
        ...


class Sizes(Protocol):
    """The sizes of machines and disks, as Compute knows them."""

    async def shape(self, template: TemplateConfig, zone: str) -> Shape:
        """A machine's CPUs and memory, from its machine type.

        Raises:
            RemoteError: Compute could not be asked.
        """
        ...

    async def disk_gb(self, template: TemplateConfig) -> int:
        """The boot disk's size in GB: configured, or the image's or snapshot's own.

        Raises:
            RemoteError: Compute could not be asked.
        """
        ...


class Inbox(Protocol):
    """Messages that were pulled and wait for a job."""

    def take(self, limit: int) -> list[Received]:
        """Takes messages to work on; each comes back through one of the other two."""
        ...

    async def acknowledge(self, messages: Sequence[Received]) -> None:
        """Says that the effect of these is durable."""
        ...

    def give_back(self, messages: Iterable[Received]) -> None:
        """Puts these back, to be worked on again."""
        ...


class Archive(Protocol):
    """What happened, in the store."""

    async def trim(self) -> int:
        """Removes what is beyond the bounds, seldom; returns how many pages.

        Raises:
            RemoteError: the store could not be reached.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that a job may use.

    Attributes:
        project: the project of Datastore and Pub/Sub.
        settings: the process settings.
        clock: the time.
        rng: randomness.
        new_id: makes a request id, a UUID.
        fleet: the picture of all entities.
        world: what was last seen at Compute.
        conditions: what cannot go on, and why.
        compute: the Compute Engine client.
        sizes: machines' and disks' sizes.
        broker: the Machine Provider, at the address that its entity names.
        source: where configuration comes from, at the address that its entity names.
        inbox: the Machine Provider's messages.
        archive: what happened, to be kept within bounds.
        turns: whose turn it is in the lease sweep.
        listing_turns: whose turn it is to have its members listed although nothing changed.
        metrics: counts.
        log: for what an operator wants to find later.
    """

    project: str
    settings: Settings
    clock: Clock
    rng: random.Random
    new_id: Callable[[], str]
    fleet: Fleet
    world: World
    conditions: Conditions
    compute: ComputeClient
    sizes: Sizes
    broker: Callable[[], MachineProviderClient]
    source: Callable[[], ConfigSource]
    inbox: Inbox
    archive: Archive
    turns: Turns
    listing_turns: Turns
    metrics: Metrics
    log: structlog.stdlib.BoundLogger

    @property
    def paused(self) -> bool:
        """Whether nothing that changes the world may be done: the one switch.

        So it is, too, while what operators have ordered cannot be understood: it may be a pause.
        """
        unheard = CONTROL_KEY in self.fleet.corrupt
        return unheard or not self.settings.actuate or self.fleet.control.paused

    def is_paused(self, key: Key) -> bool:
        """Whether nothing may be done now that changes what this entity stands for."""
        control = self.fleet.control
        return self.paused or any(pause.covers(key) for pause in control.pauses)

    def conditions_of(self, key: Key) -> tuple[Condition, ...]:
        """What keeps an entity from going on: what jobs have met, and pauses."""
        subject, moment = str(key), self.clock.monotonic()
        pauses = tuple(
            Condition(
                subject=subject,
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
        return (*self.conditions.of(subject), *pauses)
