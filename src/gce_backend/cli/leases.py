"""`lease` and `release`: leases a machine from the Machine Provider, and returns it."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from gce_backend.base.errors import OrderError
from gce_backend.cli.common import (
    INTERRUPTED,
    examples,
    json_option,
    say,
    settings_option,
)
from gce_backend.cli.completion import complete_templates
from gce_backend.cli.duration import Duration
from gce_backend.model.machine_token import Dimension
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.clients.machine_provider import LeaseAnswer

LABELS = "snapshot_labels"
_KINDS: Mapping[str, type] = {"num_cpus": int, "disk_gb": int, "memory_gb": float}
"""Dimensions that are numbers; the others are texts."""


class DimensionType(click.ParamType[tuple[str, Dimension]]):
    """One dimension of a machine: `os_family:LINUX` or `num_cpus=4`."""

    name = "key:value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Dimension]:
        """The key and the value, converted to its type."""
        if isinstance(value, tuple):
            return value
        separator = min((s for s in ":=" if s in value), key=value.index, default=":")
        key, _, text = (part.strip() for part in value.partition(separator))
        if not key or not text:
            self.fail(f"{value!r} is not a dimension: write e.g. os_family:LINUX", param, ctx)
        try:
            return key, _KINDS.get(key, str)(text)
        except ValueError:
            self.fail(f"{value!r}: {key} is a number", param, ctx)


dimension_option = click.option(
    "--dimension",
    "dimensions",
    type=DimensionType(),
    multiple=True,
    help="A dimension that the machine must have, e.g. os_family:LINUX; may be repeated.",
)


@click.command(
    epilog=examples(
        "gce-backend lease --dimension os_family:LINUX --duration 15m",
        "gce-backend lease --template linux-small --duration 2h --json",
    )
)
@settings_option
@dimension_option
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
@click.option("--indefinite", is_flag=True, help="Without end, until it is released.")
@click.option(
    "--wait",
    type=Duration(),
    default="5m",
    show_default=True,
    help="How long to wait for a machine; 0 only asks for one.",
)
@click.option(
    "--request-id",
    help="The lease's name; a repeated name means the same lease. By default, a new name.",
)
@json_option
def lease(
    settings: Settings,
    dimensions: Sequence[tuple[str, Dimension]],
    template: str | None,
    duration: float,
    wait: float,
    request_id: str | None,
    *,
    indefinite: bool,
    as_json: bool,
) -> None:
    """Leases a machine from the Machine Provider.

    While it waits, it shows the place in the queue and why. Ctrl-C cancels the request. Exits with
    1 when there is no machine within --wait: the request then stays open, and the same command with
    its --request-id continues to wait. `release` gives the machine back.
    """
    from gce_backend.cli import leasing

    if not dimensions and template is None:
        raise click.UsageError("name what the machine must have, with --dimension or --template")
    name, length = request_id or str(uuid.uuid4()), None if indefinite else duration
    try:
        found = asyncio.run(
            leasing.lease(settings, together(dimensions), template, length, wait, name)
        )
    except leasing.InterruptedRequestError as interrupted:
        done = interrupted.done
        left = leasing.open_request(name) if done is None else f"the request {name} {done}"
        click.echo(f"interrupted; {left}", err=True)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        click.echo("interrupted; no machine was asked for", err=True)
        sys.exit(INTERRUPTED)
    if found.state == "FULFILLED" and not found.hostname:
        raise OrderError(f"the lease {name} is over. Choose another --request-id.")
    document = {
        "request_id": name,
        "state": found.state,
        "hostname": found.hostname,
        "lease_ends_at": found.lease_expiration_ts,
    }
    if as_json or found.hostname:
        say(_told(name, found), document, as_json=as_json)
    if not found.hostname:
        click.echo(f"there is no machine yet; {leasing.open_request(name)}", err=True)
    sys.exit(0 if found.hostname or not wait else 1)


@click.command(epilog=examples("gce-backend release 5d0c3a52-5e4b-4a39-9a53-0c2f6f6f4f5e"))
@settings_option
@click.argument("request_id")
@json_option
def release(settings: Settings, request_id: str, *, as_json: bool) -> None:
    """Releases a leased machine, or cancels a request.

    REQUEST_ID is what `lease` called the lease, or its id; an administrator may also name the id of
    another's lease. The Machine Provider reclaims the machine: it is
    deleted. A request that waits for a machine is cancelled, where the Machine Provider has the
    API for that. Releasing it again is not an error.
    """
    from gce_backend.cli import leasing

    done = asyncio.run(leasing.release(settings, request_id))
    document = {
        "request_id": request_id,
        "released": True,
        "ended_before": done is leasing.Released.ENDED_BEFORE,
        "cancelled": done is leasing.Released.CANCELLED,
    }
    say(f"{request_id} {done}", document, as_json=as_json)


def together(given: Sequence[tuple[str, Dimension]]) -> dict[str, Dimension]:
    """The given dimensions in one mapping; only labels may be repeated."""
    labels = [str(value) for key, value in given if key == LABELS]
    return {**dict(given), **({LABELS: labels} if labels else {})}


def _told(request_id: str, found: LeaseAnswer) -> str:
    from gce_backend.cli.output import moment

    ends = found.lease_expiration_ts
    until = f" until {moment(ends)}" if ends is not None else " without end"
    return f"{found.hostname} is leased{until}\ngive it back: gce-backend release {request_id}"
