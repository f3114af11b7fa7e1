"""`gce-backend doctor`: checks what a daemon with these settings needs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from gce_backend.base.errors import BackendError
from gce_backend.cli.common import json_option, say, settings_option
from gce_backend.settings.settings import Settings

CHECK_SECONDS = 20.0
"""Seconds that one check may take, unless --timeout changes it."""


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
@click.option(
    "--config",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Check the configuration in this directory, before it is submitted.",
)
@click.option(
    "--machine-provider",
    "provider",
    is_flag=True,
    help="Check what `gce-backend machine-provider` needs instead.",
)
@json_option
def doctor(
    settings: Settings, seconds: float, directory: Path | None, *, provider: bool, as_json: bool
) -> None:
    """Checks everything that a daemon with these settings needs. Changes nothing.

    Credentials, APIs, permissions, topic and subscription, configuration, what it names at Compute
    Engine, the Machine Provider, a running daemon. Exits with 1 when a check fails.
    """
    from gce_backend.cli import examination
    from gce_backend.setup.doctor import CheckVerdict, Finding

    try:
        if provider:
            findings = asyncio.run(examination.look_at_provider(settings, seconds))
        else:
            findings = asyncio.run(examination.look(settings, seconds, directory))
    except BackendError as error:  # checks do not raise; without a project there are no checks
        remedy = "run it on Google Cloud, or name the project: `project` in the settings"
        findings = [Finding("project", CheckVerdict.FAILED, str(error), remedy)]
    ok = all(finding.verdict is not CheckVerdict.FAILED for finding in findings)
    if as_json:
        say("", {"ok": ok, "checks": findings}, as_json=True)
    else:
        examination.show(findings)
    sys.exit(0 if ok else 1)
