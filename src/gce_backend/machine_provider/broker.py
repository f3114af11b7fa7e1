"""The Machine Provider put together from its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gce_backend import __version__
from gce_backend.base.clock import Clock
from gce_backend.base.errors import RemoteError, SchemaError
from gce_backend.clients.datastore.client import Datastore
from gce_backend.machine_provider.access.policy import AccessPolicy, LeaseLimits
from gce_backend.machine_provider.agent_watch import AgentWatch
from gce_backend.machine_provider.catalog import Catalog
from gce_backend.machine_provider.channels import Channels
from gce_backend.machine_provider.lease_changes import LeaseChanges
from gce_backend.machine_provider.leases import Leases
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.schema import migrate_schema
from gce_backend.machine_provider.trends import Trends
from gce_backend.machine_provider.upkeep import Lifecycle
from gce_backend.machine_provider.waiting import Waits

LOAD_PAUSE_SECONDS = 0.5

log = structlog.stdlib.get_logger()


class MachineProvider:
    """A Machine Provider; one per Datastore namespace at a time.

    Args:
        datastore: its own namespace of a project's Datastore.
        channels: its Pub/Sub.
        pause_seconds: the pause between two checks for work, in seconds.
        waited: called with the seconds that a request waited for its machine.
        ended: called with the reason when a lease ends, or when a request stops waiting.
        policy: returns the policy in force.
        agents: knows which machines' agents report.

    Attributes:
        policy: as in the arguments.
        catalog: the machines.
        leases: the lease requests.
        changes: what lessees and administrators change about leases.
        records: the stored state.
        waits: why requests wait.
        trends: what the machines and the queue were like in the last hours.
        ready: set when the stored state has been read.
        ending: whether calls that wait are to be answered now.
    """

    def __init__(
        self,
        datastore: Datastore,
        channels: Channels,
        clock: Clock,
        *,
        new_id: Callable[[], str],
        pause_seconds: float,
        waited: Callable[[float], None],
        ended: Callable[[str], None],
        policy: Callable[[], AccessPolicy],
        agents: AgentWatch,
    ) -> None:
        self._datastore = datastore
        self.policy = policy
        self.records = Records(datastore, agents, ended)
        self.catalog = Catalog(self.records, new_id=new_id)
        self.trends = Trends(clock, datastore)

        def noted(seconds: float) -> None:
            waited(seconds)
            self.trends.waited(seconds)

        self.leases = Leases(
            self.records, clock, project=channels.project, waited=noted, limits_of=self._limits_of
        )
        self.changes = LeaseChanges(self.records, clock)
        self.waits = Waits(self.records, self.leases, clock)
        self.clock = clock
        self.ready = asyncio.Event()
        self.ending = False
        self._lifecycle = Lifecycle(
            self.records, self.leases, channels, self.trends, clock, pause_seconds=pause_seconds
        )

    def _limits_of(self, name: str) -> LeaseLimits:
        group = self.policy().group(name)
        return group.limits if group is not None else LeaseLimits()

    def end_waits(self) -> None:
        """Answers the calls that wait for news, and lets none wait from now on."""
        self.ending = True
        self.records.end_watches()

    async def run(self) -> None:
        """Brings the store up to date, reads it, then works until it is cancelled."""
        while not self.ready.is_set():
            try:
                schema = await migrate_schema(self._datastore, __version__)
                if schema.before != schema.after:
                    log.info("machine_provider.migrated", before=schema.before, after=schema.after)
                await self.records.load()
                await self.trends.load()
                self.ready.set()
            except (RemoteError, SchemaError) as error:
                log.warning("machine_provider.not_loaded", error=str(error))
                await asyncio.sleep(LOAD_PAUSE_SECONDS)
        await self._lifecycle.run()
