"""A daemon with its fleet, in a thread of its own, for commands that bring their own event loop.

Use it for a test of a command that talks to a daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import threading
import time
import urllib.request
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
from gce_backend.daemon.daemon import Daemon
from gce_backend.daemon.local import local_settings, prepare
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.store import Store
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.settings.settings import HttpSettings, Secret, Settings
from support.fleet_harness import CONTROL_TOKEN, PROJECT, manager, template
from support.patience import PATIENCE

T = TypeVar("T")


class ServedFleet:
    """The daemon and its cloud, and the commands that are run against them.

    Attributes:
        cloud: the embedded cloud; to be touched from its own thread.
        daemon: the daemon, likewise.
        config: the directory of templates.cfg and managers.cfg.
        environment: the variables by which a command finds them all.
    """

    def __init__(
        self,
        cloud: Cloud,
        daemon: Daemon,
        config: Path,
        loop: asyncio.AbstractEventLoop,
        stop: asyncio.Event,
    ) -> None:
        self.cloud = cloud
        self.daemon = daemon
        self.config = config
        self._loop = loop
        self._stop = stop
        endpoints = local_settings(Settings(), cloud.base_url, PROJECT, config).endpoints
        self.environment = {
            **{
                f"GCE_BACKEND_ENDPOINTS__{name.upper()}": value
                for name, value in msgspec.structs.asdict(endpoints).items()
            },
            "GCE_BACKEND_PROJECT": PROJECT,
            "GCE_BACKEND_PROVIDER__URL": cloud.base_url,
            "GCE_BACKEND_CONFIG__SOURCE": "directory",
            "GCE_BACKEND_CONFIG__DIRECTORY": str(config),
            "GCE_BACKEND_URL": daemon.url,
        }

    def run(self, *arguments: str, **environment: str) -> Result:
        """Runs a command."""
        variables = {**self.environment, **environment}
        return CliRunner().invoke(main, list(arguments), env=variables)

    def json(self, *arguments: str, **environment: str) -> Any:
        """What a command prints with `--json`."""
        done = self.run(*arguments, "--json", **environment)
        return msgspec.json.decode(done.stdout)

    def get(self, path: str) -> Any:
        """A JSON document of the cloud."""
        url = self.cloud.base_url + path
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:  # noqa: S310
            return msgspec.json.decode(response.read())

    def order(self, path: str, **body: str | bool) -> None:
        """Gives the daemon an order, which it has carried out afterwards."""
        request = urllib.request.Request(  # noqa: S310
            self.environment["GCE_BACKEND_URL"] + path,
            msgspec.json.encode(body),
            {"Authorization": f"Bearer {CONTROL_TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
            assert response.status == 200

    def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Does something where daemon and cloud live."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout=PATIENCE)

    def write(self, templates: str, managers: str) -> None:
        """Replaces the configuration."""
        (self.config / "templates.cfg").write_text(templates)
        (self.config / "managers.cfg").write_text(managers)

    def until(self, condition: Callable[[], bool], within: float = PATIENCE) -> None:
        """Waits until something holds."""
        end = time.monotonic() + within
        while not condition():
            assert time.monotonic() < end, self.run("status").output
            time.sleep(0.05)

    def machines(self) -> dict[str, str]:
        """The machines that the daemon knows, and their states."""

        async def look() -> dict[str, str]:
            context = self.daemon.context
            if context is None:
                return {}
            return {key.name: one.catalog.value for key, one in context.fleet.instances.items()}

        return self.ask(look)

    def close(self) -> None:
        """Ends both."""
        self._loop.call_soon_threadsafe(self._stop.set)


@contextlib.contextmanager
def served_fleet(config: Path, *, machines: int = 3) -> Iterator[ServedFleet]:
    """Serves a fleet of one template while the block lasts; its machines are in the catalog.

    Args:
        config: where its configuration is written.
        machines: how many.
    """
    (config / "templates.cfg").write_text(template())
    (config / "managers.cfg").write_text(manager(minimum=machines))
    ready: Future[ServedFleet] = Future()

    async def serve() -> None:
        stop, clock = asyncio.Event(), SystemClock()
        options = msgspec.structs.replace(CloudOptions().instant(), config_dir=config)
        cloud = embedded_cloud(None, clock, options)
        url = await cloud.start()
        http = HttpSettings(port=0, token=Secret(CONTROL_TOKEN))
        settings = local_settings(Settings(http=http), url, PROJECT, config)
        clients = Clients(settings, clock, random.Random(0), Metrics())
        store, pubsub = Store(clients.datastore(PROJECT)), clients.pubsub(PROJECT)
        assert not await prepare(store, pubsub, settings, url)
        await clients.close()
        daemon = Daemon(settings, clock=clock, rng=random.Random(1))
        await daemon.start()
        ready.set_result(ServedFleet(cloud, daemon, config, asyncio.get_running_loop(), stop))
        await stop.wait()
        await daemon.abort()
        await cloud.close()

    logs = structlog.get_config()  # the daemon's log is not to get into what commands print
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="served-fleet")
    thread.start()
    try:
        fleet = ready.result(timeout=PATIENCE)
        fleet.until(lambda: list(fleet.machines().values()) == ["cataloged"] * machines)
        yield fleet
    finally:
        if ready.done() and ready.exception() is None:
            ready.result().close()
        thread.join(timeout=PATIENCE)
        structlog.configure(**logs)
