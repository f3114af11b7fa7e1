"""`leases`, `catalog`, `extend`, `hold`, `with-machine`: commands for leases."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gce_backend.cli.common import (
    INTERRUPTED,
    errors_as_messages,
    examples,
    json_option,
    settings_option,
)
from gce_backend.cli.duration import Duration
from gce_backend.cli.leases import dimension_option, together
from gce_backend.model.machine_token import Dimension

lease_argument = click.argument("lease")


@click.command(epilog=examples("gce-backend leases", "gce-backend leases --everybody --json"))
@settings_option
@click.option("--everybody", is_flag=True, help="Also those of others, if you may see them.")
@json_option
def leases(settings_file: Path | None, *, everybody: bool, as_json: bool) -> None:
    """Lists leases that wait or run.

    For each one that waits: its place in the queue, and why it waits.
    """
    from gce_backend.cli import lending_work

    with errors_as_messages():
        asyncio.run(lending_work.show_leases(settings_file, everybody=everybody, as_json=as_json))


@click.command(epilog=examples("gce-backend catalog"))
@settings_option
@json_option
def catalog(settings_file: Path | None, *, as_json: bool) -> None:
    """Lists the machines in the Machine Provider's catalog.

    Which are free, and until when the others are leased.
    """
    from gce_backend.cli import lending_work

    with errors_as_messages():
        asyncio.run(lending_work.show_catalog(settings_file, as_json=as_json))


@click.command(epilog=examples("gce-backend extend build-4711 2h"))
@settings_option
@lease_argument
@click.argument("duration", type=Duration(least=1.0))
@json_option
def extend(settings_file: Path | None, lease: str, duration: float, *, as_json: bool) -> None:
    """Extends a lease to DURATION from now.

    LEASE is its request id or its id. access.cfg limits how long a lease may last in all.
    """
    from gce_backend.cli import lending_work

    with errors_as_messages():
        found = asyncio.run(lending_work.extend(settings_file, lease, int(duration)))
        lending_work.say_end(found, as_json=as_json)


@click.command(epilog=examples("gce-backend hold build-4711", "gce-backend hold build-4711 30m"))
@settings_option
@lease_argument
@click.argument("duration", type=Duration(least=1.0), required=False)
@json_option
def hold(settings_file: Path | None, lease: str, duration: float | None, *, as_json: bool) -> None:
    """Keeps a lease's machines to investigate a failure.

    LEASE is its request id or its id. Keeps them for DURATION from now, or as long as access.cfg
    allows, even if nobody keeps the lease alive. `release` releases them before.
    """
    from gce_backend.cli import lending_work

    with errors_as_messages():
        seconds = None if duration is None else int(duration)
        found = asyncio.run(lending_work.hold(settings_file, lease, seconds))
        lending_work.say_end(found, as_json=as_json)


@click.command(
    name="with-machine",
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "gce-backend with-machine --dimension os_family:LINUX -- sh -c 'ssh $MACHINE make test'",
    ),
)
@settings_option
@dimension_option
@click.option("--count", type=click.IntRange(1, 100), default=1, help="How many machines.")
@click.option(
    "--duration",
    type=Duration(least=1.0),
    default="1h",
    show_default=True,
    help="For how long at most: 15m, 2h, 1d.",
)
@click.option(
    "--wait",
    type=Duration(least=1.0),
    default="15m",
    show_default=True,
    help="How long to wait for the machines.",
)
@click.option("--label", default="", help="What the lease is called in lists.")
@click.option(
    "--hold-failed",
    type=Duration(least=1.0),
    help="Keep the machines for so long when COMMAND fails.",
)
@click.argument("command", nargs=-1, required=True)
def with_machine(
    settings_file: Path | None,
    dimensions: Sequence[tuple[str, Dimension]],
    count: int,
    duration: float,
    wait: float,
    label: str,
    hold_failed: float | None,
    command: tuple[str, ...],
) -> None:
    """Leases machines, runs COMMAND here, and releases them.

    COMMAND finds the machine's name in the variable MACHINE, and all names in MACHINES, separated
    by spaces. Its exit code is handed on. Whatever ends this, Ctrl-C, SIGTERM, kill -9 or a lost
    network, leaves no lease behind: it is kept alive while COMMAND runs, and ends a minute after
    nobody does.
    """
    from gce_backend.cli import lending_work

    asked = lending_work.request(
        together(dimensions), count=count, duration=duration, wait=wait, label=label
    )
    with errors_as_messages():
        try:
            code = asyncio.run(lending_work.run_with(settings_file, asked, command, hold_failed))
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(INTERRUPTED)
    sys.exit(code)
