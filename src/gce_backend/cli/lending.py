"""`leases`, `catalog`, `extend`, `hold`, `transfer`, `with-machine`, ...: commands for leases."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gce_backend.cli.common import (
    INTERRUPTED,
    examples,
    json_option,
    settings_option,
)
from gce_backend.cli.completion import complete_templates
from gce_backend.cli.duration import Duration
from gce_backend.cli.leases import dimension_option, together
from gce_backend.model.machine_token import Dimension
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.cli.lending_work import Wanted

F = TypeVar("F", bound=Callable[..., Any])

lease_argument = click.argument("lease")


@click.command(
    epilog=examples("gce-backend leases", "gce-backend leases --everybody --tag branch:main")
)
@settings_option
@click.option("--everybody", is_flag=True, help="Also those of others, if you may see them.")
@click.option("--tag", default="", help="Only those with this tag, KEY:VALUE.")
@json_option
def leases(settings: Settings, tag: str, *, everybody: bool, as_json: bool) -> None:
    """Lists leases that wait or run.

    For each one that waits: its place in the queue, and why it waits.
    """
    from gce_backend.cli import lending_work

    asyncio.run(lending_work.show_leases(settings, tag, everybody=everybody, as_json=as_json))


@click.command(epilog=examples("gce-backend catalog", "gce-backend catalog cordon VM"))
@settings_option
@click.argument("action", type=click.Choice(["cordon", "uncordon"]), required=False)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--backend", default="", help="Of which backend, where several have such a machine.")
@json_option
def catalog(
    settings: Settings, action: str | None, names: Sequence[str], backend: str, *, as_json: bool
) -> None:
    """Lists the machines in the Machine Provider's catalog, or cordons some.

    Which are free, and until when the others are leased. `cordon` keeps these machines in the
    catalog and does not lease them; leases that run go on. `uncordon` ends that. Both need the role
    ADMINISTRATOR in access.cfg. Exits with 1 if one of the machines could not be changed.

    The daemon's `gce-backend cordon` also keeps the VM, and takes the machine out of the catalog.
    """
    from gce_backend.cli import lending_work

    if action is None:
        asyncio.run(lending_work.show_catalog(settings, as_json=as_json))
        return
    if not names:
        raise click.UsageError(f"name the machines to {action}")
    cordon = action == "cordon"
    done = lending_work.cordon(settings, names, backend, cordon=cordon, as_json=as_json)
    sys.exit(0 if asyncio.run(done) else 1)


@click.command(epilog=examples("gce-backend extend build-4711 2h"))
@settings_option
@lease_argument
@click.argument("duration", type=Duration(least=1.0))
@json_option
def extend(settings: Settings, lease: str, duration: float, *, as_json: bool) -> None:
    """Extends a lease to DURATION from now.

    LEASE is its request id or its id. access.cfg limits how long a lease may last in all.
    """
    from gce_backend.cli import lending_work

    found = asyncio.run(lending_work.extend(settings, lease, int(duration)))
    lending_work.say_end(found, as_json=as_json)


@click.command(epilog=examples("gce-backend hold build-4711", "gce-backend hold build-4711 30m"))
@settings_option
@lease_argument
@click.argument("duration", type=Duration(least=1.0), required=False)
@json_option
def hold(settings: Settings, lease: str, duration: float | None, *, as_json: bool) -> None:
    """Keeps a lease's machines to investigate a failure.

    LEASE is its request id or its id. Keeps them for DURATION from now, or as long as access.cfg
    allows, even if nobody keeps the lease alive. `release` releases them before.
    """
    from gce_backend.cli import lending_work

    seconds = None if duration is None else int(duration)
    found = asyncio.run(lending_work.hold(settings, lease, seconds))
    lending_work.say_end(found, as_json=as_json)


@click.command(epilog=examples("gce-backend transfer build-4711 bob@example.com"))
@settings_option
@lease_argument
@click.argument("user")
@json_option
def transfer(settings: Settings, lease: str, user: str, *, as_json: bool) -> None:
    """Makes a lease another user's.

    LEASE is its request id or its id, USER an e-mail address. What runs on the machines goes on,
    and your key no longer lets you in: USER gets in with `shell --lease`. access.cfg says which
    groups may get your leases, and USER's group must have room for it.
    """
    from gce_backend.cli import lending_work

    found = asyncio.run(lending_work.transfer(settings, lease, user))
    lending_work.say_end(found, as_json=as_json)
    if not as_json:
        click.echo(f"it is {found.user}'s now: gce-backend shell --lease {found.id}")


def _lease_options(command: F) -> F:
    """What the commands that lease for as long as they run have in common."""
    options = (
        settings_option,
        dimension_option,
        click.option(
            "--template",
            help="A machine with the dimensions that this template gives its machines.",
            shell_complete=complete_templates,
        ),
        click.option(
            "--duration",
            type=Duration(least=1.0),
            default="1h",
            show_default=True,
            help="For how long at most: 15m, 2h, 1d.",
        ),
        click.option(
            "--wait",
            type=Duration(least=1.0),
            default="15m",
            show_default=True,
            help="How long to wait for the machines.",
        ),
        click.option("--label", default="", help="What the lease is called in lists."),
        click.option(
            "--tag",
            "tags",
            multiple=True,
            help="A tag of the lease, KEY:VALUE, by which lists can be filtered; may be repeated.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_hold_failed_option = click.option(
    "--hold-failed",
    type=Duration(least=1.0),
    help="Keep the machines for so long when COMMAND fails; by default, as access.cfg says.",
)


def _wanted(
    dimensions: Sequence[tuple[str, Dimension]],
    template: str | None,
    duration: float,
    wait: float,
    label: str,
    tags: tuple[str, ...],
    count: int = 1,
) -> Wanted:
    from gce_backend.cli.lending_work import Wanted

    return Wanted(together(dimensions), template, duration, wait, label, tags, count)


def _exit_with(work: Coroutine[Any, Any, int]) -> None:
    """Ends this process with the exit code of a command that a lease was for."""
    try:
        code = asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    sys.exit(code)


@click.command(
    name="with-machine",
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "gce-backend with-machine --dimension os_family:LINUX -- sh -c 'ssh $MACHINE make test'",
    ),
)
@_lease_options
@click.option("--count", type=click.IntRange(1, 100), default=1, help="How many machines.")
@_hold_failed_option
@click.argument("command", nargs=-1, required=True)
def with_machine(
    settings: Settings,
    hold_failed: float | None,
    command: tuple[str, ...],
    **wanted: Any,
) -> None:
    """Leases machines, runs COMMAND here, and releases them.

    COMMAND finds the machine's name in the variable MACHINE, and all names in MACHINES, separated
    by spaces. Its exit code is handed on. Whatever ends this, Ctrl-C, SIGTERM, kill -9 or a lost
    network, leaves no lease behind: it is kept alive while COMMAND runs, and ends a minute after
    nobody does.
    """
    from gce_backend.cli import lending_work

    _exit_with(lending_work.run_here(settings, _wanted(**wanted), command, hold_failed))


@click.command(
    epilog=examples(
        "gce-backend shell --template linux-small",
        "gce-backend shell --dimension os_family:LINUX --duration 4h",
        "gce-backend shell --lease build-4711",
    )
)
@_lease_options
@click.option("--lease", help="On a machine of this lease instead, which goes on.")
def shell(settings: Settings, lease: str | None, **wanted: Any) -> None:
    """Leases a machine, opens a shell there, and releases it.

    The machine lets you in by SSH with a key that is made for this lease, and is known by the host
    key that its agent has reported. Whatever ends this leaves no lease behind, as with-machine.
    With --lease, the shell is on a machine that you hold already, also one that was held after a
    failure, and its lease goes on.
    """
    from gce_backend.cli import lending_work

    if lease is not None:
        if wanted["dimensions"] or wanted["template"]:
            raise click.UsageError("--lease names the machine: leave --dimension and --template")
        _exit_with(lending_work.look(settings, lease))
    _exit_with(lending_work.run_there(settings, _wanted(**wanted), (), None))


@click.command(
    name="exec",
    context_settings={"allow_interspersed_args": False},
    epilog=examples("gce-backend exec --template linux-small -- make test"),
)
@_lease_options
@_hold_failed_option
@click.argument("command", nargs=-1, required=True)
def execute(
    settings: Settings,
    hold_failed: float | None,
    command: tuple[str, ...],
    **wanted: Any,
) -> None:
    """Leases a machine, runs COMMAND there, and releases it.

    It connects by SSH. Standard input and output are COMMAND's, and its exit code is handed on;
    255 says that the connection failed. Whatever ends this leaves no lease behind, as with-machine.
    """
    from gce_backend.cli import lending_work

    _exit_with(lending_work.run_there(settings, _wanted(**wanted), command, hold_failed))
