"""`gce-backend leaks`: lists what carries this store's mark and belongs to nothing, with costs."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import click
import msgspec

from gce_backend.cli.common import examples, json_option, say, settings_option
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.gce_client import ComputeClient
    from gce_backend.setup.leaks import Audit, Leak


class Document(msgspec.Struct, frozen=True):
    """The outcome of `leaks`.

    Attributes:
        leaks: what belongs to nothing.
        cost_per_day: about what all of them cost in a day, as far as prices are known.
        currency: of the costs.
        deleted: the name of the one that was deleted; "" when none was.
        notes: why the list may be incomplete.
    """

    leaks: tuple[Leak, ...]
    cost_per_day: float
    currency: str
    deleted: str
    notes: tuple[str, ...] = ()


@click.command(
    epilog=examples("gce-backend leaks", "gce-backend leaks --delete us-east1-b/linux-0123-x7")
)
@settings_option
@click.option(
    "--delete",
    "name",
    metavar="NAME",
    default="",
    help="Delete the leak of this name, unless somebody holds a machine of it.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def leaks(settings: Settings, name: str, *, yes: bool, as_json: bool) -> None:
    """Lists what carries this store's mark and belongs to nothing.

    Those are VMs, groups and instance templates that the daemon made and no longer has in its
    store, and disks that no VM uses any longer. VMs and disks have about what they cost in a day.
    Nothing is changed without --delete, which deletes no disk: `--json` names the command that
    does. To take a group and its template back, submit the fields of its revision again.
    """
    document = asyncio.run(_leaks(settings, name, yes=yes, ask=not as_json))
    if as_json:
        say("", document, as_json=True)
        return
    for note in document.notes:
        click.echo(f"not everything could be seen: {note}", err=True)
    if document.deleted:
        click.echo(f"{document.deleted} is deleted")
    elif name:
        click.echo("nothing was deleted")
    else:
        _show(document)


async def _leaks(settings: Settings, name: str, *, yes: bool, ask: bool) -> Document:
    from gce_backend.base.clock import SystemClock
    from gce_backend.cli.common import clients_of
    from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
    from gce_backend.daemon.clients import Remotes
    from gce_backend.fleet.picture import Fleet
    from gce_backend.fleet.store import Store
    from gce_backend.setup import leaks as audit

    async with clients_of(settings) as (clients, project):
        fleet = Fleet(Store(clients.datastore(project)))
        await fleet.load()
        calls = dict.fromkeys(QuotaGroup, settings.compute.calls_per_minute)
        compute = clients.compute(CallBudget(SystemClock(), calls))

        async def price(project: str, zone: str, machine_type: str) -> float | None:
            return await _price(settings, compute, (project, zone, machine_type))

        found = await audit.find(fleet, compute, settings.owner, price)
        deleted = ""
        if name:
            leak = audit.the_leak(found, name)
            question = f"Delete the {leak.kind} {leak.name} in {leak.zone or leak.project}?"
            if yes or (ask and click.confirm(question)):
                remotes = Remotes(
                    session=clients.session,
                    tokens=clients.identity,
                    settings=settings,
                    fleet=fleet,
                )
                await audit.delete(compute, remotes.broker(), leak, str(uuid.uuid4()))
                deleted = leak.name
        return _document(found, settings.cost.currency, deleted)


async def _price(
    settings: Settings, compute: ComputeClient, place: tuple[str, str, str]
) -> float | None:
    """About what a machine costs in an hour, from its project, zone and machine type."""
    from gce_backend.base.errors import RemoteError
    from gce_backend.rules.catalog_entry import Shape
    from gce_backend.rules.cost import hourly_price, is_listed

    machine_type, shape = place[2], None
    if place[1] and machine_type and not is_listed(machine_type, settings.cost.prices):
        try:
            known = await compute.get_machine_type(*place)
        except RemoteError:
            return None
        shape = Shape(known.guest_cpus, known.memory_mb / 1024)
    return hourly_price(machine_type, shape, settings.cost.prices)


def _document(found: Audit, currency: str, deleted: str) -> Document:
    return Document(found.leaks, found.cost_per_day, currency, deleted, found.unsure)


def _show(document: Document) -> None:
    from gce_backend.cli.output import cell, show, table

    if not document.leaks:
        click.echo("nothing leaks")
        return
    numbers = ("machines", "a day")
    rows = table("kind", "project", "zone", "type", "machines", "a day", "name", numbers=numbers)
    disks = [one.command for one in document.leaks if one.kind == "disk"]
    for one in document.leaks:
        cost = "" if one.cost_per_day is None else f"{one.cost_per_day:.2f}"
        values = (one.kind, one.project, one.zone, one.machine_type, one.machines or "", cost)
        rows.add_row(*map(cell, (*values, one.name)))
    show(rows)
    for command in disks:
        click.echo(command)
    if document.cost_per_day:
        click.echo(f"about {document.cost_per_day:.2f} {document.currency} a day")
