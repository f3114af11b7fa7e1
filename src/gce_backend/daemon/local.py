"""The daemon on an embedded cloud: its settings, and what must exist before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gce_backend.clients.pubsub import PubSub
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.settings.settings import EndpointSettings, JobSettings, Settings
from gce_backend.setup.addresses import configure
from gce_backend.setup.messaging import Done, provision_messages

CONFIG_SET = "services/gce-backend"
CONFIG_CRON = "*/2 * * * * *"
"""Every two seconds, so that an edit of the example takes effect at once."""


def local_settings(settings: Settings, base_url: str, project: str, config_dir: Path) -> Settings:
    """The settings with which the daemon works on an embedded cloud.

    Args:
        settings: the process settings; what does not name a cloud stays.
        base_url: where the embedded cloud listens.
        project: the cloud's project.
        config_dir: the directory of templates.cfg and managers.cfg.
    """
    replace = msgspec.structs.replace
    imports = settings.jobs.get("import-config", JobSettings())
    return replace(
        settings,
        project=project,
        endpoints=EndpointSettings(
            compute=f"{base_url}/compute/v1/",
            datastore=f"{base_url}/v1",
            pubsub=f"{base_url}/v1",
            metadata=base_url,
            resource_manager=f"{base_url}/v1",
            tokeninfo=f"{base_url}/tokeninfo",
        ),
        provider=replace(settings.provider, url=base_url),
        config=replace(settings.config, source="directory", directory=config_dir.resolve()),
        jobs={
            **settings.jobs,
            "import-config": replace(imports, cron=imports.cron or CONFIG_CRON),
        },
    )


def settings_file(settings: Settings, daemon_url: str) -> str:
    """The settings of a running daemon as a TOML file, with which the commands work on its cloud.

    Args:
        settings: of the daemon, from `local_settings`.
        daemon_url: where it listens.

    Returns:
        Every setting but the tokens: others may read the file.
    """
    replace = msgspec.structs.replace
    shown = replace(
        settings,
        url=daemon_url,
        http=replace(settings.http, token=None),
        provider=replace(settings.provider, token=None),
    )
    head = "# Written by `gce-backend run --local` while it runs."
    return "\n".join((head, *_toml(msgspec.to_builtins(shown, enc_hook=str), ()), ""))


def _toml(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The lines of a table and those below it. As values, TOML has what JSON has, without null."""
    for key, value in table.items():
        if value is not None and not isinstance(value, dict):
            yield f"{key} = {msgspec.json.encode(value).decode()}"
    for key, value in table.items():
        if isinstance(value, dict):
            inner = (*path, key)
            yield f"[{'.'.join(inner)}]"
            yield from _toml(value, inner)


async def prepare(store: Store, pubsub: PubSub, settings: Settings, base_url: str) -> list[Done]:
    """Stores the addresses, and makes the topic and the subscription.

    Args:
        store: the entities, in the embedded cloud's Datastore.
        settings: of the daemon, from `local_settings`.
        base_url: where the embedded cloud listens.

    Returns:
        What could not be created.

    Raises:
        RemoteError: Datastore could not be reached.
    """
    await configure(
        Fleet(store), config_set=CONFIG_SET, config_service=base_url, machine_provider=base_url
    )
    return [step async for step in provision_messages(pubsub, settings) if not step.ok]
