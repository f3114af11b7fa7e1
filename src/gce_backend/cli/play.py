"""Runs the story of `gce-backend demo`, until its end or a signal."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from gce_backend.base import logs
from gce_backend.base.clock import SystemClock
from gce_backend.base.tasks import end
from gce_backend.cli.common import Signals, rng
from gce_backend.demo.show import Lines, Screen, Show
from gce_backend.demo.theatre import PACE, QUICK, perform
from gce_backend.localcloud.cloud import CloudOptions


def play(console: Console, directory: Path, *, fast: bool) -> bool:
    """Tells the story on a console.

    Args:
        console: where it is shown.
        directory: where the log, the configuration and the cloud's state are written.
        fast: whether the cloud has hardly any latencies.

    Returns:
        Whether the story came to its end before a signal.

    Raises:
        BackendError: the fleet does not do what the story says.
    """
    options = QUICK if fast else PACE
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
    await end(story)
    return False
