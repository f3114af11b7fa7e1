"""A second daemon on the same cloud: same owner, same Machine Provider, its own store and inbox.

Use it for what two daemons that know nothing of each other do to each other.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gce_backend.daemon.daemon import Daemon
from gce_backend.settings.settings import Settings
from support.fleet_harness import World, prepare

NAMESPACE = "second"


class Second:
    """The second daemon, which reads a copy of the first one's configuration.

    Attributes:
        daemon: itself.
        settings: its settings.
        config_dir: where its configuration lies.
    """

    def __init__(self, w: World, directory: Path) -> None:
        self.config_dir = directory
        replace = msgspec.structs.replace
        self.settings: Settings = replace(
            w.settings,
            store=replace(w.settings.store, namespace=NAMESPACE),
            pubsub=replace(w.settings.pubsub, topic=NAMESPACE, subscription=NAMESPACE),
            config=replace(w.settings.config, directory=directory),
        )
        self.daemon = Daemon(self.settings, clock=w.clock, rng=random.Random(77))

    def write_config(self, templates: str, managers: str) -> None:
        """Replaces its configuration."""
        (self.config_dir / "templates.cfg").write_text(templates)
        (self.config_dir / "managers.cfg").write_text(managers)

    async def get(self, path: str) -> Any:
        """A JSON document of this daemon."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.daemon.url + path) as response,
        ):
            return await response.json()

    async def conditions(self, reason: str) -> list[dict[str, Any]]:
        """Its conditions with this reason."""
        fleet = await self.get("/api/fleet")
        return [found for found in fleet.get("conditions", ()) if found["reason"] == reason]


@contextlib.asynccontextmanager
async def second_daemon(w: World, tmp_path: Path) -> AsyncIterator[Second]:
    """Runs it while the block lasts."""
    directory = tmp_path / NAMESPACE
    shutil.copytree(w.config_dir, directory)
    second = Second(w, directory)
    await prepare(w, second.settings)
    await second.daemon.start()
    try:
        yield second
    finally:
        await second.daemon.abort()
