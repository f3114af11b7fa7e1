"""The work of `gce-backend status --watch`."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from gce_backend.base.errors import NoDaemonError, RemoteError
from gce_backend.cli.common import daemon_of
from gce_backend.cli.output import console, moment, show
from gce_backend.cli.status_text import view_of
from gce_backend.clients.daemon import DaemonApi
from gce_backend.settings.settings import Settings


async def watch_status(
    settings: Settings, url: str | None, interval: float, *, as_json: bool
) -> None:
    """Shows the status again and again, in place on a terminal; never ends.

    Args:
        url: where the daemon listens; None for where the settings say.
        interval: seconds between two readings.
        as_json: whether to print a JSON document on each line.

    Raises:
        NoDaemonError: the first reading failed, or any reading outside a terminal.
    """
    async with daemon_of(settings, url) as daemon:
        document = await daemon.get("/api/status")
        screen = console()
        if as_json or not screen.is_interactive:
            await _repeat(daemon, document, interval, as_json=as_json)
            return
        view = view_of(document)
        try:
            with Live(Group(*view), console=screen, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(Group(*view), refresh=True)
                    await asyncio.sleep(interval)
                    try:
                        document = await daemon.get("/api/status")
                        view = view_of(document)
                    except (NoDaemonError, RemoteError) as error:  # it may be back soon
                        view = [Text(str(error), "bold red"), Text(), *view_of(document)]
        finally:
            show(*view)


async def _repeat(daemon: DaemonApi, document: Any, interval: float, *, as_json: bool) -> None:
    """Prints a JSON document on each line, or texts with a line between them."""
    while True:
        if as_json:
            click.echo(msgspec.json.encode(document).decode())
        else:
            click.echo(moment(document["now"]))
            show(*view_of(document))
            click.echo()
        await asyncio.sleep(interval)
        document = await daemon.get("/api/status")
