"""`gce-backend status`: problems first, then the fleet by template and zone."""

from __future__ import annotations

import click

from gce_backend.cli.common import (
    ask,
    examples,
    json_option,
    run_until_interrupted,
    say,
    settings_option,
    url_option,
)
from gce_backend.cli.duration import Duration
from gce_backend.settings.settings import Settings


@click.command(
    epilog=examples(
        "gce-backend status",
        "gce-backend status --watch",
        "gce-backend status --json | jq '.problems[].message'",
    )
)
@settings_option
@url_option
@click.option("--watch", is_flag=True, help="Refresh it until Ctrl-C.")
@click.option(
    "--interval",
    type=Duration(least=0.1),
    default="2s",
    show_default=True,
    help="How often --watch refreshes, e.g. 5s or 1m.",
)
@json_option
def status(
    settings: Settings, url: str | None, *, watch: bool, interval: float, as_json: bool
) -> None:
    """Shows the fleet at a glance, problems first."""
    if watch:
        from gce_backend.cli.watch import watch_status

        run_until_interrupted(watch_status(settings, url, interval, as_json=as_json))
    else:
        document = ask(settings, url, "/api/status")
        if as_json:
            say("", document, as_json=True)
        else:
            from gce_backend.cli.output import show
            from gce_backend.cli.status_text import view_of

            show(*view_of(document))
