"""`gce-backend agent`: the agent's files, for a template to name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from gce_backend.base.errors import SettingsError
from gce_backend.cli.common import examples

FILES = ("agent.py", "install.sh")


@click.command(epilog=examples("gce-backend agent config/agent"))
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def agent(directory: Path) -> None:
    """Writes the agent of leased machines to DIRECTORY.

    And its start-up script. A template installs them on its VMs with metadata_from_file:
    gce-backend-agent is agent.py, and startup-script is install.sh.
    """
    package = resources.files("gce_backend.machine_provider.agent")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (directory / name).write_bytes((package / name).read_bytes())
            click.echo(f"{directory / name}")
    except OSError as error:
        raise SettingsError(f"{directory}: {error.strerror or error}") from error
