"""The commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import click
import structlog
from rich.console import Console

from gce_backend import __version__, logs
from gce_backend.app import Clients, Daemon
from gce_backend.clock import SystemClock
from gce_backend.configure import configure as write_entities
from gce_backend.errors import BackendError, InvalidConfigurationError
from gce_backend.local import CONFIG_SET, local_settings
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.metrics import Metrics
from gce_backend.progress import measure, until_ready, watch
from gce_backend.provision import provision_messages
from gce_backend.settings import Settings, load
from gce_backend.store import Store
from gce_backend.validate import check_directory

DEFAULT_STATE = Path("var/localcloud.sqlite")
DEFAULT_CONFIG = Path("config")

_settings_option = click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file with the process settings; GCE_BACKEND_* variables override it.",
)
_state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="The embedded cloud's state file.",
)
_config_option = click.option(
    "--config",
    "config_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The directory of templates.cfg and managers.cfg.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gce-backend")
def main() -> None:
    """Keeps fleets of Compute Engine VMs for a Machine Provider."""


@main.command()
@_settings_option
@click.option("--local", is_flag=True, help="With an embedded cloud in the same process.")
@_config_option
@_state_option
def run(settings_file: Path | None, local: bool, config_dir: Path, state: Path) -> None:
    """Runs the daemon, until Ctrl-C or SIGTERM."""
    with _errors():
        settings = load(settings_file, os.environ)
        logs.configure(settings.log.format, settings.log.level, sys.stderr)
        if local:
            _run(_run_local(settings, config_dir, state))
        else:
            _run(_run_daemon(settings))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8090, show_default=True, help="TCP port; 0 for any free one.")
@click.option("--project", default="local-project", show_default=True, help="Its project.")
@click.option("--no-latency", is_flag=True, help="Everything happens at once.")
@_config_option
@_state_option
def localcloud(
    host: str, port: int, project: str, no_latency: bool, config_dir: Path, state: Path
) -> None:
    """Runs the embedded cloud alone."""
    options = CloudOptions(project=project, config_dir=config_dir)
    with _errors():
        logs.configure("auto", "info", sys.stderr)
        cloud = embedded_cloud(state, SystemClock(), options.instant() if no_latency else options)
        _run(_run_cloud(cloud, host, port))


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
def validate(directory: Path) -> None:
    """Checks templates.cfg and managers.cfg in DIRECTORY, and prints every problem."""
    problems = check_directory(directory)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        click.echo(f"{len(problems)} problems in {directory}", err=True)
        sys.exit(1)
    click.echo(f"{directory}: valid")


@main.command()
@_settings_option
@click.option("--config-set", help="The config set to fetch, e.g. services/gce-backend.")
@click.option("--config-service", help="The config service's host name or URL.")
@click.option("--machine-provider", help="The Machine Provider's URL.")
def configure(
    settings_file: Path | None,
    config_set: str | None,
    config_service: str | None,
    machine_provider: str | None,
) -> None:
    """Stores where the daemon finds its configuration and its Machine Provider."""

    async def act() -> int:
        async with _clients(load(settings_file, os.environ)) as (clients, project):
            return await write_entities(
                Store(clients.datastore(project)),
                config_set=config_set,
                config_service=config_service,
                machine_provider=machine_provider,
            )

    with _errors():
        changed = asyncio.run(act())
    click.echo(f"{changed} entities changed" if changed else "nothing to change")


def _rng() -> random.Random:
    return random.Random()  # noqa: S311 -- jitter and request ids, no secrets


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turns the project's own errors into a message and exit code 1."""
    try:
        yield
    except InvalidConfigurationError as error:
        raise click.ClickException(str(error)) from None
    except BackendError as error:
        raise click.ClickException(str(error)) from None


@contextlib.asynccontextmanager
async def _clients(settings: Settings) -> Any:
    clients = Clients(settings, SystemClock(), _rng(), Metrics())
    try:
        yield clients, await clients.project()
    finally:
        await clients.close()


def _run(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work)


class _Signals:
    """SIGINT and SIGTERM, as events."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._arrived)

    def _arrived(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _first(*works: Coroutine[Any, Any, Any]) -> None:
    """Waits for the first of these to end, cancels the others, and raises what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _run_daemon(settings: Settings) -> None:
    signals = _Signals()
    daemon = Daemon(settings, clock=SystemClock(), rng=_rng())
    await daemon.start()
    await _serve(daemon, signals)


async def _serve(daemon: Daemon, signals: _Signals) -> None:
    try:
        await _first(signals.first.wait(), daemon.wait())
    finally:
        stopping = asyncio.ensure_future(daemon.stop())
        hurry = asyncio.ensure_future(signals.second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await daemon.abort()
        hurry.cancel()


async def _run_cloud(cloud: Cloud, host: str, port: int) -> None:
    signals = _Signals()
    url = await cloud.start(host, port)
    structlog.get_logger().info("localcloud.started", url=url, project=cloud.options.project)
    try:
        await _first(signals.first.wait(), cloud.wait())
    finally:
        await cloud.close()


async def _run_local(settings: Settings, config_dir: Path, state: Path) -> None:
    signals = _Signals()
    clock = SystemClock()
    cloud = embedded_cloud(state, clock, CloudOptions(config_dir=config_dir))
    url = await cloud.start()
    try:
        local = local_settings(settings, url, cloud.options.project, config_dir)
        async with _clients(local) as (clients, project):
            await write_entities(
                Store(clients.datastore(project)),
                config_set=CONFIG_SET,
                config_service=url,
                machine_provider=url,
            )
            async for step in provision_messages(clients.pubsub(project), local):
                if not step.ok:
                    structlog.get_logger().error("setup.failed", what=step.what, error=step.remedy)
        daemon = Daemon(local, clock=clock, rng=_rng())
        await daemon.start()
        showing = asyncio.create_task(_show(daemon, local), name="cli.progress")
        try:
            await _serve(daemon, signals)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
    finally:
        await cloud.close()


async def _show(daemon: Daemon, settings: Settings) -> None:
    """Shows the way to a ready fleet, then says that it is ready."""
    console = Console(stderr=False)
    if not console.is_terminal:
        progress = await until_ready(lambda: measure(daemon.context))
        structlog.get_logger().info(
            "fleet.ready", machines=progress.stages[-1].done, url=daemon.url
        )
        return
    logs.configure(settings.log.format, "error", sys.stderr)
    progress = await watch(lambda: measure(daemon.context), console)
    console.print(
        f"[bold green]The fleet is ready:[/] {progress.stages[-1].done} machines are in the "
        f"catalog. Status: {daemon.url}/api/fleet   Ctrl-C stops it."
    )
    logs.configure(settings.log.format, settings.log.level, sys.stderr)
