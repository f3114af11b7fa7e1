"""`gce-backend explain NAME`: everything about one machine, group or template."""

from __future__ import annotations

import click

from gce_backend.base.clock import SystemClock
from gce_backend.cli.common import (
    ask,
    examples,
    json_option,
    say,
    settings_option,
    url_option,
)
from gce_backend.cli.completion import complete_names
from gce_backend.settings.settings import Settings


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
def explain(settings: Settings, url: str | None, name: str, *, as_json: bool) -> None:
    """Shows everything about a machine, group or template.

    Its state, since when and why, what it waits for, its history.

    NAME is a machine (its name, numeric id or whole key), a group (its name, or template/zone) or
    a template. A deleted one is found as long as history has events of it. Exits with 1 if
    nothing has this name.
    """
    document = ask(settings, url, "/api/explain", {"name": name})
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
