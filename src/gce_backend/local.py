"""`gce-backend run --local`: the daemon with an embedded cloud in the same process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.settings import EndpointSettings, JobSettings, Settings

CONFIG_SET = "services/gce-backend"
CONFIG_CRON = "*/2 * * * * *"
"""Every two seconds: whoever edits the example wants to see at once what it does."""


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
        ),
        config=replace(settings.config, source="directory", directory=config_dir),
        jobs={
            **settings.jobs,
            "import-config": replace(imports, cron=imports.cron or CONFIG_CRON),
        },
    )
