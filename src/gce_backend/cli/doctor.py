"""`gce-backend doctor`: what a daemon with these settings would meet."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import click
import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from gce_backend.base.clock import SystemClock
from gce_backend.base.errors import BackendError
from gce_backend.cli import output
from gce_backend.cli.common import clients_of, errors_as_messages, settings_option
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.daemon.clients import Remotes
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.settings.settings import Settings, load
from gce_backend.setup.doctor import CHECK_SECONDS, CheckVerdict, Finding, Subject, examine

_STYLES = {
    CheckVerdict.OK: "green",
    CheckVerdict.WARNING: "yellow",
    CheckVerdict.FAILED: "bold red",
    CheckVerdict.SKIPPED: "dim",
}


@click.command()
@settings_option
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(min=0.1),
    default=CHECK_SECONDS,
    show_default=True,
    help="Seconds that one check may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(settings_file: Path | None, seconds: float, as_json: bool) -> None:
    """Checks what a daemon with these settings would meet. Changes nothing.

    Credentials, APIs, permissions, topic and subscription, configuration, what it names at Compute
    Engine, the Machine Provider, a running daemon. Exits with 1 when a check fails.
    """
    with errors_as_messages():
        settings = load(settings_file, os.environ)
    try:
        findings = asyncio.run(_examine(settings, seconds))
    except BackendError as error:  # checks do not raise: without a project there are none
        remedy = "run it on Google Cloud, or name the project: `project` in the settings"
        findings = [Finding("project", CheckVerdict.FAILED, str(error), remedy)]
    ok = all(finding.verdict is not CheckVerdict.FAILED for finding in findings)
    if as_json:
        document = {"ok": ok, "checks": findings}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    else:
        _print(findings)
    sys.exit(0 if ok else 1)


async def _examine(settings: Settings, seconds: float) -> list[Finding]:
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
            source=remotes.source,
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


def _print(findings: list[Finding]) -> None:
    console = output.console()
    if console.is_terminal:
        console.print(_table(findings))
    else:  # to be searched by line
        for finding in findings:
            click.echo(f"{finding.verdict.value:<9}{finding.check}: {finding.seen}")
            if finding.remedy:
                click.echo(f"{'':<9}{finding.remedy}")
    counts = Counter(finding.verdict for finding in findings)
    said = [f"{counts[verdict]} {verdict.value}" for verdict in CheckVerdict if counts[verdict]]
    click.echo(f"{len(findings)} checks: {', '.join(said)}")


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, leading=1)
    for name in ("check", "result", "seen", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_STYLES[finding.verdict])
        table.add_row(Text(finding.check), verdict, Text(finding.seen), Text(finding.remedy))
    return table
