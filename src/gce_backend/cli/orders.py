"""`pause`, `resume`, `approve`, `lift-cap`: orders that need no running daemon.

They are written to Datastore, where a running daemon reads them within a minute, and one that is
down when it starts.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from gce_backend import control
from gce_backend.cli.common import clients_of, errors_as_messages, settings_option
from gce_backend.clock import SystemClock
from gce_backend.control import Apply
from gce_backend.errors import SettingsError
from gce_backend.fleet import Change, Fleet
from gce_backend.models import CONTROL_KEY, Control
from gce_backend.settings import load
from gce_backend.store import Store

SOON = "A running daemon acts on it within a minute."


@click.command()
@settings_option
@click.option("--reason", default="", help="Why, for those who wonder.")
def pause(settings_file: Path | None, reason: str) -> None:
    """Stops everything that changes the world; observing goes on."""
    with errors_as_messages():
        if len(reason) > control.MAX_REASON:
            raise SettingsError(f"--reason has more than {control.MAX_REASON} characters")
        _store(settings_file, control.pause(reason, SystemClock().now()))
    click.echo(f"paused. {SOON}")


@click.command()
@settings_option
def resume(settings_file: Path | None) -> None:
    """Ends a pause."""
    with errors_as_messages():
        _store(settings_file, control.resume)
        stopped = not load(settings_file, os.environ).actuate
    click.echo(f"resumed. {SOON}")
    if stopped:
        click.echo("These settings have actuate = false: a daemon with them stays paused.")


@click.command()
@settings_option
@click.argument("revision")
def approve(settings_file: Path | None, revision: str) -> None:
    """Lets REVISION of the configuration be imported although it takes much away."""
    with errors_as_messages():
        if not control.is_revision(revision):
            raise SettingsError(
                f"{revision!r} is not a revision: the daemon's log and GET /api/control name the "
                "one that waits"
            )
        before = _store(settings_file, control.approve(revision))
    same = before.approved_revision == revision
    click.echo(f"{revision} was approved before." if same else f"{revision} is approved. {SOON}")


@click.command("lift-cap")
@settings_option
@click.option(
    "--minutes",
    type=click.IntRange(0, int(control.MAX_LIFT_SECONDS / 60)),
    default=int(control.LIFT_SECONDS / 60),
    show_default=True,
    help="For how long; 0 ends it.",
)
def lift_cap(settings_file: Path | None, minutes: int) -> None:
    """Lifts the caps on deletions for a while."""
    with errors_as_messages():
        _store(settings_file, control.lift_cap(SystemClock().now() + 60 * minutes))
    if minutes:
        click.echo(f"the caps on deletions are lifted for {minutes} minutes. {SOON}")
    else:
        click.echo(f"the caps on deletions hold. {SOON}")


def _store(settings_file: Path | None, apply: Apply) -> Control:
    """Writes an order; returns what was there before."""

    async def write() -> Control:
        async with clients_of(load(settings_file, os.environ)) as (clients, project):
            fleet = Fleet(Store(clients.datastore(project)))
            await fleet.refresh([CONTROL_KEY])
            before = fleet.control
            await fleet.change([Change(CONTROL_KEY, apply)])
            return before

    return asyncio.run(write())
