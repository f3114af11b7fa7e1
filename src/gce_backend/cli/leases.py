"""`lease` and `release`: a machine from the Machine Provider, and back to it."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from gce_backend.base.errors import OrderError, TransientError, UnknownNameError
from gce_backend.cli.common import (
    INTERRUPTED,
    clients_of,
    errors_as_messages,
    examples,
    json_option,
    say,
    settings_option,
)
from gce_backend.cli.completion import complete_templates
from gce_backend.cli.output import Duration, console, moment
from gce_backend.clients.machine_provider import (
    LeaseAnswer,
    LeaseRequest,
    MachineProviderClient,
    ReleaseError,
)
from gce_backend.configuration.parsing import examine
from gce_backend.daemon.clients import Remotes
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import CONFIGURATION_KEY, MACHINE_PROVIDER_KEY
from gce_backend.model.machine_token import Dimension
from gce_backend.rules.catalog_entry import shared_dimensions
from gce_backend.settings.settings import load

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two looks at a request that waits for a machine."""

LABELS = "snapshot_labels"
_KINDS: Mapping[str, type] = {"num_cpus": int, "disk_gb": int, "memory_gb": float}
"""Dimensions that are numbers; the others are texts."""
_RELEASE_ERRORS = {
    ReleaseError.NOT_FOUND: "the Machine Provider knows no lease of this name and this account",
    ReleaseError.NOT_FULFILLED: "no machine was leased on it yet: there is nothing to give back",
}


class DimensionType(click.ParamType[tuple[str, Dimension]]):
    """One dimension of a machine: `os_family:LINUX` or `num_cpus=4`."""

    name = "key:value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Dimension]:
        """Key and value, the value in its type."""
        if isinstance(value, tuple):
            return value
        separator = min((s for s in ":=" if s in value), key=value.index, default=":")
        key, _, text = (part.strip() for part in value.partition(separator))
        if not key or not text:
            self.fail(f"{value!r} is no dimension: write e.g. os_family:LINUX", param, ctx)
        try:
            return key, _KINDS.get(key, str)(text)
        except ValueError:
            self.fail(f"{value!r}: {key} is a number", param, ctx)


@click.command(
    epilog=examples(
        "gce-backend lease --dimension os_family:LINUX --duration 15m",
        "gce-backend lease --template linux-small --duration 2h --json",
    )
)
@settings_option
@click.option(
    "--dimension",
    "dimensions",
    type=DimensionType(),
    multiple=True,
    help="What the machine must be, e.g. os_family:LINUX; may be given several times.",
)
@click.option(
    "--template",
    help="A machine with the dimensions that this template gives its machines.",
    shell_complete=complete_templates,
)
@click.option(
    "--duration",
    type=Duration(least=1.0),
    default="1h",
    show_default=True,
    help="For how long: 15m, 2h, 1d.",
)
@click.option(
    "--wait",
    type=Duration(),
    default="5m",
    show_default=True,
    help="How long to wait for a machine; 0 only asks for one.",
)
@click.option(
    "--request-id",
    help="The lease's name; repeated, it is the same lease. By default a new one is made up.",
)
@json_option
def lease(
    settings_file: Path | None,
    dimensions: Sequence[tuple[str, Dimension]],
    template: str | None,
    duration: float,
    wait: float,
    request_id: str | None,
    *,
    as_json: bool,
) -> None:
    """Leases a machine from the Machine Provider.

    Exits with 1 when there is none within --wait: the request then stays open, and the same command
    with its --request-id goes on waiting. `release` gives the machine back.
    """
    if not dimensions and template is None:
        raise click.UsageError("say what the machine must be, with --dimension or --template")
    name = request_id or str(uuid.uuid4())
    with errors_as_messages():
        try:
            found = asyncio.run(
                _lease(settings_file, _together(dimensions), template, duration, wait, name)
            )
        except KeyboardInterrupt:
            click.echo(f"interrupted; {_open(name)}", err=True)
            sys.exit(INTERRUPTED)
        if found.error is not None or found.state == "DENIED":
            raise OrderError(f"the Machine Provider refused: {found.error or found.state}")
    document = {
        "request_id": name,
        "state": found.state,
        "hostname": found.hostname,
        "lease_ends_at": found.lease_expiration_ts,
    }
    if as_json or found.hostname:
        say(_told(name, found), document, as_json=as_json)
    if not found.hostname:
        click.echo(f"there is no machine yet; {_open(name)}", err=True)
    sys.exit(0 if found.hostname or not wait else 1)


@click.command(epilog=examples("gce-backend release 5d0c3a52-5e4b-4a39-9a53-0c2f6f6f4f5e"))
@settings_option
@click.argument("request_id")
@json_option
def release(settings_file: Path | None, request_id: str, *, as_json: bool) -> None:
    """Gives a leased machine back.

    REQUEST_ID is what `lease` called the lease. The Machine Provider reclaims the machine: it is
    deleted, and its group grows back. Giving it back again is no error.
    """

    async def act() -> str | None:
        async with _broker(settings_file) as (broker, _):
            return (await broker.release(request_id)).error

    with errors_as_messages():
        error = asyncio.run(act())
        ended = error == ReleaseError.ALREADY_RECLAIMED
        if error is not None and not ended:
            known = {word.value: text for word, text in _RELEASE_ERRORS.items()}
            raise OrderError(f"{request_id}: {known.get(error, f'it was refused: {error}')}")
    text = "had ended before" if ended else "is released"
    document = {"request_id": request_id, "released": True, "ended_before": ended}
    say(f"{request_id} {text}", document, as_json=as_json)


@asynccontextmanager
async def _broker(settings_file: Path | None) -> AsyncIterator[tuple[MachineProviderClient, Fleet]]:
    """The Machine Provider whose address is in the store, and what else was read there."""
    settings = load(settings_file, os.environ)
    async with clients_of(settings) as (clients, project):
        fleet = Fleet(Store(clients.datastore(project)))
        await fleet.refresh([MACHINE_PROVIDER_KEY, CONFIGURATION_KEY])
        remotes = Remotes(
            session=clients.session, tokens=clients.identity, settings=settings, fleet=fleet
        )
        yield remotes.broker(), fleet


async def _lease(
    settings_file: Path | None,
    dimensions: Mapping[str, Dimension],
    template: str | None,
    duration: float,
    wait: float,
    request_id: str,
) -> LeaseAnswer:
    """Asks until there is a machine, a refusal, or no time left; always for the same lease."""
    async with _broker(settings_file) as (broker, fleet):
        wanted = {**(_dimensions(fleet, template) if template else {}), **dimensions}
        request = LeaseRequest(request_id=request_id, dimensions=wanted, duration=int(duration))
        end = asyncio.get_running_loop().time() + wait
        pause = FIRST_PAUSE
        with console(stderr=True).status(f"waiting for a machine (request {request_id}) ..."):
            while True:
                left = end - asyncio.get_running_loop().time()
                try:
                    found = await broker.lease(request)
                except TransientError as error:  # the same request again is the same lease
                    if left <= 0:
                        unknown = f"What came of it is not known; {_open(request_id)}"
                        raise OrderError(f"{error}. {unknown}") from None
                else:
                    waiting = found.error == "TRANSIENT_ERROR" or (
                        found.error is None and found.state in {"UNTRIAGED", "PENDING"}
                    )
                    if not waiting or left <= 0:
                        return found
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE)


def _together(given: Sequence[tuple[str, Dimension]]) -> dict[str, Dimension]:
    """The dimensions that were given; of labels there may be several."""
    labels = [str(value) for key, value in given if key == LABELS]
    return {**dict(given), **({LABELS: labels} if labels else {})}


def _dimensions(fleet: Fleet, template: str) -> dict[str, Dimension]:
    """What all machines of a template of the configuration in force have in common."""
    stored = fleet.configuration
    found = examine(stored.template_config, stored.manager_config, stored.files)
    known = {one.base_name: one for one in found.configuration.templates}
    if template not in known:
        names = ", ".join(sorted(known)) or "none"
        raise UnknownNameError(f"there is no template {template!r}. Known: {names}.")
    return shared_dimensions(known[template])


def _open(request_id: str) -> str:
    return (
        f"the request stays open: the same command with --request-id {request_id} goes on; once it "
        f"has a machine, `gce-backend release {request_id}` gives it back"
    )


def _told(request_id: str, found: LeaseAnswer) -> str:
    ends = found.lease_expiration_ts
    until = f" until {moment(ends)}" if ends is not None else ""
    return f"{found.hostname} is leased{until}\ngive it back: gce-backend release {request_id}"
