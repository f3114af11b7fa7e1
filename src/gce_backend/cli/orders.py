"""Orders, from `pause` to `messages ack`: they need no running daemon.

Orders are written to Datastore. A running daemon reads them within a minute, and a stopped one when
it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from gce_backend.base.clock import SystemClock
from gce_backend.base.dates import UnixSeconds, date
from gce_backend.base.errors import SettingsError
from gce_backend.base.plurals import plural
from gce_backend.cli.common import (
    examples,
    json_option,
    say,
    settings_option,
)
from gce_backend.cli.completion import complete_machines, complete_templates, complete_zones
from gce_backend.model.entities import CatalogState, SetAsideMessage
from gce_backend.rules import orders
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.selector import Selector, parse_selector
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.cli.ordering import OrderAboutMachine, Ordered, OrderedMachine

SOON = "A running daemon acts on it within a minute."

reason_option = click.option("--reason", default="", help="Why, for other operators.")
template_option = click.option(
    "--template", default="", help="Only this template.", shell_complete=complete_templates
)
zone_option = click.option(
    "--zone", default="", help="Only this zone.", shell_complete=complete_zones
)


@click.command()
@settings_option
@template_option
@zone_option
@reason_option
@json_option
def pause(settings: Settings, template: str, zone: str, reason: str, *, as_json: bool) -> None:
    """Stops all changes to the fleet; observing continues.

    With --template or --zone, only for that part of the fleet.
    """
    from gce_backend.cli import ordering

    _check_reason(reason)
    done = ordering.pause(settings, template, zone, reason)
    say(f"paused{_where(template, zone)}. {SOON}", _shown(done), as_json=as_json)


@click.command()
@settings_option
@template_option
@zone_option
@click.option("--all", "everything", is_flag=True, help="End all pauses.")
@json_option
def resume(
    settings: Settings, template: str, zone: str, *, everything: bool, as_json: bool
) -> None:
    """Ends a pause.

    The pause of the whole fleet, or exactly the one of this --template and --zone.
    """
    from gce_backend.cli import ordering

    if everything and (template or zone):
        raise click.UsageError("--all ends every pause: give it without --template and --zone")
    one = orders.resume(template=template, zone=zone)
    done = ordering.order(settings, lambda _: orders.resume_all if everything else one)
    stopped = not settings.actuate
    where = _where(template, zone)
    changed = done.before != done.after
    lines = [f"resumed{where}. {SOON}" if changed else f"nothing was paused{where}."]
    lines += [
        f"{left}. It stays in force; `{left.ended_by}` ends it."
        for left in done.after.pauses_in_force
    ]
    if stopped:
        lines.append("These settings have actuate = false: a daemon with them stays paused.")
    say("\n".join(lines), _shown(done), as_json=as_json)


class SelectorType(click.ParamType[Selector]):
    """Which machines: `template=linux-small,state=stopped`."""

    name = "selector"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Selector:
        """The selector, checked."""
        if isinstance(value, Selector):
            return value
        try:
            return parse_selector(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def machines_option(order: Callable[..., None]) -> Callable[..., None]:
    """Which machines an order is about: by name, by a selector, or both."""
    for add in (
        settings_option,
        click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_machines),
        click.option(
            "--selector",
            "-l",
            type=SelectorType(),
            help="All machines that match, e.g. template=linux-small,state=stopped,age>2h.",
        ),
        click.option("--dry-run", is_flag=True, help="Only list the machines that are meant."),
    )[::-1]:
        order = add(order)
    return order


@click.command(
    epilog=examples(
        'gce-backend drain VM --reason "a bad disk"',
        "gce-backend drain --selector 'template=linux-small,age>30d' --max-unavailable 2",
    )
)
@machines_option
@click.option(
    "--max-unavailable",
    type=click.IntRange(min=1),
    help="Let machines leave the catalog only while at most so many of their template and zone are "
    "lacking; by default all leave at once.",
)
@reason_option
@json_option
def drain(max_unavailable: int | None, reason: str, **asked: Any) -> None:
    """Removes machines from the fleet after their leases end.

    NAME is the VM's name, or its whole key: template/revision/zone/name. The machine leaves the
    catalog and is deleted. Its group grows again when it has fewer than its minimum then, if the
    configuration names it. `undrain` keeps the machine, until its deletion has begun.
    """
    _order_machines(
        lambda key, now, who: orders.drain(key, reason, now, max_unavailable, by=who),
        _outlook,
        reason,
        **asked,
    )


@click.command(epilog=examples("gce-backend undrain VM", "gce-backend undrain -l zone=us-east1-b"))
@machines_option
@json_option
def undrain(**asked: Any) -> None:
    """Keeps drained machines.

    NAME stays, unless its deletion has begun.
    """
    text = f"It is no longer drained. {SOON}"
    _order_machines(lambda key, *_: orders.undrain(key), lambda *_: text, **asked)


@click.command(epilog=examples('gce-backend cordon VM --reason "a look at its disk"'))
@machines_option
@reason_option
@json_option
def cordon(reason: str, **asked: Any) -> None:
    """Keeps machines' VMs, and does not offer them.

    NAME is the VM's name, or its whole key: template/revision/zone/name. The machine leaves the
    catalog, a leased one after its lease ends. Nothing deletes its VM until `uncordon`, and its
    group makes no other in its place.
    """
    _order_machines(
        lambda key, now, who: orders.cordon(key, reason, now, by=who), _kept, reason, **asked
    )


@click.command(epilog=examples("gce-backend uncordon VM", "gce-backend uncordon -l state=cordoned"))
@machines_option
@json_option
def uncordon(**asked: Any) -> None:
    """Ends the cordon of machines.

    NAME is offered again. It is deleted if the configuration no longer names its group, or if it
    was drained, reclaimed or lost by the catalog in the meantime.
    """
    _order_machines(lambda key, *_: orders.uncordon(key), lambda one, _: _freed(one), **asked)


@click.command()
@settings_option
@click.argument("revision")
@json_option
def approve(settings: Settings, revision: str, *, as_json: bool) -> None:
    """Approves a held configuration.

    REVISION, or its first characters, comes into force although it removes many machines. It has to
    be the one that waits.
    """
    from gce_backend.cli import ordering

    if not orders.is_revision(revision):
        raise SettingsError(
            f"{revision!r} is not a revision: the daemon's log and GET /api/control name the "
            "one that waits"
        )
    done, held = ordering.approve(settings, revision)
    words = "was approved before" if done.before == done.after else "is approved"
    say(f"{held} {words}. {SOON}", _shown(done), as_json=as_json)


@click.command("lift-cap")
@settings_option
@click.option(
    "--minutes",
    type=click.IntRange(0, int(orders.MAX_LIFT_SECONDS / 60)),
    default=int(orders.LIFT_SECONDS / 60),
    show_default=True,
    help="For how long; 0 ends it.",
)
@json_option
def lift_cap(settings: Settings, minutes: int, *, as_json: bool) -> None:
    """Lifts the caps on deletions for a while."""
    from gce_backend.cli import ordering

    done = ordering.order(settings, lambda who: orders.lift_cap(_now() + 60 * minutes, who))
    lifted = f"are lifted for {minutes} min" if minutes else "apply"
    say(f"the caps on deletions {lifted}. {SOON}", _shown(done), as_json=as_json)


@click.command()
@settings_option
@click.argument("action", type=click.Choice(["list", "ack"]), default="list")
@click.argument("message_ids", metavar="[ID]...", nargs=-1)
@json_option
def messages(
    settings: Settings, action: str, message_ids: tuple[str, ...], *, as_json: bool
) -> None:
    """Lists or acknowledges messages that were set aside.

    `list`, which is the default, shows the messages with these IDs, or all of them. `ack` says that
    somebody has looked at them: they are kept, and no longer a problem.
    """
    from gce_backend.cli import ordering

    if action == "list":
        _show_messages(ordering.set_aside(settings, message_ids), as_json=as_json)
        return
    done = ordering.acknowledge(settings, message_ids)
    say(f"{plural(done, 'message')} acknowledged", {"acknowledged": done}, as_json=as_json)


def _show_messages(found: Sequence[tuple[str, SetAsideMessage]], *, as_json: bool) -> None:
    from gce_backend.cli.output import cell, moment, one_line, show, table

    if as_json:
        document = [{"message_id": name, **asdict(message)} for name, message in found]
        say("", {"set_aside": document}, as_json=True)
        return
    if not found:
        say("no message is set aside", {}, as_json=False)
        return
    listing = table("ID", "RECEIVED", "SEEN BY", "REASON AND DATA")
    for name, message in found:
        seen = message.seen_by or ("somebody" if message.seen is not None else "")
        words = one_line(f"{message.reason} {message.data}")
        listing.add_row(cell(name), cell(moment(message.received)), cell(seen), cell(words))
    show(listing)


def _order_machines(
    apply: OrderAboutMachine,
    outlook: Callable[[OrderedMachine, UnixSeconds], str],
    reason: str = "",
    *,
    settings: Settings,
    names: Sequence[str],
    selector: Selector | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Gives an order about machines, and says what becomes of each.

    Args:
        apply: makes the order, given the machine, the time and who gives it.
        outlook: says what becomes of a machine.
    """
    from gce_backend.cli import ordering

    if not names and selector is None:
        raise click.UsageError("name machines, or choose them with --selector")
    _check_reason(reason)
    meant = ordering.Meant(names, selector)
    done = ordering.order_about_machines(settings, meant, apply, dry_run=dry_run)
    now = _now()
    told = [(one, "Nothing is changed." if dry_run else outlook(one, now)) for one in done]
    document = {"dry_run": dry_run, "machines": [_document(one, text) for one, text in told]}
    say("\n".join(f"{one.key.name}: {text}" for one, text in told), document, as_json=as_json)


def _now() -> float:
    return SystemClock().now()


def _check_reason(reason: str) -> None:
    if len(reason) > orders.MAX_REASON:
        raise SettingsError(f"--reason has more than {orders.MAX_REASON} characters")


def _where(template: str, zone: str) -> str:
    """The scope of a pause, as the end of a sentence."""
    parts = (f" for template {template}" if template else "", f" in zone {zone}" if zone else "")
    return "".join(parts)


def _shown(done: Ordered) -> dict[str, Any]:
    return orders.shown(done.after, _now())


def _outlook(done: OrderedMachine, now: UnixSeconds) -> str:
    """A sentence that says what happens to a drained machine."""
    machine = done.instance
    if machine.deletion is not None:
        return "Its deletion has begun already."
    if machine.cordon is not None:
        return f"It is cordoned: it is deleted after `gce-backend uncordon {done.key.name}`."
    if machine.pending_deletion is not None:
        return "The Machine Provider has reclaimed it: it is deleted anyway."
    soon = _soon(done)
    if lease_runs(machine, now):
        end = machine.lease.expiration if machine.lease is not None else None
        until = f" until {date(end):%Y-%m-%d %H:%M} UTC" if end else ""
        return f"Somebody holds it{until}: it is deleted after its lease ends. {soon}"
    if not done.active:
        group = "Its group does not grow back: the configuration no longer names it."
    else:
        group = f"Its group grows back if it has fewer than {done.minimum} then."
    patience = machine.drain.max_unavailable if machine.drain is not None else None
    when = f" once at most {patience} of its template and zone are lacking" if patience else ""
    return f"It leaves the catalog{when} and is deleted. {group} {soon}"


def _kept(done: OrderedMachine, now: UnixSeconds) -> str:
    """What becomes of a machine that was cordoned."""
    if lease_runs(done.instance, now):
        return f"Somebody holds it: it leaves the catalog after its lease ends. {_soon(done)}"
    return f"It leaves the catalog, and its VM is kept. {_soon(done)}"


def _freed(done: OrderedMachine) -> str:
    """What becomes of a machine that was uncordoned."""
    machine = done.instance
    reasons = {
        "The Machine Provider has reclaimed it": machine.pending_deletion is not None,
        "It is drained": machine.drain is not None,
        "The catalog lost it": machine.catalog is CatalogState.ABSENT,
        "The configuration no longer names its group": not done.active,
    }
    why = next((reason for reason, holds in reasons.items() if holds), None)
    told = f"{why}: it is deleted." if why else "It is offered again."
    return f"{told} {_soon(done)}"


def _soon(done: OrderedMachine) -> str:
    return f"Nothing is done about it until {done.pause} ends the pause." if done.pause else SOON


def _document(done: OrderedMachine, text: str) -> dict[str, Any]:
    key, machine = done.key, done.instance
    ordered = machine.cordon or machine.drain
    return {
        "name": key.name,
        "key": str(key),
        "drained": machine.drain is not None,
        "cordoned": machine.cordon is not None,
        "reason": ordered.reason if ordered is not None else None,
        "since": ordered.since if ordered is not None else None,
        "by": ordered.by if ordered is not None else None,
        "outlook": text,
    }
