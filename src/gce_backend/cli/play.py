"""`gce-backend demo`: the whole story, in about a minute."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from gce_backend.base import logs
from gce_backend.base.clock import SystemClock
from gce_backend.base.errors import BackendError
from gce_backend.cli import output
from gce_backend.cli.common import INTERRUPTED, Signals, rng
from gce_backend.demo.show import Lines, Screen, Show
from gce_backend.demo.theatre import PACE, QUICK, perform
from gce_backend.localcloud.cloud import CloudOptions


@click.command()
@click.option("--fast", is_flag=True, help="With hardly any latencies.")
def demo(fast: bool) -> None:
    """Tells the story of a fleet in a minute, and verifies it."""
    begun = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="gce-backend-demo-"))
    console = output.console()
    keep = False
    try:
        finished = _play(console, directory, QUICK if fast else PACE)
    except KeyboardInterrupt:
        finished = False
    except BackendError as error:
        keep = True
        click.echo(f"the story went wrong: {error}", err=True)
        click.echo(f"the cloud's state, the configuration and the log are in {directory}", err=True)
        sys.exit(1)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    if not finished:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"everything was verified, in {time.monotonic() - begun:.0f} s")


def _play(console: Console, directory: Path, options: CloudOptions) -> bool:
    with (directory / "daemon.log").open("w") as log:
        logs.configure("json", "info", log)
        if not console.is_terminal:
            return asyncio.run(_until_signal(Lines(console), directory, options))
        with Screen(console) as screen:
            return asyncio.run(_until_signal(screen, directory, options))


async def _until_signal(show: Show, directory: Path, options: CloudOptions) -> bool:
    """Whether the story came to its end before anybody stopped it."""
    signals = Signals()
    story = asyncio.create_task(
        perform(show, directory, options=options, clock=SystemClock(), rng=rng()), name="demo"
    )
    stop = asyncio.create_task(signals.first.wait(), name="demo.stop")
    await asyncio.wait({story, stop}, return_when=asyncio.FIRST_COMPLETED)
    if story.done():
        stop.cancel()
        story.result()
        return True
    story.cancel()
    await asyncio.wait({story})
    return False
