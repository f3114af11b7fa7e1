"""`gce-backend events`: what happened, oldest first, and with --follow what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gce_backend.base.clock import SystemClock
from gce_backend.base.errors import NoDaemonError
from gce_backend.cli.common import (
    daemon_of,
    examples,
    json_option,
    run_until_interrupted,
    say,
    settings_option,
    url_option,
)
from gce_backend.cli.completion import complete_names, complete_templates, complete_zones
from gce_backend.cli.duration import Duration
from gce_backend.model.events import EventKind
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.clients.daemon import DaemonApi

PAGE = 1000
"""Events in one answer of the daemon."""
POLL_SECONDS = 2.0
FIELDS = ("kind", "name", "before", "after")


@click.command(
    epilog=examples(
        "gce-backend events --since 1h --kind machine",
        "gce-backend events --machine linux-small-1f2e-usc1a-x7k2",
        "gce-backend events --cause operator --who alice@example.com",
        "gce-backend events --template linux-small --follow",
    )
)
@settings_option
@url_option
@click.option(
    "--name",
    "--machine",
    default="",
    help="Of this VM, group or template.",
    shell_complete=complete_names,
)
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in EventKind]),
    help="About this kind of subject.",
)
@click.option("--template", default="", help="Of this template.", shell_complete=complete_templates)
@click.option("--zone", default="", help="In this zone.", shell_complete=complete_zones)
@click.option("--cause", default="", help="With a cause that begins with this text, e.g. operator.")
@click.option("--who", default="", help="Ordered by this person or account.")
@click.option("--since", type=Duration(), help="Not older than this, e.g. 30m, 1h or 2d.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="At most this many, the newest ones.",
)
@click.option("--follow", "-f", is_flag=True, help="Keep printing new events, until Ctrl-C.")
@json_option
def events(
    settings: Settings,
    url: str | None,
    name: str,
    kind: str | None,
    template: str,
    zone: str,
    cause: str,
    who: str,
    since: float | None,
    limit: int,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """Lists events, the newest last.

    To machines, groups, templates and the configuration, why, and what caused it. With --follow and
    --json, each line is an event.
    """
    wanted: dict[str, str | int] = {
        "name": name,
        "kind": kind or "",
        "template": template,
        "zone": zone,
        "cause": cause,
        "who": who,
    }

    async def list_them() -> None:
        async with daemon_of(settings, url) as daemon:
            begin = {"since": str(SystemClock().now() - since)} if since is not None else {}
            found = [event async for event in _newest(daemon, {**wanted, **begin}, limit)]
            found.reverse()
            if not follow and as_json:
                say("", {"events": found}, as_json=True)
            elif not follow:
                _print(found)
            else:
                await _follow(daemon, wanted, found, as_json=as_json)

    run_until_interrupted(list_them())


async def _newest(
    daemon: DaemonApi, wanted: dict[str, str | int], limit: int | None
) -> AsyncIterator[Any]:
    """Events, newest first, from as many pages as it takes."""
    before: str | None = ""
    given = 0
    while before is not None and given != limit:
        size = PAGE if limit is None else min(PAGE, limit - given)
        page = await daemon.get("/api/events", {**wanted, "before": before, "limit": size})
        for event in page["events"]:
            yield event
        given += len(page["events"])
        before = page["next"]


async def _follow(
    daemon: DaemonApi, wanted: dict[str, str | int], found: list[Any], *, as_json: bool
) -> None:
    newest = found[-1]["id"] if found else ""
    while True:
        for event in found:
            click.echo(msgspec.json.encode(event).decode() if as_json else _line(event))
        await asyncio.sleep(POLL_SECONDS)
        try:
            after = {**wanted, "after": newest}
            found = [event async for event in _newest(daemon, after, None)][::-1]
        except NoDaemonError as error:  # it may be back soon; its history has the events in between
            click.echo(str(error), err=True)
            found = []
        newest = found[-1]["id"] if found else newest


def _print(found: list[Any]) -> None:
    from gce_backend.cli.output import caused, moment, show, table

    if not found:
        click.echo("no stored event matches", err=True)
        return
    rows = table("when", *FIELDS, "cause", "reason")
    for event in found:
        rows.add(
            moment(event["at"]), *(event[field] for field in FIELDS), caused(event), event["reason"]
        )
    show(rows)


def _line(event: Any) -> str:
    """One event of `--follow`, on a line of its own."""
    from gce_backend.cli.output import caused, moment, one_line

    change = " -> ".join(filter(None, (event["before"], event["after"])))
    parts = (event["kind"], event["name"], change, f"[{caused(event)}]", event["reason"])
    return one_line(" ".join((moment(event["at"]), *filter(None, parts))))
