"""`gce-backend explain NAME`: everything about one machine, group or template."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from gce_backend.base.clock import SystemClock
from gce_backend.cli.common import (
    daemon_of,
    errors_as_messages,
    examples,
    json_option,
    say,
    settings_option,
    url_option,
)
from gce_backend.cli.completion import complete_names
from gce_backend.cli.output import cell, one_line, show, table, when
from gce_backend.settings.settings import load

_WIDTH = 24
"""Characters before the values."""


@click.command(
    epilog=examples(
        "gce-backend explain linux-small",
        "gce-backend explain linux-small/us-central1-a",
        "gce-backend explain linux-small-74a47a08-usc1a-zcyp",
    )
)
@settings_option
@url_option
@click.argument("name", shell_complete=complete_names)
@json_option
def explain(settings_file: Path | None, url: str | None, name: str, *, as_json: bool) -> None:
    """Tells everything about a machine, group or template.

    Its state, since when and why, what it waits for, its history.

    NAME is a machine (its name, numeric id or whole key), a group (its name, or template/zone) or
    a template; also one that is gone, while history tells of it. Exits with 1 when nothing is
    called so.
    """
    with errors_as_messages():
        settings = load(settings_file, os.environ)

        async def ask() -> Any:
            async with daemon_of(settings, url) as daemon:
                return await daemon.get("/api/explain", {"name": name})

        document = asyncio.run(ask())
    if as_json:
        say("", document, as_json=True)
        return
    now = SystemClock().now()
    for number, found in enumerate(document["found"]):
        if number:
            click.echo()
        show(*_view(found, now))


def _view(found: Mapping[str, Any], now: float) -> list[RenderableType]:
    head = {
        "name": found["name"],
        "kind": found["kind"],
        "state": found["state"],
        "since": when(found["since"], now) if found["since"] else None,
        "why": found["reason"],
        "waits for": found["waits_for"],
        "key": found["subject"],
    }
    parts: list[RenderableType] = [_line(name, value) for name, value in head.items() if value]
    parts += [_line(*_fact(name, value, now)) for name, value in found["facts"].items()]
    if counts := found.get("machines"):
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        parts.append(_line("machines", told))
    if groups := found.get("groups"):
        parts += [_title("groups"), _groups(groups)]
    if conditions := found["conditions"]:
        parts += [_title("conditions"), _conditions(conditions, now)]
    parts.append(_title("events"))
    if found["history_problem"]:
        parts.append(_indented(Text(one_line(found["history_problem"]), "red")))
    elif found["events"]:
        parts.append(_events(found["events"], now))
    else:
        parts.append(_indented(Text("none that is remembered")))
    return parts


def _line(name: str, value: Any) -> Text:
    label = f"{name.replace('_', ' ')}:"
    return Text.assemble((f"{label:<{_WIDTH}}", "bold"), one_line(str(value)))


def _title(name: str) -> Text:
    return Text(f"{name}:", "bold")


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 2), expand=False)


def _fact(name: str, value: Any, now: float) -> tuple[str, Any]:
    """A fact and its value; times are named so, and told as times."""
    if name.endswith("_at") and isinstance(value, int | float):
        return name.removesuffix("_at"), when(value, now)
    return name, value


def _groups(groups: list[Any]) -> Padding:
    rows = table("group", "zone", "revision", "state", "machines", "why")
    for one in groups:
        counts = ", ".join(f"{count} {state}" for state, count in one["machines"].items())
        revision = (one["revision"] or "")[:8]
        rows.add_row(
            cell(one["name"]),
            cell(one["zone"]),
            cell(revision),
            cell(one["state"]),
            cell(counts),
            cell(one["reason"]),
        )
    return _indented(rows)


def _conditions(conditions: list[Any], now: float) -> Padding:
    rows = table("reason", "since", "failures", "job", "message")
    for one in conditions:
        rows.add_row(
            cell(one["reason"], "yellow"),
            cell(when(one["since"], now)),
            cell(one["failures"]),
            cell(one["job"]),
            cell(one["message"]),
        )
    return _indented(rows)


def _events(events: list[Any], now: float) -> Padding:
    """Newest first, as one looks for the last thing that happened."""
    rows = table("when", "from", "to", "cause", "reason")
    for one in events:
        rows.add_row(
            cell(when(one["at"], now)),
            cell(one["before"]),
            cell(one["after"]),
            cell(one["cause"]),
            cell(one["reason"]),
        )
    return _indented(rows)
