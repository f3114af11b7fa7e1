"""Runs the daemon in the foreground, alone or with an embedded cloud, and shows its progress."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
import sys
from pathlib import Path
from typing import TextIO, cast

import msgspec
import structlog
from rich.console import Console

from gce_backend.base import logs
from gce_backend.base.clock import SystemClock
from gce_backend.base.plurals import plural
from gce_backend.cli import output
from gce_backend.cli.common import (
    Signals,
    clients_of,
    own_name,
    rng,
    serve,
)
from gce_backend.cli.settings_file import LOCAL_FILE
from gce_backend.daemon.daemon import Daemon
from gce_backend.daemon.local import local_settings, prepare, settings_file
from gce_backend.daemon.progress import measure, until, watch
from gce_backend.fleet.store import Store
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import Secret, Settings
from gce_backend.web.pages.provider_site import embedded_pages


async def run_daemon(settings: Settings) -> None:
    """Runs the daemon, until a signal or its end."""
    signals = Signals()
    daemon = Daemon(settings, clock=SystemClock(), rng=rng())
    await daemon.start()
    await serve(daemon, signals)


async def run_local(
    settings: Settings, config_dir: Path, state: Path, vm_command: tuple[str, ...] = ()
) -> None:
    """Runs the daemon on an embedded cloud in the same process.

    Args:
        config_dir: the directory of templates.cfg and managers.cfg.
        state: the embedded cloud's state file; the settings for the commands lie beside it.
        vm_command: the command that runs for each VM of the embedded cloud; () for none.
    """
    signals = Signals()
    console = output.console()
    # In a terminal, the progress display replaces the log, except at level debug.
    live = console.is_terminal and settings.log.level != "debug"
    if live:
        logs.configure(settings.log.format, "error", cast("TextIO", _StandardError()))
    clock = SystemClock()
    options = CloudOptions(
        config_dir=config_dir, vm_command=vm_command, vm_directory=state.parent / "vms"
    )
    cloud = embedded_cloud(state, clock, options, pages=embedded_pages(clock))
    settings_path = state.with_suffix(".toml")
    url = await cloud.start()
    try:
        own = _own_token(settings)
        local = local_settings(own or settings, url, cloud.options.project, config_dir)
        token = own.http.token if own is not None else None
        async with clients_of(local) as (clients, project):
            store, pubsub = Store(clients.datastore(project)), clients.pubsub(project)
            for step in await prepare(store, pubsub, local, url):
                structlog.get_logger().error("setup.failed", what=step.what, error=step.remedy)
        daemon = Daemon(local, clock=clock, rng=rng())
        await daemon.start()
        settings_path.write_text(settings_file(local, daemon.url), "utf-8")
        show = (_show if live else _announce)(daemon, console, settings_path, token, url)
        showing = asyncio.create_task(show, name="cli.progress")
        try:
            await serve(daemon, signals)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
    finally:
        settings_path.unlink(missing_ok=True)
        await cloud.close()
    if live:
        stopped = f"Stopped. The same command continues from {state}."
        console.print(stopped, highlight=False, soft_wrap=True)


def _own_token(settings: Settings) -> Settings | None:
    """The settings with a token made for this run; None when they have one.

    With it, whoever sees this process's output signs in, and may use the buttons of the pages.
    """
    if settings.http.token is not None:
        return None
    http = msgspec.structs.replace(settings.http, token=Secret(secrets.token_hex(12)))
    return msgspec.structs.replace(settings, http=http)


class _StandardError(io.TextIOBase):
    """The present standard error, which the progress display replaces while it is shown."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


async def _announce(
    daemon: Daemon, _: Console, settings_path: Path, token: Secret | None, provider: str
) -> None:
    """Logs when the fleet is ready."""
    progress = await until(lambda: measure(daemon.context), ready=True)
    structlog.get_logger().info(
        "fleet.ready",
        machines=progress.stages[-1].done,
        url=daemon.url,
        machine_provider=provider,
        settings=str(settings_path),
        sign_in_with=None if token is None else token.reveal(),
    )


async def _show(
    daemon: Daemon, console: Console, settings_path: Path, token: Secret | None, provider: str
) -> None:
    """Shows the fleet's progress in a terminal, and when it is ready; again after each change."""
    named = "" if settings_path == LOCAL_FILE else f" --settings {settings_path}"
    sign_in = "" if token is None else f"To sign in there and give orders: {token.reveal()}\n"
    hint = (
        f" Status: {daemon.url}   Ctrl-C stops it.\n{sign_in}"
        f"The Machine Provider: {provider}\n"
        f"Every command works on it, such as: {own_name()} plan{named}"
    )
    while True:
        progress = await watch(lambda: measure(daemon.context), console)
        machines = plural(progress.stages[-1].done, "machine")
        console.print(
            f"[bold green]The fleet is ready:[/] {machines} in the catalog.{hint}",
            markup=True,
            highlight=False,
            soft_wrap=True,
        )
        hint = ""
        await until(lambda: measure(daemon.context), ready=False)
