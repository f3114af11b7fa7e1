"""What the commands share: options, errors as messages, clients, signals."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import click

from gce_backend.app import Clients
from gce_backend.clock import SystemClock
from gce_backend.errors import BackendError
from gce_backend.metrics import Metrics
from gce_backend.settings import Settings

DEFAULT_STATE = Path("var/localcloud.sqlite")
DEFAULT_CONFIG = Path("config")

settings_option = click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file with the process settings; GCE_BACKEND_* variables override it.",
)
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="The embedded cloud's state file.",
)
config_option = click.option(
    "--config",
    "config_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The directory of templates.cfg and managers.cfg.",
)


def rng() -> random.Random:
    """Randomness for jitter and request ids."""
    return random.Random()  # noqa: S311 -- no secrets


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turns the project's own errors into a message and exit code 1."""
    try:
        yield
    except BackendError as error:
        raise click.ClickException(str(error)) from None


@contextlib.asynccontextmanager
async def clients_of(settings: Settings) -> AsyncIterator[tuple[Clients, str]]:
    """The clients of Google's services, and the project."""
    clients = Clients(settings, SystemClock(), rng(), Metrics())
    try:
        yield clients, await clients.project()
    finally:
        await clients.close()


def run_until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, or to Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work)


class Signals:
    """SIGINT and SIGTERM, as events: the first one, and the next ones."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._arrived)

    def _arrived(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
