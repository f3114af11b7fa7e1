"""Runs the checks of `gce-backend doctor` with the clients that they need, and prints a table."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from gce_backend.base.clock import SystemClock
from gce_backend.base.errors import SettingsError
from gce_backend.base.plurals import plural
from gce_backend.cli import output
from gce_backend.cli.common import clients_of
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.config_source import ConfigSource, DirectorySource
from gce_backend.configuration.parsing import referenced_files
from gce_backend.daemon.clients import Remotes
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.settings.settings import Settings
from gce_backend.setup.doctor import CheckVerdict, Finding, Subject, examine
from gce_backend.setup.provider_checks import ProviderSubject, examine_provider

_STYLES = {
    CheckVerdict.OK: "green",
    CheckVerdict.WARNING: "yellow",
    CheckVerdict.FAILED: "bold red",
    CheckVerdict.SKIPPED: "dim",
}


async def look(settings: Settings, seconds: float, directory: Path | None = None) -> list[Finding]:
    """Makes every check, and prints its name on standard error.

    Args:
        settings: of the daemon.
        seconds: the time limit of one check.
        directory: of the configuration to check; None for the one that the daemon would fetch.

    Raises:
        BackendError: the project is not known.
    """
    clock = SystemClock()
    waiting = output.console(stderr=True)
    async with clients_of(settings) as (clients, project):
        store = Store(clients.datastore(project))
        fleet = Fleet(store)
        calls = dict.fromkeys(QuotaGroup, settings.compute.calls_per_minute)
        remotes = Remotes(
            session=clients.session, tokens=clients.identity, settings=settings, fleet=fleet
        )
        patient = Subject(
            settings=settings,
            project=project,
            tokens=clients.tokens,
            session=clients.session,
            pubsub=clients.pubsub(project),
            compute=clients.compute(CallBudget(clock, calls)),
            resource_manager=clients.resource_manager(),
            fleet=fleet,
            source=remotes.source if directory is None else lambda: _source(directory),
            place=settings.config.source if directory is None else str(directory),
            broker=remotes.broker,
        )
        with waiting.status("looking at the credentials ...") as status:
            return [
                finding
                async for finding in examine(
                    patient,
                    seconds=seconds,
                    begun=lambda words: status.update(f"looking at {words} ..."),
                )
            ]


def _source(directory: Path) -> ConfigSource:
    return DirectorySource(directory, referenced_files)


async def look_at_provider(settings: Settings, seconds: float) -> list[Finding]:
    """Makes every check of a Machine Provider.

    Args:
        settings: of the Machine Provider.
        seconds: the time limit of all checks together.

    Raises:
        BackendError: the project is not known, or the time is over.
    """
    async with clients_of(settings) as (clients, project):
        subject = ProviderSubject(
            settings=settings.provider,
            project=project,
            datastore=clients.datastore(project, settings.provider.namespace),
            resource_manager=clients.resource_manager(),
            session=clients.session,
            identity=clients.identity,
        )
        try:
            async with asyncio.timeout(seconds):
                return [finding async for finding in examine_provider(subject)]
        except TimeoutError:
            raise SettingsError(f"the checks took longer than {seconds:g} s") from None


def show(findings: list[Finding]) -> None:
    """Prints a table on a terminal, lines elsewhere, and the number of checks by outcome."""
    console = output.console()
    if console.is_terminal:
        console.print(_table(findings))
    else:  # one line for each, for grep
        for finding in findings:
            click.echo(f"{finding.verdict.value:<9}{finding.check}: {finding.seen}")
            if finding.remedy:
                click.echo(f"{'':<9}{finding.remedy}")
    counts = Counter(finding.verdict for finding in findings)
    warnings = {CheckVerdict.WARNING: plural(counts[CheckVerdict.WARNING], "warning")}
    said = [
        warnings.get(verdict, f"{counts[verdict]} {verdict.value}")
        for verdict in CheckVerdict
        if counts[verdict]
    ]
    click.echo(f"{plural(len(findings), 'check')}: {', '.join(said)}")


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, leading=1)
    for name in ("check", "result", "seen", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_STYLES[finding.verdict])
        table.add_row(Text(finding.check), verdict, Text(finding.seen), Text(finding.remedy))
    return table
