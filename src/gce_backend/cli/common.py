"""What the commands share: options, clients, signals."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import random
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
import msgspec

from gce_backend.base.plurals import plural
from gce_backend.cli.settings_file import LOCAL_FILE, USUAL_FILE, find_settings
from gce_backend.settings.settings import SETTINGS_VARIABLE, Settings, load

if TYPE_CHECKING:  # slow to import: a command imports them when it needs them
    from gce_backend.clients.daemon import DaemonApi
    from gce_backend.configuration.problems import Problem
    from gce_backend.daemon.clients import Clients
    from gce_backend.fleet.store import Store

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""
DEFAULT_STATE = LOCAL_FILE.with_suffix(".sqlite")
DEFAULT_CONFIG = Path("config")

_settings = functools.partial(
    click.option,
    "--settings",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=SETTINGS_VARIABLE,
)
settings_option = _settings(
    callback=lambda context, _, given: load(find_settings(context, given), os.environ),
    help="The settings file (TOML); GCE_BACKEND_* variables override it. By default the first of "
    f"${SETTINGS_VARIABLE}, {LOCAL_FILE} and {USUAL_FILE}.",
)
service_settings_option = _settings(
    callback=lambda _, __, given: load(given, os.environ),
    help="The settings file (TOML); GCE_BACKEND_* variables override it. By default "
    f"${SETTINGS_VARIABLE}.",
)
"""The option `--settings` of a service, which must not find a local cloud's settings by itself."""
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


def _command(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as error:
        raise click.BadParameter(f"{error}".lower()) from None


vm_command_option = click.option(
    "--vm-command",
    callback=_command,
    help="Run this command for each VM of the embedded cloud, from its boot until it stops.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _address(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    from gce_backend.settings.settings import daemon_url

    try:
        return daemon_url(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


url_option = click.option(
    "--url",
    callback=_address,
    help="Where the daemon listens; by default GCE_BACKEND_URL, or http.host and http.port.",
)


def examples(*lines: str) -> str:
    """The examples at the end of a command's help, one on each line."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def say(text: str, document: Any, *, as_json: bool) -> None:
    """Prints the text, or instead the document as JSON."""
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    click.echo(encoded if as_json else text)


def rng() -> random.Random:
    """Randomness for jitter and request ids."""
    return random.Random()  # noqa: S311 -- no secrets


def say_problems(problems: Sequence[Problem], total: int, where: str) -> None:
    """Prints the problems of a configuration, and their number."""
    from gce_backend.configuration.problems import listed

    for line in listed(problems, total):
        click.echo(line)
    click.echo(f"{plural(total, 'problem')} in {where}", err=True)


@contextlib.asynccontextmanager
async def daemon_of(
    settings: Settings, url: str | None, seconds: float = 30.0
) -> AsyncIterator[DaemonApi]:
    """A client of the daemon's API.

    Args:
        url: where the daemon listens; None for where the settings say.
        seconds: the time limit of one document.
    """
    from gce_backend.clients.daemon import DaemonApi, address
    from gce_backend.clients.plain_http import PlainSession

    where, token = url or address(settings), settings.http.token
    if where.startswith("http:"):
        yield DaemonApi(PlainSession(), where, token, seconds)
        return
    import aiohttp

    async with aiohttp.ClientSession() as session:
        yield DaemonApi(session, where, token, seconds)


def ask(
    settings: Settings, url: str | None, path: str, query: dict[str, str | int] | None = None
) -> Any:
    """A document of the daemon's API.

    Args:
        url: where the daemon listens; None for where the settings say.
    """
    import asyncio

    async def get() -> Any:
        async with daemon_of(settings, url) as daemon:
            return await daemon.get(path, query)

    return asyncio.run(get())


@contextlib.asynccontextmanager
async def clients_of(settings: Settings) -> AsyncIterator[tuple[Clients, str]]:
    """The clients of Google's services, and the project."""
    from gce_backend.base.clock import SystemClock
    from gce_backend.daemon.clients import Clients

    clients = Clients(settings, SystemClock(), rng(), None)
    try:
        yield clients, await clients.project()
    finally:
        await clients.close()


@contextlib.asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[tuple[Store, str]]:
    """The store that the settings name, and who runs this command, for what it writes there.

    Raises:
        SchemaError: a newer release has written the store.
        RemoteError: it cannot be read.
    """
    from gce_backend.fleet.schema import check
    from gce_backend.fleet.store import Store

    async with clients_of(settings) as (clients, project):
        store = Store(clients.datastore(project))
        await check(store)
        yield store, await who_orders(clients)


async def who_orders(clients: Clients) -> str:
    """Who runs this command: the account of its credentials, else the login and the computer."""
    import getpass
    import socket

    if account := await clients.account():
        return account
    try:
        login = getpass.getuser()
    except (OSError, KeyError):  # in a container without names for its users
        login = f"user {os.getuid()}"
    return f"{login}@{socket.gethostname()}"


def own_name() -> str:
    """How a shell in this directory finds the command that runs: by its name, or by its path."""
    import shutil

    if shutil.which("gce-backend"):
        return "gce-backend"
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"{os.path.relpath(sys.executable)} -m gce_backend"
    return os.path.relpath(path)


def run_until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, or to Ctrl-C."""
    gc.freeze()  # modules and settings stay: the collector need not look at them again
    import asyncio

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work)


class Signals:
    """SIGINT and SIGTERM as events: `first`, and `second` for any later one."""

    def __init__(self) -> None:
        import asyncio

        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._arrived)

    def _arrived(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class Process(Protocol):
    """A process that runs in the foreground until a signal."""

    async def wait(self) -> None:
        """Waits until it ends, which only a defect causes."""
        ...

    async def stop(self) -> None:
        """Stops in order."""
        ...

    async def abort(self) -> None:
        """Stops without waiting for work in progress."""
        ...


async def serve(process: Process, signals: Signals) -> None:
    """Waits for a signal or for the end of a process, and stops it; a second signal aborts it."""
    import asyncio

    from gce_backend.base.tasks import first_of

    try:
        await first_of(signals.first.wait(), process.wait())
    finally:
        stopping = asyncio.ensure_future(process.stop())
        hurry = asyncio.ensure_future(signals.second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await process.abort()
        hurry.cancel()
