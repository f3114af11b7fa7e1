"""An embedded cloud in a thread of its own, for commands that bring their own event loop.

Use it for a test of a command that talks to the cloud and needs no daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from click.testing import CliRunner, Result

from gce_backend.base.clock import SystemClock
from gce_backend.cli import main
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.local import local_settings
from gce_backend.engine.metrics import Metrics
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.settings.settings import Settings
from support.patience import PATIENCE

PROJECT = "local-project"
ACCOUNT = f"gce-backend@{PROJECT}.iam.gserviceaccount.com"
"""Whose credentials it gives."""

T = TypeVar("T")


class ServedCloud:
    """The cloud.

    Attributes:
        cloud: itself; to be touched from its own thread, or while nobody calls it.
        url: where it listens.
        environment: the variables by which a command finds it.
    """

    def __init__(self, cloud: Cloud, url: str) -> None:
        self.cloud = cloud
        self.url = url
        endpoints = local_settings(Settings(), url, PROJECT, Path()).endpoints
        self.environment = {
            f"GCE_BACKEND_ENDPOINTS__{name.upper()}": value
            for name, value in msgspec.structs.asdict(endpoints).items()
        }

    def ask(self, work: Callable[[Clients], Coroutine[Any, Any, T]]) -> T:
        """Does something with clients of its own, in an event loop of its own."""

        async def act() -> T:
            settings = local_settings(Settings(), self.url, PROJECT, Path())
            clients = Clients(settings, SystemClock(), random.Random(0), Metrics())
            try:
                return await work(clients)
            finally:
                await clients.close()

        return asyncio.run(act())

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        """Runs a command against it.

        Args:
            answer: what somebody types.
        """
        return CliRunner().invoke(main, list(arguments), env=self.environment, input=answer)


def _soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)


@contextlib.contextmanager
def served_cloud(options: CloudOptions | None = None) -> Iterator[ServedCloud]:
    """Serves a cloud while the block lasts; by default one without latencies."""
    ready: Future[ServedCloud] = Future()
    ended: Future[Callable[[], None]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended.set_result(lambda: _soon(loop, stop))
        cloud = embedded_cloud(None, SystemClock(), options or CloudOptions().instant())
        ready.set_result(ServedCloud(cloud, await cloud.start()))
        await stop.wait()
        await cloud.close()

    # The cloud runs in this process: what it logs must not be among what a command prints.
    logging_as_before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="served-cloud")
    thread.start()
    try:
        yield ready.result(timeout=PATIENCE)
    finally:
        ended.result(timeout=PATIENCE)()
        thread.join(timeout=PATIENCE)
        structlog.configure(**logging_as_before)
