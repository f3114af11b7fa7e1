"""`gce-backend explain NAME`: everything about one machine, group or template."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

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
from gce_backend.settings.settings import load


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
    """Shows everything about a machine, group or template.

    Its state, since when and why, what it waits for, its history.

    NAME is a machine (its name, numeric id or whole key), a group (its name, or template/zone) or
    a template. A deleted one is found as long as history has events of it. Exits with 1 if
    nothing has this name.
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
    from gce_backend.cli.explain_text import view_of
    from gce_backend.cli.output import show

    now = SystemClock().now()
    for number, found in enumerate(document["found"]):
        if number:
            click.echo()
        show(*view_of(found, now))
