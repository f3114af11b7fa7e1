"""`gce-backend status`: problems first, then the fleet by template and zone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from gce_backend.base.errors import NoDaemonError, RemoteError
from gce_backend.cli.common import (
    daemon_of,
    errors_as_messages,
    examples,
    json_option,
    run_until_interrupted,
    say,
    settings_option,
    url_option,
)
from gce_backend.cli.output import (
    Duration,
    age,
    cell,
    console,
    moment,
    one_line,
    plural,
    show,
    table,
    when,
)
from gce_backend.clients.daemon import DaemonApi
from gce_backend.settings.settings import Settings, load

REVISION = 12
"""Characters of a revision that are shown."""
_SEVERITIES = {"critical": "bold red", "warning": "yellow", "notice": "cyan"}
_STAGES = {
    "cataloged": ("cataloged",),
    "leased": ("leased",),
    "coming": ("creating", "starting", "running"),
    "leaving": ("draining", "pending-deletion", "deleting"),
    "astray": ("missing", "set-aside"),
}
"""Columns of machines, each with the states that it counts."""
_ALWAYS = ("template", "zone", "state", "min", "target", "cataloged", "leased")
_NUMBERS = ("min", "max", "target", *_STAGES)


@click.command(
    epilog=examples(
        "gce-backend status",
        "gce-backend status --watch",
        "gce-backend status --json | jq '.problems[].message'",
    )
)
@settings_option
@url_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=Duration(least=0.1),
    default="2s",
    show_default=True,
    help="How often --watch looks, e.g. 5s or 1m.",
)
@json_option
def status(
    settings_file: Path | None, url: str | None, *, watch: bool, interval: float, as_json: bool
) -> None:
    """Shows the fleet at a glance, problems first."""
    with errors_as_messages():
        settings = load(settings_file, os.environ)
        if watch:
            run_until_interrupted(_watch(settings, url, interval, as_json=as_json))
        else:
            document = asyncio.run(_once(settings, url))
            if as_json:
                say("", document, as_json=True)
            else:
                show(*_view(document))


async def _once(settings: Settings, url: str | None) -> Any:
    async with daemon_of(settings, url) as daemon:
        return await daemon.get("/api/status")


async def _watch(settings: Settings, url: str | None, interval: float, *, as_json: bool) -> None:
    async with daemon_of(settings, url) as daemon:
        document = await daemon.get("/api/status")
        screen = console()
        if as_json or not screen.is_interactive:
            await _repeat(daemon, document, interval, as_json=as_json)
            return
        view = _view(document)
        try:
            with Live(Group(*view), console=screen, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(Group(*view), refresh=True)
                    await asyncio.sleep(interval)
                    try:
                        document = await daemon.get("/api/status")
                        view = _view(document)
                    except (NoDaemonError, RemoteError) as error:  # it may be back soon
                        view = [Text(str(error), "bold red"), Text(), *_view(document)]
        finally:
            show(*view)


async def _repeat(daemon: DaemonApi, document: Any, interval: float, *, as_json: bool) -> None:
    """One after the other: a JSON document on each line, or texts with a line between them."""
    while True:
        if as_json:
            click.echo(msgspec.json.encode(document).decode())
        else:
            click.echo(moment(document["now"]))
            show(*_view(document))
            click.echo()
        await asyncio.sleep(interval)
        document = await daemon.get("/api/status")


def _view(document: Any) -> list[RenderableType]:
    now = document["now"]
    return [
        *_head(document, now),
        Text(),
        *_problems(document["problems"], now),
        Text(),
        *_fleet(document["fleet"]),
    ]


def _head(document: Any, now: float) -> list[Text]:
    configuration, machines = document["configuration"], document["machines"]
    revision, imported = configuration["revision"], configuration["imported_at"]
    since = f", in force since {when(imported, now)}" if imported else ""
    counted = ", ".join(f"{count} {state}" for state, count in machines.items() if count)
    lines = {
        "project": f"{document['project']}, owner {document['owner']}",
        "configuration": f"{revision[:REVISION]}{since}" if revision else "none yet",
        "machines": f"{sum(machines.values())}{f': {counted}' if counted else ''}",
    }
    return [Text(f"{f'{name}:':<15}{one_line(text)}") for name, text in lines.items()]


def _problems(problems: list[Any], now: float) -> list[RenderableType]:
    if not problems:
        return [Text("no problems", "green")]
    rows = table("severity", "about", "reason", "since", "message")
    for one in problems:
        count = f" ({one['count']} times)" if one["count"] > 1 else ""
        rows.add_row(
            cell(one["severity"], _SEVERITIES.get(one["severity"], "")),
            cell(f"{one['kind']} {one['subject']}"),
            cell(one["reason"]),
            cell(age(now - one["since"]) if one["since"] else None),
            cell(one["message"] + count),
        )
    return [Text(plural(len(problems), "problem"), "bold"), rows]


def _fleet(fleet: list[Any]) -> list[RenderableType]:
    if not fleet:
        return [Text("no groups")]
    lines = [_row(one) for one in fleet]
    # A column that says nothing of any group is left out.
    heads = [head for head in lines[0] if head in _ALWAYS or any(line[head] for line in lines)]
    rows = table(*heads, numbers=_NUMBERS)
    for line in lines:
        well = line["state"] == "active"
        styles = {"state": "" if well else "yellow"}
        rows.add_row(*(cell(line[head], styles.get(head, "")) for head in heads))
    return [rows]


def _row(one: Any) -> dict[str, Any]:
    counts = {
        stage: sum(one["machines"].get(state, 0) for state in states)
        for stage, states in _STAGES.items()
    }
    return {
        "template": one["template"],
        "zone": one["zone"],
        "state": one["state"],
        "min": one["minimum"],
        "max": one["maximum"],
        "target": one["target"],
        **counts,
        "why": "" if one["state"] == "active" else one["reason"],
    }
