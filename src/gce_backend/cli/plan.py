"""`gce-backend plan`: what a configuration would change. Writes nothing."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from gce_backend.cli.common import (
    examples,
    json_option,
    say,
    say_problems,
    settings_option,
)
from gce_backend.settings.settings import Settings

CHANGES = 2
"""The exit code when something would change, as `terraform plan -detailed-exitcode` has it."""


class _WrongUsage(click.UsageError):
    """A usage error with exit code 1: 2 means that there are changes."""

    exit_code = 1


class _PlanCommand(click.Command):
    """A command whose usage errors exit with 1, because 2 means that there are changes."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **more)
        except click.UsageError as error:
            raise _WrongUsage(error.format_message(), error.ctx) from None


def _moment(text: str) -> float:
    """Unix seconds of an ISO 8601 time; without a time zone, it is one of this machine's."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter("write a time like 2026-12-01T18:00+01:00") from None


@click.command(
    cls=_PlanCommand,
    epilog=examples(
        "gce-backend plan",
        "gce-backend plan --config ../configuration",
        "gce-backend plan --at 2026-12-01T18:00+01:00",
        "gce-backend plan --json | jq .totals",
    ),
)
@settings_option
@click.option(
    "--config",
    "directory",
    type=click.Path(path_type=Path),
    help="The directory of templates.cfg and managers.cfg; by default what the daemon would fetch.",
)
@click.option(
    "--at",
    metavar="TIME",
    callback=lambda _context, _parameter, text: None if text is None else _moment(text),
    help="Show the sizes that schedules make at this time, e.g. 2026-12-01T18:00+01:00.",
)
@json_option
def plan(settings: Settings, directory: Path | None, at: float | None, *, as_json: bool) -> None:
    """Shows what a configuration would change.

    Shows what would be created, resized, drained and deleted, and for which leased machines the
    daemon would wait. Compares with the store and Compute Engine's groups; writes nothing. Exits
    with 0 if nothing would change, 2 if something would, 1 if it cannot tell.
    """
    from gce_backend.cli.comparison import compare
    from gce_backend.cli.plan_text import told
    from gce_backend.configuration.problems import InvalidConfigurationError
    from gce_backend.setup.validate import check_directory

    if directory is not None:
        verdict = check_directory(directory, settings.machine_provider.extra_dimensions)
        if verdict.total:
            say_problems(verdict.problems, verdict.total, str(directory))
            sys.exit(1)
    try:
        document = asyncio.run(compare(settings, directory, at))
    except InvalidConfigurationError as error:
        say_problems(error.problems, error.total, "the configuration")
        sys.exit(1)
    say("\n".join(told(document)), document, as_json=as_json)
    sys.exit(CHANGES if document.changes else 0)
