"""`gce-backend run`: the daemon, with an embedded cloud if wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gce_backend.base.errors import SettingsError
from gce_backend.cli.common import (
    config_option,
    run_until_interrupted,
    service_settings_option,
    state_option,
    vm_command_option,
)
from gce_backend.settings.settings import Settings


@click.command()
@service_settings_option
@click.option("--local", is_flag=True, help="With an embedded cloud in the same process.")
@vm_command_option
@config_option
@state_option
def run(
    settings: Settings,
    local: bool,
    vm_command: tuple[str, ...],
    config_dir: Path,
    state: Path,
) -> None:
    """Runs the daemon, until Ctrl-C or SIGTERM."""
    from gce_backend.base import logs
    from gce_backend.cli import serving

    logs.configure(settings.log.format, settings.log.level, sys.stderr)
    if local and not config_dir.is_dir():
        raise SettingsError(
            f"{config_dir}: there is no such directory. Name the one that holds templates.cfg "
            "and managers.cfg with --config"
        )
    if local:
        run_until_interrupted(serving.run_local(settings, config_dir, state, vm_command))
    else:
        run_until_interrupted(serving.run_daemon(settings))
