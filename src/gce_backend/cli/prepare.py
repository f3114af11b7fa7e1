"""`validate`, `configure`, `setup`: commands to run before the daemon."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gce_backend.base.errors import SettingsError
from gce_backend.base.plurals import plural
from gce_backend.cli.common import (
    clients_of,
    json_option,
    rng,
    say,
    say_problems,
    settings_option,
    store_of,
)
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.setup.messaging import Done

_COLORS = {"made": "green", "changed": "green", "missing": "red", "wrong": "red", "failed": "red"}

_config_set_option = click.option(
    "--config-set", help="The config set to fetch, e.g. services/gce-backend."
)
_config_service_option = click.option(
    "--config-service", help="The config service's host name or URL."
)
_machine_provider_option = click.option("--machine-provider", help="The Machine Provider's URL.")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@settings_option
@json_option
def validate(directory: Path, settings: Settings, *, as_json: bool) -> None:
    """Checks templates.cfg and managers.cfg.

    Prints the problems in DIRECTORY, with file, line, template and field, and warnings of what may
    be a mistake. Needs no network: use it before a change is submitted. Of the settings it
    reads machine_provider.extra_dimensions. `gce-backend plan --config DIRECTORY` says what the
    change would do.
    """
    from gce_backend.setup.validate import check_directory

    verdict = check_directory(directory, settings.machine_provider.extra_dimensions)
    if not as_json:
        for warning in verdict.warnings:
            click.echo(str(warning))
    if as_json or not verdict.total:
        document = {
            "valid": not verdict.total,
            "problems": verdict.problems,
            "total": verdict.total,
            "warnings": verdict.warnings,
        }
        say(f"{directory}: valid", document, as_json=as_json)
    else:
        say_problems(verdict.problems, verdict.total, str(directory))
    sys.exit(1 if verdict.total else 0)


@click.command()
@settings_option
@_config_set_option
@_config_service_option
@_machine_provider_option
@json_option
def configure(
    settings: Settings,
    config_set: str | None,
    config_service: str | None,
    machine_provider: str | None,
    *,
    as_json: bool,
) -> None:
    """Stores where configuration and Machine Provider are.

    An address that the settings do not allow is refused, as by `setup`.
    """
    from gce_backend.fleet.picture import Fleet
    from gce_backend.setup.addresses import configure as write_entities
    from gce_backend.setup.project import Addresses, refuse_wrong

    async def act() -> int:
        refuse_wrong(settings, Addresses(config_set, config_service, machine_provider))
        async with store_of(settings) as (store, who):
            return await write_entities(
                Fleet(store),
                config_set=config_set,
                config_service=config_service,
                machine_provider=machine_provider,
                who=who,
            )

    changed = asyncio.run(act())
    text = f"{plural(changed, 'entity', 'entities')} changed" if changed else "nothing to change"
    say(text, {"changed": changed}, as_json=as_json)


@click.command()
@settings_option
@click.option(
    "--role",
    type=click.Choice(["daemon", "machine-provider"]),
    default="daemon",
    show_default=True,
    help="What is to run in the project.",
)
@click.option(
    "--machine-provider-account", help="The Machine Provider's service account, which publishes."
)
@_config_set_option
@_config_service_option
@_machine_provider_option
@click.option("--dry-run", is_flag=True, help="Create nothing; print what would be created.")
@json_option
def setup(
    settings: Settings,
    role: str,
    machine_provider_account: str | None,
    config_set: str | None,
    config_service: str | None,
    machine_provider: str | None,
    dry_run: bool,
    *,
    as_json: bool,
) -> None:
    """Creates what the daemon or a Machine Provider needs in its project.

    Also checks its permissions there. Safe to run again. A Machine Provider has no addresses to
    store: with --role machine-provider, only --machine-provider-account is used.
    """
    from gce_backend.fleet.store import Store
    from gce_backend.setup.project import Addresses, set_up
    from gce_backend.setup.provider import set_up_provider

    addresses = Addresses(config_set, config_service, machine_provider)
    if role != "daemon" and addresses != Addresses():
        raise SettingsError("a Machine Provider has no addresses to store: leave them out")

    async def act() -> dict[str, Any]:
        async with clients_of(settings) as (clients, project):
            who, account = await clients.account(), clients.tokens.describe()
            account = f"{who} ({account})" if who and who not in account else account
            if not as_json:
                click.echo(f"project {project}, as {account}")
            await clients.tokens.get()  # without one, every step would fail
            if role == "daemon":
                steps = set_up(
                    settings,
                    project=project,
                    store=Store(clients.datastore(project)),
                    pubsub=clients.pubsub(project),
                    resource_manager=clients.resource_manager(),
                    addresses=addresses,
                    publisher=machine_provider_account,
                    rng=rng(),
                    who=who,
                    dry_run=dry_run,
                )
            else:
                steps = set_up_provider(
                    settings,
                    project=project,
                    datastore=clients.datastore(project, settings.provider.namespace),
                    pubsub=clients.pubsub(project),
                    resource_manager=clients.resource_manager(),
                    session=clients.session,
                    identity=clients.identity,
                    account=machine_provider_account,
                    dry_run=dry_run,
                )
            done = []
            async for step in steps:
                if not as_json:
                    _print(step)
                done.append(step)
            return {"project": project, "account": account, "dry_run": dry_run, "steps": done}

    document = asyncio.run(act())
    steps: list[Done] = document["steps"]
    lacking = [step for step in steps if not step.ok]
    if as_json or not lacking:
        text = "nothing was made: this was a dry run" if dry_run else "nothing is missing"
        say(text, {"ok": not lacking, **document}, as_json=as_json)
    else:
        click.echo(f"missing: {len(lacking)} of {len(steps)}, see above", err=True)
    sys.exit(1 if lacking else 0)


def _print(step: Done) -> None:
    outcome = click.style(f"{step.outcome:<14}", fg=_COLORS.get(step.outcome))
    click.echo(f"{outcome}{step.what}")
    if step.remedy:
        click.echo(f"{'':<14}{step.remedy}")
