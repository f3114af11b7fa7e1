"""The Machine Provider in one process: leadership, access, and answers to calls.

It knows no HTTP server: the service and the embedded cloud each call `Provider.call` from theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.datastore.leadership import Leadership
from gce_backend.clients.datastore.terms import Term
from gce_backend.clients.exchange import Exchange
from gce_backend.clients.pubsub import PubSub
from gce_backend.machine_provider import api, lease_api
from gce_backend.machine_provider.access.access_tokens import AccessTokens
from gce_backend.machine_provider.access.identity_tokens import IdentityTokens
from gce_backend.machine_provider.access.issuer_keys import IssuerKeys
from gce_backend.machine_provider.access.policy import AccessPolicy
from gce_backend.machine_provider.access.verifier import TokenVerifier
from gce_backend.machine_provider.agent_watch import SILENT_SECONDS, AgentWatch
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.channels import Channels
from gce_backend.machine_provider.gatekeeper import Gatekeeper
from gce_backend.machine_provider.metrics import ProviderMetrics
from gce_backend.machine_provider.schema import check_schema
from gce_backend.machine_provider.standby import Standby

READY_SECONDS = 10.0
"""Seconds that a call waits for a new leader to start."""
DIRECT = frozenset({"catalog.get", "catalog.get_machines", "users.whoami"})
"""Methods that every process answers from the store itself."""
READS = frozenset({"leases.get", "leases.list", "machines.get", "machines.list", "users.list"})
"""Methods that a standby process answers from what it has read of the store.

`demand.get` is not among them: daemons make machines for what it says, so it must not be old.
"""


class Answered(NamedTuple):
    """The outcome of a method.

    Attributes:
        value: plain JSON values; None when there is nothing to say.
        age: seconds since what it says was read; None when it is as of now.
    """

    value: Any
    age: float | None = None


class Provider:
    """The Machine Provider.

    Args:
        datastore: its own namespace in a project's Datastore.
        pubsub: Pub/Sub of that project.
        exchange: asks issuers and Google about callers, without a token of ours.
        tokeninfo: the URL at which Google identifies the owner of an access token.
        policy: returns the policy in force.
        new_id: returns a unique id.
        name: the name of this process.
        pause_seconds: the pause between two checks for work, in seconds.
        takeover_seconds: see `Leadership`.
        metrics: counts what happens.
        require_agent: whether a machine may be leased only while its agent reports.
        agent_silent_seconds: seconds without a report after which an agent is silent.

    Attributes:
        gatekeeper: identifies and allows callers.
        leadership: decides which process leads.
        store: its namespace, for reading.
        leading_store: the same for writing; None while this process stands by.
        working: the catalog and the leases; None while this process stands by.
    """

    def __init__(
        self,
        *,
        datastore: Datastore,
        pubsub: PubSub,
        exchange: Exchange,
        tokeninfo: str,
        policy: Callable[[], AccessPolicy],
        clock: Clock,
        new_id: Callable[[], str],
        name: str,
        pause_seconds: float,
        takeover_seconds: float,
        metrics: ProviderMetrics,
        require_agent: bool = False,
        agent_silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        keys = IssuerKeys(exchange, clock)
        self._verifier = TokenVerifier(
            policy,
            access_tokens=AccessTokens(exchange, tokeninfo, clock),
            keys=keys,
            identity_tokens=IdentityTokens(keys, clock),
        )
        self.gatekeeper = Gatekeeper(
            self._verifier.identify, policy, clock, decided=metrics.decided
        )
        self.leadership = Leadership(
            datastore,
            clock,
            me=name,
            takeover_seconds=takeover_seconds,
            able=lambda: check_schema(datastore),
        )
        self.working: MachineProvider | None = None

        def broker(store: Datastore) -> MachineProvider:
            return MachineProvider(
                store,
                Channels(pubsub),
                clock,
                new_id=new_id,
                pause_seconds=pause_seconds,
                waited=metrics.waited,
                ended=metrics.ended,
                policy=policy,
                agents=AgentWatch(
                    clock, required=require_agent, silent_seconds=agent_silent_seconds
                ),
            )

        self._broker = broker
        self.store = datastore
        self.leading_store: Datastore | None = None
        self._reader = broker(datastore)
        self._standby = Standby(lambda: broker(datastore), clock)
        self._begun = asyncio.Event()

    async def run(self) -> None:
        """Works whenever this process leads, until it is cancelled."""
        await self.leadership.run(self._work)

    async def close(self) -> None:
        """Lets another process take over, and ends calls in flight; `run` must have ended."""
        await self.leadership.release()
        await self._verifier.close()

    def end_waits(self) -> None:
        """Answers the calls that wait for news, so that the process can stop."""
        if self.working is not None:
            self.working.end_waits()

    async def _work(self, term: Term) -> None:
        self.leading_store = self.store.within(term)
        self.working = self._broker(self.leading_store)
        self._standby.forget()
        self._begun.set()
        try:
            await self.working.run()
        finally:
            self.end_waits()
            self.working = self.leading_store = None
            self._begun.clear()

    def unready(self) -> Mapping[str, str]:
        """The problems that keep this process from answering all calls.

        A standby process answers reads and is not ready: a load balancer must not send it others.
        """
        if self.working is not None and self.working.ready.is_set():
            return {}
        if self.leadership.error:
            return {"store": self.leadership.error}
        if self.working is not None:
            return {"store": "it is being read"}
        return {"turn": f"stands by: {self.leadership.holder or 'nobody'} works"}

    async def call(
        self, method: str, authorization: str | None, remote: str, body: Any
    ) -> Answered:
        """Checks the caller and carries a method out.

        Args:
            method: `api.method`.
            authorization: the Authorization header; None without one.
            remote: the address that the call comes from.
            body: unchecked JSON.

        Raises:
            Refusal: the answer is an HTTP error; 503: this process cannot carry it out now.
        """
        try:
            caller = await self.gatekeeper.admit(authorization, method, remote)
            service = api if method in api.METHODS else lease_api
            service.request_of(method, body)  # an invalid request needs no Machine Provider
            broker, age = await self._broker_for(method)
            return Answered(await service.call(broker, caller, method, body), age)
        except api.Refusal:
            raise
        except BackendError as error:
            raise api.Refusal(503, str(error)) from error

    async def _broker_for(self, method: str) -> tuple[MachineProvider, float | None]:
        """What answers a method, and how old its picture is; None when it is as of now."""
        if method in DIRECT:
            return self._reader, None
        if method in READS and self._stands_by:
            return await self._standby.read()
        return await self.started(), None

    @property
    def _stands_by(self) -> bool:
        return self.working is None and bool(self.leadership.holder)

    async def started(self) -> MachineProvider:
        """The catalog and the leases, once the stored state has been read.

        Raises:
            Refusal: 503: this process stands by, or its start takes too long.
        """
        if self._stands_by:
            raise api.Refusal(503, "This process stands by: another one works.")
        try:
            async with asyncio.timeout(READY_SECONDS):
                while self.working is None:
                    await self._begun.wait()
                broker = self.working
                await broker.ready.wait()
                return broker
        except TimeoutError:
            raise api.Refusal(503, "The Machine Provider is still starting.") from None
