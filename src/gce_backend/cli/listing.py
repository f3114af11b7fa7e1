"""`machines`, `groups` and `templates`: the fleet as lists, from the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import click

from gce_backend.cli.common import (
    ask,
    daemon_of,
    examples,
    say,
    settings_option,
    url_option,
)
from gce_backend.settings.settings import Settings

PAGE = 1000
"""Machines that the daemon gives at once."""

C = TypeVar("C", bound=Callable[..., None])


def _list_options(keys: str, sorts: tuple[str, ...]) -> Callable[[C], C]:
    """What all lists take.

    Args:
        keys: an example of a selector.
        sorts: by what the list may be sorted; the first is the daemon's order.
    """

    def add(command: C) -> C:
        for option in (
            settings_option,
            url_option,
            click.option("--selector", "-l", default="", help=f"Only what matches, e.g. {keys}."),
            click.option(
                "--sort",
                type=click.Choice(sorts),
                default=sorts[0],
                show_default=True,
                help="What comes first.",
            ),
            click.option(
                "--output",
                "-o",
                type=click.Choice(["table", "wide", "json", "name"]),
                default="table",
                show_default=True,
                help="wide has more columns; name prints names alone.",
            ),
        )[::-1]:
            command = option(command)
        return command

    return add


@click.command(
    epilog=examples(
        "gce-backend machines",
        "gce-backend machines -l template=linux-small,state=stopped,state=lost -o wide",
        "gce-backend machines -l 'age>30d,lease=no' --sort age -o name",
    )
)
@_list_options(
    "template=linux-small,zone!=us-east1-b,state=stopped,age>2h,lease=no",
    ("template", "name", "zone", "state", "age", "lease"),
)
def machines(settings: Settings, url: str | None, selector: str, sort: str, output: str) -> None:
    """Lists the machines of the fleet.

    With their states, ages and leases. `catalog` lists what a Machine Provider has to lease out.
    """
    found = asyncio.run(_machines(settings, url, selector))
    _show("machines", found, sort, output)


@click.command(epilog=examples("gce-backend groups -l state=growing", "gce-backend groups -o wide"))
@_list_options(
    "template=linux-small,zone=us-east1-b,state=growing", ("template", "name", "zone", "state")
)
def groups(settings: Settings, url: str | None, selector: str, sort: str, output: str) -> None:
    """Lists the groups of the fleet.

    Each revision of a template has a group in each of its zones.
    """
    found = ask(settings, url, "/api/groups", {"selector": selector})
    _show("groups", found["groups"], sort, output)


@click.command(epilog=examples("gce-backend templates", "gce-backend templates -o json"))
@_list_options("state=draining", ("name", "state"))
def templates(settings: Settings, url: str | None, selector: str, sort: str, output: str) -> None:
    """Lists the templates of the fleet."""
    found = ask(settings, url, "/api/templates", {"selector": selector})
    _show("templates", found["templates"], sort, output)


async def _machines(settings: Settings, url: str | None, selector: str) -> list[Any]:
    """Machines, from as many pages as it takes."""
    found: list[Any] = []
    cursor: str | None = ""
    async with daemon_of(settings, url) as daemon:
        while cursor is not None:
            query: dict[str, str | int] = {"selector": selector, "limit": PAGE, "cursor": cursor}
            page = await daemon.get("/api/machines", query)
            found += page["machines"]
            cursor = page["next"]
    return found


_ORDERS: dict[str, Callable[[Any], Any]] = {
    "template": lambda row: 0,  # the daemon's own order
    "name": lambda row: row["name"],
    "zone": lambda row: (row["zone"], row["name"]),
    "state": lambda row: (row["state"], row["name"]),
    "age": lambda row: (row["since"] is None, row["since"] or 0.0, row["name"]),
    "lease": lambda row: (not row["leased"], row["lease_expiration"] or 0.0, row["name"]),
}


def _show(what: str, found: list[Any], sort: str, output: str) -> None:
    rows = sorted(found, key=_ORDERS[sort])
    if output == "json":
        say("", {what: rows}, as_json=True)
    elif output == "name":
        for row in rows:
            click.echo(row["name"])
    else:
        from gce_backend.cli import listing_text

        listing_text.show_rows(what, rows, wide=output == "wide")
