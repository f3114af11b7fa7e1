"""The Machine Provider's processes, and the load balancer before them.

The embedded cloud serves the Machine Provider's paths, so that what is wrong with calls strikes
them as any other call; what answers is the service of `gce-backend machine-provider`, in one
process or two. The balancer looks every few seconds which of them is ready. A call to a process
that is paused waits, and one to a process that dies is answered with 502, as a proxy does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from gce_backend.base.errors import BackendError
from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.machine_provider import ACCESS, MachineProviderService
from gce_backend.localcloud.metadata import OAUTH_CLIENT
from gce_backend.localcloud.statuses import ServiceError
from gce_backend.machine_provider.api import Refusal
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.provider import Answered, Provider
from gce_backend.machine_provider.service import ProviderService
from gce_backend.settings.settings import ProviderSettings, Settings
from simulation.loop import Process, SimulatedLoop
from simulation.network import MemoryConnector
from simulation.nodes import ProviderNode, WorldClock
from support.simulation import ProcessClock

LOOK_SECONDS = 5.0
"""How often the balancer looks who is ready."""
TAKEOVER_SECONDS = 60.0
"""As in the settings, but longer: heartbeats are most of what an idle Machine Provider asks."""
WAIT_SECONDS = 60.0
"""How long somebody waits for an answer."""


class Providers:
    """The Machine Provider.

    Args:
        loop: the loop that it runs on.
        seed: names all chance in it.
        cloud: the embedded cloud, before it starts.
        folder: where access.cfg is written.
        number: how many processes.

    Attributes:
        nodes: where they run.
        starts: how many processes were started until now.
    """

    def __init__(
        self, loop: SimulatedLoop, seed: str, cloud: Cloud, folder: Path, number: int
    ) -> None:
        self.nodes = [ProviderNode(f"m{n}", WorldClock(loop)) for n in range(1, number + 1)]
        self.starts = 0
        self._loop = loop
        self._seed = seed
        self._cloud = cloud
        self._access = folder / "access.cfg"
        self._settings = Settings()
        self._ready: list[ProviderNode] = []
        self._ends: dict[Process, asyncio.Future[None]] = {}
        [served] = [one for one in cloud._services if isinstance(one, MachineProviderService)]
        served.run = self._balance  # type: ignore[method-assign]  # its place is this one's
        served._made_provider = self._front  # type: ignore[method-assign, assignment]

    def prepare(self, settings: Settings) -> None:
        """Writes access.cfg; `settings` are a daemon's, with this cloud's addresses."""
        cloud = self._cloud
        text = ACCESS.format(url=cloud.base_url, account=cloud.own_account, client=OAUTH_CLIENT)
        if random.Random(f"{self._seed} access").random() < 0.5:
            text = text.replace("max_held: 10\n", 'max_held: 10\n  hold_failed: "20m"\n')
        self._access.write_text(text)
        self._settings = msgspec.structs.replace(
            settings,
            provider=ProviderSettings(
                port=0,
                access=self._access,
                takeover_seconds=TAKEOVER_SECONDS,
                pause_seconds=cloud.options.dispatch_seconds,
            ),
        )

    async def start(self, node: ProviderNode) -> None:
        """Starts a process; it knows only what the store holds."""
        if node.is_up:
            return
        self.starts += 1
        process = Process(node.name)
        with process.entered():
            node.service = ProviderService(
                self._settings,
                clock=ProcessClock(node.clock),
                rng=random.Random(f"{self._seed} provider {self.starts}"),
                connector=lambda: MemoryConnector(self._loop.network, node.name),
            )
            node.process = process
            self._ends[process] = self._loop.create_future()
            await node.service.start()

    def ended(self, node: ProviderNode) -> None:
        """A process is dead: whoever waits for its answer learns it."""
        end = self._ends.pop(node.process, None) if node.process is not None else None
        if end is not None and not end.done():
            end.set_result(None)

    async def ask(self, work: Callable[[MachineProvider], Awaitable[Any]]) -> Any:
        """What the Machine Provider answers to its operators; None when it cannot."""

        async def asked(provider: Provider) -> Any:
            return await work(await provider.started())

        return await self._answer(asked)

    async def call(self, name: str, token: str, body: Any) -> Any:
        """What it answers to somebody with a token, None when it cannot.

        Args:
            name: the method, `service.resource.method`.
            body: the request.
        """

        async def asked(provider: Provider) -> Any:
            return (await provider.call(name, f"Bearer {token}", "127.0.0.1", body)).value

        return await self._answer(asked)

    async def _answer(self, work: Callable[[Provider], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await self._carry_out(work)
        except (BackendError, ServiceError, Refusal, TimeoutError):
            return None

    # The balancer

    async def _balance(self) -> None:
        while True:
            self._ready = [node for node in self.nodes if node.is_ready]
            await asyncio.sleep(LOOK_SECONDS)

    async def _front(self) -> Front:
        return Front(self._carry_out)

    async def _carry_out(self, work: Callable[[Provider], Awaitable[Any]]) -> Any:
        """Does something in the process that works.

        Raises:
            ServiceError: 502, 503: there is none, or it dies.
            Refusal: it refuses.
            BackendError: it cannot.
        """
        node = next((node for node in self._ready if node.is_up), None)
        service = node.service if node is not None else None
        if node is None or node.process is None or service is None or service.provider is None:
            raise ServiceError(503, "backendError", "No process of the Machine Provider is ready.")
        with node.process.entered():
            task = self._loop.create_task(_done(work(service.provider)))
        await asyncio.wait((task, self._ends[node.process]), return_when="FIRST_COMPLETED")
        if not task.done():
            raise ServiceError(502, "backendError", "The process of the Machine Provider is gone.")
        return task.result()


async def _done(work: Awaitable[Any]) -> Any:
    return await work


class Front:
    """What the embedded cloud calls in place of a Machine Provider of its own."""

    def __init__(self, carry_out: Callable[[Callable[[Provider], Awaitable[Any]]], Any]) -> None:
        self._carry_out = carry_out

    async def call(self, name: str, authorization: str | None, remote: str, body: Any) -> Answered:
        """Carries a method out in the process that works."""
        answered: Answered = await self._carry_out(
            lambda provider: provider.call(name, authorization, remote, body)
        )
        return answered
