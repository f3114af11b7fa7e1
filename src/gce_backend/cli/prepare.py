"""`validate`, `configure`, `setup`: what is done before the daemon runs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from gce_backend.cli.common import clients_of, errors_as_messages, settings_option
from gce_backend.configure import configure as write_entities
from gce_backend.provision import Done
from gce_backend.settings import load
from gce_backend.setup import Addresses, set_up
from gce_backend.store import Store
from gce_backend.validate import check_directory

_COLORS = {"made": "green", "changed": "green", "missing": "red", "failed": "red"}

_config_set_option = click.option(
    "--config-set", help="The config set to fetch, e.g. services/gce-backend."
)
_config_service_option = click.option(
    "--config-service", help="The config service's host name or URL."
)
_machine_provider_option = click.option("--machine-provider", help="The Machine Provider's URL.")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def validate(directory: Path) -> None:
    """Checks templates.cfg and managers.cfg in DIRECTORY, and prints every problem."""
    problems = check_directory(directory)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        click.echo(f"{count} in {directory}", err=True)
        sys.exit(1)
    click.echo(f"{directory}: valid")


@click.command()
@settings_option
@_config_set_option
@_config_service_option
@_machine_provider_option
def configure(
    settings_file: Path | None,
    config_set: str | None,
    config_service: str | None,
    machine_provider: str | None,
) -> None:
    """Stores where the daemon finds its configuration and its Machine Provider."""

    async def act() -> int:
        async with clients_of(load(settings_file, os.environ)) as (clients, project):
            return await write_entities(
                Store(clients.datastore(project)),
                config_set=config_set,
                config_service=config_service,
                machine_provider=machine_provider,
            )

    with errors_as_messages():
        changed = asyncio.run(act())
    click.echo(f"{changed} entities changed" if changed else "nothing to change")


@click.command()
@settings_option
@click.option(
    "--machine-provider-account", help="The Machine Provider's service account, which publishes."
)
@_config_set_option
@_config_service_option
@_machine_provider_option
@click.option("--dry-run", is_flag=True, help="Make nothing; say what would be made.")
def setup(
    settings_file: Path | None,
    machine_provider_account: str | None,
    config_set: str | None,
    config_service: str | None,
    machine_provider: str | None,
    dry_run: bool,
) -> None:
    """Makes what the daemon needs in its project, and checks what it may do. Safe to run again."""
    addresses = Addresses(config_set, config_service, machine_provider)

    async def act() -> list[Done]:
        settings = load(settings_file, os.environ)
        async with clients_of(settings) as (clients, project):
            click.echo(f"project {project}, as {clients.tokens.describe()}")
            steps = set_up(
                settings,
                project=project,
                store=Store(clients.datastore(project)),
                pubsub=clients.pubsub(project),
                resource_manager=clients.resource_manager(),
                addresses=addresses,
                publisher=machine_provider_account,
                dry_run=dry_run,
            )
            steps_done = []
            async for step in steps:
                _print(step)
                steps_done.append(step)
            return steps_done

    with errors_as_messages():
        done = asyncio.run(act())
    lacking = [step for step in done if not step.ok]
    if lacking:
        click.echo(f"{len(lacking)} of {len(done)} things are missing: see above", err=True)
        sys.exit(1)
    click.echo("nothing was made: this was a dry run" if dry_run else "nothing is missing")


def _print(step: Done) -> None:
    outcome = click.style(f"{step.outcome:<14}", fg=_COLORS.get(step.outcome))
    click.echo(f"{outcome}{step.what}")
    if step.remedy:
        click.echo(f"{'':<14}{step.remedy}")
