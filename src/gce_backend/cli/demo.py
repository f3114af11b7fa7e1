"""`gce-backend demo`: the whole story, in about a minute."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from gce_backend.base.errors import BackendError
from gce_backend.cli.common import INTERRUPTED


@click.command()
@click.option("--fast", is_flag=True, help="With minimal latencies.")
def demo(fast: bool) -> None:
    """Shows the life of a fleet in a minute, and verifies each step."""
    from gce_backend.cli import output
    from gce_backend.cli.play import play

    begun = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="gce-backend-demo-"))
    keep = False
    try:
        finished = play(output.console(), directory, fast=fast)
    except KeyboardInterrupt:
        finished = False
    except BackendError as error:
        keep = True
        click.echo(f"the demo failed: {error}", err=True)
        click.echo(f"the cloud's state, the configuration and the log are in {directory}", err=True)
        sys.exit(1)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    if not finished:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"everything was verified, in {time.monotonic() - begun:.0f} s")
