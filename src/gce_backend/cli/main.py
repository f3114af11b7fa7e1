"""The group that all commands belong to."""

from __future__ import annotations

import click

from gce_backend import __version__
from gce_backend.cli import cloud, daemon, orders, play, prepare


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gce-backend")
def main() -> None:
    """Keeps fleets of Compute Engine VMs for a Machine Provider."""


for _command in (
    daemon.run,
    cloud.localcloud,
    play.demo,
    prepare.validate,
    prepare.configure,
    prepare.setup,
    orders.pause,
    orders.resume,
    orders.approve,
    orders.lift_cap,
):
    main.add_command(_command)
