"""`gce-backend version`."""

from __future__ import annotations

import click

from gce_backend import __version__
from gce_backend.cli.common import json_option, say


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Prints the version."""
    say(f"gce-backend, version {__version__}", {"version": __version__}, as_json=as_json)
