"""`gce-backend adopt`: adopts what an earlier release or a lost store created."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
import msgspec

from gce_backend.cli.common import examples, json_option, say, settings_option
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.setup.adoption import Adoptable

WARNING = (
    "No other daemon may use these: two daemons with one group would delete each other's machines."
)


class Document(msgspec.Struct, frozen=True):
    """The outcome of `adopt`.

    Attributes:
        store: the id of this store after the command; "" when it has none yet.
        found: what can be adopted.
        adopted: whether it was.
        notes: why the list may be incomplete.
    """

    store: str
    found: tuple[Adoptable, ...]
    adopted: bool
    notes: tuple[str, ...] = ()


@click.command(epilog=examples("gce-backend adopt", "gce-backend adopt --store 0123456789ab --yes"))
@settings_option
@click.option(
    "--store",
    "lost",
    metavar="ID",
    default="",
    callback=lambda _, __, value: _store_id(value),
    help="Take over the id of a lost store, and with it everything that carries the id.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def adopt(settings: Settings, lost: str, *, yes: bool, as_json: bool) -> None:
    """Adopts templates and groups that do not name their store.

    An earlier release made them, or a store that is lost. Shows them first, then asks. With --json
    nothing is adopted without --yes. Nothing at Compute Engine is changed.
    """
    document = asyncio.run(_adopt(settings, lost, yes=yes, ask=not as_json))
    if as_json:
        say("", document, as_json=True)
        return
    if not document.adopted:
        click.echo("nothing to adopt" if not document.found else "nothing was adopted")
        return
    click.echo(f"{len(document.found)} adopted.")
    if lost:
        click.echo(f"This store is {lost} from now on: restart the daemon.")


def _store_id(value: str) -> str:
    if value and (len(value) != 12 or set(value) - set("0123456789abcdef")):
        raise click.BadParameter("an id is 12 hexadecimal digits")
    return value


async def _adopt(settings: Settings, lost: str, *, yes: bool, ask: bool) -> Document:
    from gce_backend.base.cause import caused_by
    from gce_backend.base.clock import SystemClock
    from gce_backend.cli.common import clients_of, who_orders
    from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
    from gce_backend.fleet.picture import Fleet
    from gce_backend.fleet.schema import check
    from gce_backend.fleet.store import Store
    from gce_backend.rules.ownership import Mark
    from gce_backend.setup import adoption

    async with clients_of(settings) as (clients, project):
        store = Store(clients.datastore(project))
        await check(store)
        fleet = Fleet(store)
        await fleet.load()
        calls = dict.fromkeys(QuotaGroup, settings.compute.calls_per_minute)
        compute = clients.compute(CallBudget(SystemClock(), calls))
        findings = adoption.Findings({})
        if lost:
            found = await adoption.find_of_store(fleet, compute, Mark(settings.owner, lost))
        else:
            mark = Mark(settings.owner, fleet.identity)
            findings = await adoption.find_unmarked(fleet, compute, mark)
            found = list(findings.adoptable.values())
        wanted = yes
        if ask:
            _show(found, findings.unsure)
            wanted = yes or (bool(found) and click.confirm(f"{WARNING} Adopt them?"))
        if not found or not wanted:
            return Document(fleet.identity, tuple(found), adopted=False, notes=findings.unsure)
        with caused_by("operator adopt", await who_orders(clients)):
            if lost:
                await adoption.take_over(fleet, lost)
            else:
                await adoption.adopt(fleet, findings)
        return Document(fleet.identity, tuple(found), adopted=True, notes=findings.unsure)


def _show(found: list[Adoptable], unsure: tuple[str, ...]) -> None:
    from gce_backend.cli.output import show, table

    for note in unsure:
        click.echo(f"not everything could be seen: {note}", err=True)
    if not found:
        return
    rows = table("kind", "project", "zone", "machines", "id", "name", numbers=("machines",))
    for one in found:
        values = (one.kind, one.project, one.zone, one.machines or "", one.gce_id, one.name)
        rows.add(*values)
    show(rows)
