"""The group that all commands belong to."""

from __future__ import annotations

import os

import click

from gce_backend import __version__
from gce_backend.cli import (
    cloud,
    completion,
    daemon,
    doctor,
    events,
    explain,
    leases,
    orders,
    plan,
    play,
    prepare,
    status,
)
from gce_backend.cli.common import json_option, say


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gce-backend")
def main() -> None:
    """Keeps fleets of Compute Engine VMs for a Machine Provider."""


def _no_colours(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked or os.environ.get("NO_COLOR"):
        context.color = False


no_color_option = click.option(
    "--no-color",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_no_colours,
    help="Without colours; so does the variable NO_COLOR.",
)


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Prints the version."""
    say(f"gce-backend, version {__version__}", {"version": __version__}, as_json=as_json)


for _command in (
    daemon.run,
    cloud.localcloud,
    play.demo,
    prepare.validate,
    prepare.configure,
    prepare.setup,
    doctor.doctor,
    plan.plan,
    status.status,
    explain.explain,
    events.events,
    leases.lease,
    leases.release,
    orders.pause,
    orders.resume,
    orders.drain,
    orders.undrain,
    orders.approve,
    orders.lift_cap,
    completion.completion,
    version,
):
    main.add_command(no_color_option(_command))
no_color_option(main)
