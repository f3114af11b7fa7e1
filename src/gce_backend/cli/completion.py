"""`gce-backend completion`: the shell's script, and the daemon's names that it offers."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from gce_backend.base.errors import BackendError
from gce_backend.cli.common import daemon_of, examples

SECONDS = 1.0
"""Seconds that a completion waits for the daemon."""
MACHINES = 200
"""Most machines that are offered."""
VARIABLE = "_GCE_BACKEND_COMPLETE"

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    epilog=examples(
        "source <(gce-backend completion bash)",
        "gce-backend completion fish > ~/.config/fish/completions/gce-backend.fish",
    )
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> None:
    """Prints the completion script of SHELL.

    It completes commands, options and names; those of machines, templates and zones come from the
    daemon, if it answers within a second.
    """
    root = click.get_current_context().find_root()
    click.echo(_SHELLS[shell](root.command, {}, "gce-backend", VARIABLE).source())


def complete_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Machines and templates."""
    return [
        *complete_templates(context, _, incomplete),
        *complete_machines(context, _, incomplete),
    ]


def complete_machines(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Machines, each with its state."""
    found = _ask(context, "/api/machines", {"q": incomplete, "limit": MACHINES})
    return [
        CompletionItem(machine["name"], help=machine["state"])
        for machine in found.get("machines", ())
        if machine["name"].startswith(incomplete)
    ]


def complete_templates(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Templates."""
    return _of_fleet(context, "template", incomplete)


def complete_zones(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Zones that have groups."""
    return _of_fleet(context, "zone", incomplete)


def _of_fleet(context: click.Context, what: str, incomplete: str) -> list[CompletionItem]:
    rows = _ask(context, "/api/status", {}).get("fleet", ())
    names = sorted({row[what] for row in rows})
    return [CompletionItem(name, help=what) for name in names if name.startswith(incomplete)]


def _ask(context: click.Context, path: str, parameters: dict[str, str | int]) -> dict[str, Any]:
    """A document of the daemon; {} when it does not answer at once."""
    settings = context.params.get("settings")
    if settings is None:  # they are wrong
        return {}

    async def ask() -> dict[str, Any]:
        async with daemon_of(settings, context.params.get("url"), SECONDS) as daemon:
            found: dict[str, Any] = await daemon.get(path, parameters)
            return found

    try:
        return asyncio.run(ask())
    except BackendError:
        return {}
