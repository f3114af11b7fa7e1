"""`pause`, `resume`, `drain`, `undrain`, `approve`, `lift-cap`: they need no running daemon.

They are written to Datastore, where a running daemon reads them within a minute, and one that is
down when it starts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from gce_backend.base.cause import caused_by
from gce_backend.base.clock import SystemClock
from gce_backend.base.dates import date
from gce_backend.base.errors import SettingsError
from gce_backend.cli.common import (
    clients_of,
    errors_as_messages,
    json_option,
    say,
    settings_option,
)
from gce_backend.cli.completion import complete_machines, complete_templates, complete_zones
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import (
    CONFIGURATION_KEY,
    CONTROL_KEY,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
)
from gce_backend.model.keys import Key
from gce_backend.model.orders import Control
from gce_backend.rules import orders
from gce_backend.rules.orders import Apply, ApplyToMachine
from gce_backend.rules.permits import lease_runs
from gce_backend.settings.settings import load

SOON = "A running daemon acts on it within a minute."

T = TypeVar("T")

reason_option = click.option("--reason", default="", help="Why, for those who wonder.")
template_option = click.option(
    "--template", default="", help="Only this template.", shell_complete=complete_templates
)
zone_option = click.option(
    "--zone", default="", help="Only this zone.", shell_complete=complete_zones
)


class Ordered(NamedTuple):
    """The orders in force, before and after one more."""

    before: Control
    after: Control


@click.command()
@settings_option
@template_option
@zone_option
@reason_option
@json_option
def pause(
    settings_file: Path | None, template: str, zone: str, reason: str, *, as_json: bool
) -> None:
    """Stops everything that changes the world; observing goes on.

    With --template or --zone, only for what belongs there.
    """

    async def order(store: Store) -> Ordered:
        if template or zone:
            fleet = Fleet(store)
            await fleet.load((InstanceTemplate, InstanceGroupManager))
            orders.check_scope(template, zone, fleet.templates, fleet.managers)
        apply = orders.pause(reason, _now(), template=template, zone=zone)
        return await _change_control(store, apply)

    with errors_as_messages():
        _check_reason(reason)
        done = _with_store(settings_file, order)
    say(f"paused{_where(template, zone)}. {SOON}", _shown(done), as_json=as_json)


@click.command()
@settings_option
@template_option
@zone_option
@click.option("--all", "everything", is_flag=True, help="End all pauses.")
@json_option
def resume(
    settings_file: Path | None, template: str, zone: str, *, everything: bool, as_json: bool
) -> None:
    """Ends a pause.

    That of everything, or that of exactly this --template and --zone.
    """
    if everything and (template or zone):
        raise click.UsageError("--all ends every pause: give it without --template and --zone")
    one = orders.resume(template=template, zone=zone)
    with errors_as_messages():
        done = _order(settings_file, orders.resume_all if everything else one)
        stopped = not load(settings_file, os.environ).actuate
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


@click.command()
@settings_option
@click.argument("name", shell_complete=complete_machines)
@reason_option
@json_option
def drain(settings_file: Path | None, name: str, reason: str, *, as_json: bool) -> None:
    """Takes a machine out of the fleet, when nobody holds it.

    NAME is the VM's name, or its whole key: template/revision/zone/name. The machine leaves the
    catalog, is deleted, and its group grows back to its minimum. `undrain` keeps it, until its
    deletion has begun.
    """
    with errors_as_messages():
        _check_reason(reason)
        key, machine = _order_about_machine(
            settings_file, name, lambda key, now: orders.drain(key, reason, now)
        )
    _say_of_machine(key, machine, _outlook(machine, _now()), as_json=as_json)


@click.command()
@settings_option
@click.argument("name", shell_complete=complete_machines)
@json_option
def undrain(settings_file: Path | None, name: str, *, as_json: bool) -> None:
    """Keeps a machine that was drained.

    NAME stays, unless its deletion has begun.
    """
    with errors_as_messages():
        key, machine = _order_about_machine(settings_file, name, lambda key, _: orders.undrain(key))
    _say_of_machine(key, machine, f"It is not drained any more. {SOON}", as_json=as_json)


@click.command()
@settings_option
@click.argument("revision")
@json_option
def approve(settings_file: Path | None, revision: str, *, as_json: bool) -> None:
    """Lets a held configuration come into force.

    REVISION is imported although it takes much away.
    """

    async def order(store: Store) -> tuple[Ordered, str]:
        fleet = Fleet(store)
        await fleet.refresh([CONFIGURATION_KEY])
        held = fleet.configuration.held_revision
        orders.check_approval(revision, held)
        return await _change_control(store, orders.approve(revision)), held

    with errors_as_messages():
        if not orders.is_revision(revision):
            raise SettingsError(
                f"{revision!r} is not a revision: the daemon's log and GET /api/control name the "
                "one that waits"
            )
        done, held = _with_store(settings_file, order)
    words = "was approved before" if done.before == done.after else "is approved"
    outlook = SOON if held else "No configuration waits now: it is let in when it is served."
    say(f"{revision} {words}. {outlook}", _shown(done), as_json=as_json)


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
def lift_cap(settings_file: Path | None, minutes: int, *, as_json: bool) -> None:
    """Lifts the caps on deletions for a while."""
    with errors_as_messages():
        done = _order(settings_file, orders.lift_cap(_now() + 60 * minutes))
    lifted = f"are lifted for {minutes} min" if minutes else "hold"
    say(f"the caps on deletions {lifted}. {SOON}", _shown(done), as_json=as_json)


def _check_reason(reason: str) -> None:
    if len(reason) > orders.MAX_REASON:
        raise SettingsError(f"--reason has more than {orders.MAX_REASON} characters")


def _where(template: str, zone: str) -> str:
    """What a pause is about, as the end of a sentence."""
    parts = (f" for template {template}" if template else "", f" in zone {zone}" if zone else "")
    return "".join(parts)


def _shown(done: Ordered) -> dict[str, Any]:
    return orders.shown(done.after, _now())


def _outlook(machine: Instance, now: float) -> str:
    """What becomes of a machine that was drained.

    Args:
        machine: its entity.
        now: Unix seconds.
    """
    if machine.deletion is not None:
        return "Its deletion has begun already."
    if machine.pending_deletion is not None:
        return "The Machine Provider has reclaimed it: it is deleted in any case."
    if lease_runs(machine, now):
        end = machine.lease.expiration if machine.lease is not None else None
        until = f" until {date(end):%Y-%m-%d %H:%M} UTC" if end else ""
        return f"Somebody holds it{until}: it goes afterwards. {SOON}"
    return f"It leaves the catalog, is deleted, and its group grows back. {SOON}"


def _say_of_machine(key: Key, machine: Instance, text: str, *, as_json: bool) -> None:
    drain_ = machine.drain
    document = {
        "name": key.name,
        "key": str(key),
        "drained": drain_ is not None,
        "reason": drain_.reason if drain_ is not None else None,
        "since": drain_.since if drain_ is not None else None,
        "outlook": text,
    }
    say(f"{key.name}: {text}", document, as_json=as_json)


def _order(settings_file: Path | None, apply: Apply) -> Ordered:
    """Writes an order into the Control entity."""
    return _with_store(settings_file, lambda store: _change_control(store, apply))


def _order_about_machine(
    settings_file: Path | None, name: str, order: Callable[[Key, float], ApplyToMachine]
) -> tuple[Key, Instance]:
    """Writes an order into a machine's entity; returns it as it is then."""

    async def write(store: Store) -> tuple[Key, Instance]:
        pages = [page async for page in store.read_versions(Instance.KIND)]
        key, now = orders.find_machine(name, (key for page in pages for key in page)), _now()
        fleet = Fleet(store)
        await fleet.refresh([*key.lineage, CONTROL_KEY])
        await fleet.order(
            [Change(key, order(key, now)), Change(CONTROL_KEY, orders.mention(key, now))]
        )
        return key, fleet.instances[key]

    return _with_store(settings_file, write)


async def _change_control(store: Store, apply: Apply) -> Ordered:
    fleet = Fleet(store)
    await fleet.refresh([CONTROL_KEY])
    before = fleet.control
    await fleet.order([Change(CONTROL_KEY, apply)])
    return Ordered(before, fleet.control)


def _now() -> float:
    return SystemClock().now()


def _with_store(settings_file: Path | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """Does something with the store that the settings name."""

    async def act() -> T:
        async with clients_of(load(settings_file, os.environ)) as (clients, project):
            return await work(Store(clients.datastore(project)))

    with caused_by(f"operator {click.get_current_context().info_name}"):
        return asyncio.run(act())
