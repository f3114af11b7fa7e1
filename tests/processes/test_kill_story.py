"""Kill -9 of the daemon, twenty times at random moments, while the demo's whole story goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from gce_backend.base.clock import SystemClock
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.local import local_settings, prepare
from gce_backend.demo import configuration
from gce_backend.demo.configuration import LARGE, SMALL
from gce_backend.demo.stage import Stage
from gce_backend.demo.story import tell
from gce_backend.demo.theatre import QUICK
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.store import Store
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.settings.settings import JOB_NAMES, Settings
from processes.running import PROJECT, Command
from support.patience import PATIENCE

KILLS = 20
SEED = 20
LIFE_SECONDS = 1.2
"""How long a daemon lives at most, most often counted from when it listens."""
STILLBORN = 0.2
"""Share of the daemons whose life is counted from their start."""
TOKEN = "for-the-story-alone"


class Quiet:
    """Shows nothing, and keeps what was verified."""

    def __init__(self) -> None:
        self.facts: list[str] = []

    def chapter(self, title: str) -> None:
        """A chapter begins."""

    def fact(self, text: str) -> None:
        """Something was verified."""
        self.facts.append(text)

    def see(self, counts: Mapping[str, int]) -> None:
        """What there is at the moment."""


def _environment(cloud_url: str, config_dir: Path) -> dict[str, str]:
    """The story's settings: as always, but with shorter waits."""
    crons = {
        f"GCE_BACKEND_JOBS__{name.upper().replace('-', '_')}__CRON": "* * * * * *"
        for name in JOB_NAMES
    }
    return {
        **crons,
        "GCE_BACKEND_PROJECT": PROJECT,
        "GCE_BACKEND_ENDPOINTS__COMPUTE": f"{cloud_url}/compute/v1/",
        "GCE_BACKEND_ENDPOINTS__DATASTORE": f"{cloud_url}/v1",
        "GCE_BACKEND_ENDPOINTS__PUBSUB": f"{cloud_url}/v1",
        "GCE_BACKEND_ENDPOINTS__METADATA": cloud_url,
        "GCE_BACKEND_CONFIG__SOURCE": "directory",
        "GCE_BACKEND_CONFIG__DIRECTORY": str(config_dir),
        "GCE_BACKEND_HTTP__PORT": "0",
        "GCE_BACKEND_HTTP__TOKEN": TOKEN,
        "GCE_BACKEND_PUBSUB__ACK_DEADLINE_SECONDS": "10",
        "GCE_BACKEND_DELETION__TOMBSTONE_SECONDS": "2",
        "GCE_BACKEND_DELETION__WINDOW_SECONDS": "2",
        "GCE_BACKEND_DELETION__REPEAT_SECONDS": "5",
        "GCE_BACKEND_ROLLOUT__EMPTY_SECONDS": "1",
    }


class Impatient(Command):
    """A daemon that lets an addition that a kill cut off go soon, not after five minutes."""

    settling_seconds = 3.0


class Mortal:
    """A daemon that is killed and started again.

    Args:
        directory: for its log.
        environment: its settings.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.kills = 0
        self._directory = directory
        self._environment = environment
        self._url = ""
        self._start()

    def _start(self) -> None:
        self._url = ""
        self._command = Impatient(self._directory, "daemon", "run", **self._environment)

    def url(self) -> str:
        """Where it listens now; "" while it does not."""
        if not self._url:
            started = self._command.events("daemon.started")
            self._url = started[0]["url"] if started else ""
        return self._url

    async def die_again_and_again(self, rng: random.Random) -> None:
        """Kill -9 at random moments, each time followed by another process."""
        while self.kills < KILLS:
            stillborn = rng.random() < STILLBORN
            while not stillborn and not self.url():
                assert self._command.is_running, "it must not end by itself"
                await asyncio.sleep(0.05)
            await asyncio.sleep(rng.uniform(0.0, LIFE_SECONDS))
            assert self._command.is_running, "it must not end by itself"
            self._command.kill()
            self.kills += 1
            self._start()

    def end(self) -> None:
        """Kills it for the last time."""
        self._command.kill()


async def _prepare(cloud_url: str, config_dir: Path) -> None:
    settings = local_settings(Settings(), cloud_url, PROJECT, config_dir)
    clients = Clients(settings, SystemClock(), random.Random(0), Metrics())
    try:
        store, pubsub = Store(clients.datastore(PROJECT)), clients.pubsub(PROJECT)
        assert not await prepare(store, pubsub, settings, cloud_url)
    finally:
        await clients.close()


@pytest.mark.real_time
async def test_a_daemon_killed_twenty_times_tells_the_whole_story(tmp_path: Path) -> None:
    """Fleet, leases, replacement, roll-out, removal: all verified, no leased machine touched."""
    config_dir = tmp_path / "config"
    config_dir.mkdir()
    configuration.write(config_dir, PROJECT, (SMALL, LARGE))
    options = msgspec.structs.replace(QUICK, config_dir=config_dir)
    cloud = embedded_cloud(tmp_path / "cloud.sqlite", SystemClock(), options)
    url = await cloud.start()
    show = Quiet()
    try:
        await _prepare(url, config_dir)
        daemon = Mortal(tmp_path, _environment(url, config_dir))
        dying = asyncio.create_task(daemon.die_again_and_again(random.Random(SEED)), name="dying")
        try:
            async with Stage(
                cloud_url=url,
                fleet_url=daemon.url,
                project=PROJECT,
                config_dir=config_dir,
                token=TOKEN,
                show=show,
                patience=PATIENCE,
            ) as stage:
                await tell(stage)
            assert dying.done(), "the story was over before the last kill"
            dying.result()
        finally:
            dying.cancel()
            daemon.end()
    finally:
        await cloud.close()
    assert daemon.kills == KILLS
    assert len(show.facts) >= 6, "every chapter verified something"
