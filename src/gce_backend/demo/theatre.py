"""A cloud and a daemon of the story's own."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.tasks import first_of
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.daemon import Daemon
from gce_backend.daemon.local import local_settings, prepare
from gce_backend.demo import configuration
from gce_backend.demo.configuration import LARGE, SMALL
from gce_backend.demo.show import Show
from gce_backend.demo.stage import DemoFailedError, Stage
from gce_backend.demo.story import tell
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.store import Store
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import (
    JOB_NAMES,
    DeletionSettings,
    HttpSettings,
    JobSettings,
    RolloutSettings,
    Secret,
    Settings,
)

EVERY_SECOND = "* * * * * *"
PACE = CloudOptions(operation_seconds=1.0, boot_seconds=5.0, delete_seconds=2.5)
"""With these latencies the story takes about a minute."""
QUICK = CloudOptions(
    operation_seconds=0.1, boot_seconds=0.4, delete_seconds=0.2, dispatch_seconds=0.1
)


def demo_settings(cloud_url: str, project: str, config_dir: Path, *, token: str) -> Settings:
    """The settings of the story's daemon: as always, but with shorter waits.

    Args:
        cloud_url: where the embedded cloud listens.
        config_dir: the directory of templates.cfg and managers.cfg.
        token: what orders must carry.
    """
    settings = Settings(
        http=HttpSettings(port=0, token=Secret(token)),
        jobs={name: JobSettings(cron=EVERY_SECOND) for name in JOB_NAMES},
        deletion=DeletionSettings(tombstone_seconds=2.0, window_seconds=2.0, repeat_seconds=20.0),
        rollout=RolloutSettings(empty_seconds=1.0),
        shutdown_seconds=5.0,
    )
    return local_settings(settings, cloud_url, project, config_dir)


async def perform(
    show: Show, directory: Path, *, options: CloudOptions, clock: Clock, rng: random.Random
) -> None:
    """Plays the story in a new cloud.

    Args:
        show: what people see.
        directory: where state and configuration are kept.
        options: how the cloud behaves.
        clock: the time of cloud and daemon.

    Raises:
        DemoFailedError: something was not as it must be.
        BackendError: the cloud or the daemon could not be started.
    """
    config_dir = directory / "config"
    config_dir.mkdir()
    options = msgspec.structs.replace(options, config_dir=config_dir)
    configuration.write(config_dir, options.project, (SMALL, LARGE))
    token = f"{rng.getrandbits(128):032x}"
    cloud = embedded_cloud(directory / "cloud.sqlite", clock, options)
    url = await cloud.start()
    try:
        settings = demo_settings(url, options.project, config_dir, token=token)
        await _prepare(settings, clock, rng, url)
        daemon = Daemon(settings, clock=clock, rng=rng)
        await daemon.start()
        try:
            async with Stage(
                cloud_url=url,
                fleet_url=lambda: daemon.url,
                project=options.project,
                config_dir=config_dir,
                token=token,
                show=show,
            ) as stage:
                await first_of(tell(stage), daemon.wait(), cloud.wait())
        finally:
            await daemon.abort()
    finally:
        await cloud.close()


async def _prepare(settings: Settings, clock: Clock, rng: random.Random, url: str) -> None:
    clients = Clients(settings, clock, rng, Metrics())
    try:
        project = await clients.project()
        store, pubsub = Store(clients.datastore(project)), clients.pubsub(project)
        for step in await prepare(store, pubsub, settings, url):
            raise DemoFailedError(f"{step.what}: {step.outcome}: {step.remedy}")
    finally:
        await clients.close()
