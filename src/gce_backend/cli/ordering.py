"""The work of the commands for orders, on the store alone: they need no running daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import click

from gce_backend.base.cause import caused_by
from gce_backend.base.clock import SystemClock
from gce_backend.base.dates import UnixSeconds
from gce_backend.cli.common import store_of
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import (
    CONFIGURATION_KEY,
    CONTROL_KEY,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    SetAsideMessage,
)
from gce_backend.model.keys import MachineKey
from gce_backend.model.orders import Control
from gce_backend.rules import orders
from gce_backend.rules.orders import Apply, ApplyToMachine
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.selector import Candidate, Selector
from gce_backend.rules.states import stored_machine_state
from gce_backend.settings.settings import Settings

T = TypeVar("T")
OrderAboutMachine: TypeAlias = Callable[[MachineKey, UnixSeconds, str], ApplyToMachine]


class Ordered(NamedTuple):
    """The orders in force, before and after an order."""

    before: Control
    after: Control


def order(settings: Settings, apply: Callable[[str], Apply]) -> Ordered:
    """Writes an order into the Control entity.

    Args:
        apply: makes the order, given who gives it.
    """
    return _with_store(settings, lambda store, who: _change_control(store, apply(who)))


def pause(settings: Settings, template: str, zone: str, reason: str) -> Ordered:
    """Stores a pause of an existing scope.

    Raises:
        UnknownNameError: there is no such template or zone.
        BackendError: the store could not be read or written.
    """

    async def write(store: Store, who: str) -> Ordered:
        if template or zone:
            fleet = Fleet(store)
            await fleet.load((InstanceTemplate, InstanceGroupManager))
            orders.check_scope(template, zone, fleet.templates, fleet.managers)
        apply = orders.pause(reason, SystemClock().now(), template=template, zone=zone, by=who)
        return await _change_control(store, apply)

    return _with_store(settings, write)


def order_rollout(
    settings: Settings, name: str, make: Callable[[InstanceTemplate, float, str], Apply]
) -> Ordered:
    """Stores an order about a template's roll-out.

    Args:
        name: the template's base_name.
        make: makes the order of its entity, the time, and who gives it.

    Raises:
        UnknownNameError: there is no such template.
        OrderError: the order cannot be carried out.
        BackendError: the store could not be read or written.
    """

    async def write(store: Store, who: str) -> Ordered:
        fleet = Fleet(store)
        await fleet.load((InstanceTemplate,))
        template = orders.the_template(name, fleet.templates)
        return await _change_control(store, make(template, SystemClock().now(), who))

    return _with_store(settings, write)


def approve(settings: Settings, revision: str) -> tuple[Ordered, str]:
    """Approves the held revision, given its name or the first characters; also returns its name.

    Raises:
        UnknownNameError: no revision is held, or another one is.
        BackendError: the store could not be read or written.
    """

    async def write(store: Store, who: str) -> tuple[Ordered, str]:
        fleet = Fleet(store)
        await fleet.refresh([CONFIGURATION_KEY])
        held = orders.the_held(revision, fleet.configuration.held_revision)
        return await _change_control(store, orders.approve(held, who)), held

    return _with_store(settings, write)


class OrderedMachine(NamedTuple):
    """A machine after an order about it.

    Attributes:
        active: whether the configuration names its group.
        minimum: machines that its group keeps at least.
        pause: the pauses that hold it, in words; "" when none does.
    """

    key: MachineKey
    instance: Instance
    active: bool
    minimum: int
    pause: str


class Meant(NamedTuple):
    """The machines that an order is about.

    Attributes:
        names: VMs' names or whole keys.
        selector: which others; None for none.
    """

    names: Sequence[str]
    selector: Selector | None


def order_about_machines(
    settings: Settings,
    meant: Meant,
    apply: OrderAboutMachine,
    *,
    dry_run: bool = False,
) -> list[OrderedMachine]:
    """Writes an order into the entities of machines.

    Args:
        apply: makes the order, given the machine, the time and who gives it.
        dry_run: write nothing.

    Raises:
        UnknownNameError: there is no such machine.
        OrderError: it cannot be carried out for one of them.
        BackendError: the store could not be read or written.
    """
    actuate = settings.actuate

    async def write(store: Store, who: str) -> list[OrderedMachine]:
        fleet, now = Fleet(store), SystemClock().now()
        keys = await _meant(store, fleet, meant, now)
        if not dry_run:
            changes: list[Change[Any]] = [Change(key, apply(key, now, who)) for key in keys]
            await fleet.order([*changes, Change(CONTROL_KEY, orders.mention(keys, now))])
        return [_ordered(fleet, key, actuate=actuate) for key in keys]

    return _with_store(settings, write)


async def _meant(store: Store, fleet: Fleet, meant: Meant, now: UnixSeconds) -> list[MachineKey]:
    """The machines that are meant; they and what is above them are read."""
    if meant.selector is None:
        pages = [page async for page in store.read_versions(Instance.KIND)]
        machines = [key for page in pages for key in page if isinstance(key, MachineKey)]
        keys = orders.machines_meant(meant.names, (), machines)
        await fleet.refresh([CONTROL_KEY, *dict.fromkeys(up for key in keys for up in key.lineage)])
        return keys
    await fleet.load()
    chosen = [
        key
        for key, instance in fleet.instances.items()
        if instance.deletion is None and meant.selector.matches(_candidate(fleet, key, now))
    ]
    return orders.machines_meant(meant.names, chosen, list(fleet.instances))


def _candidate(fleet: Fleet, key: MachineKey, now: UnixSeconds) -> Candidate:
    instance, active = fleet.instances[key], fleet.is_active(key.group)
    since = instance.listed_since
    return Candidate(
        template=key.base_name,
        zone=key.zone,
        state=stored_machine_state(instance, now, active=active),
        age=None if since is None else now - since,
        leased=lease_runs(instance, now),
    )


def _ordered(fleet: Fleet, key: MachineKey, *, actuate: bool) -> OrderedMachine:
    pauses = [f"`{it.ended_by}`" for it in fleet.control.pauses_in_force if it.covers(key)]
    pauses += [] if actuate else ["actuate = true in the settings"]
    manager = fleet.managers.get(key.group)
    return OrderedMachine(
        key=key,
        instance=fleet.instances[key],
        active=fleet.is_active(key.group),
        minimum=manager.minimum_size if manager is not None else 0,
        pause=" and ".join(pauses),
    )


def set_aside(settings: Settings, message_ids: Sequence[str]) -> list[tuple[str, SetAsideMessage]]:
    """Messages that were set aside, with their ids, newest first.

    Args:
        message_ids: of those that are wanted; none means all.

    Raises:
        UnknownNameError: one of them is not kept.
        BackendError: the store could not be read.
    """

    async def read(store: Store, _: str) -> list[tuple[str, SetAsideMessage]]:
        fleet = Fleet(store)
        await fleet.load((SetAsideMessage,))
        wanted = orders.messages_meant(message_ids, fleet.set_aside)
        found = [(key.name, fleet.set_aside[key]) for key in wanted]
        return sorted(found, key=lambda one: (one[1].received, one[0]), reverse=True)

    return _with_store(settings, read)


def acknowledge(settings: Settings, message_ids: Sequence[str]) -> int:
    """Marks messages that were set aside as seen; returns how many were unseen.

    Raises:
        UnknownNameError: one of them is not kept.
        BackendError: the store could not be read or written.
    """

    async def write(store: Store, who: str) -> int:
        fleet = Fleet(store)
        await fleet.load((SetAsideMessage,))
        keys = orders.messages_meant(message_ids, fleet.set_aside)
        apply = orders.acknowledge(SystemClock().now(), who)
        return await fleet.order([Change(key, apply) for key in keys])

    return _with_store(settings, write)


async def _change_control(store: Store, apply: Apply) -> Ordered:
    fleet = Fleet(store)
    await fleet.refresh([CONTROL_KEY])
    before = fleet.control
    await fleet.order([Change(CONTROL_KEY, apply)])
    return Ordered(before, fleet.control)


def _with_store(settings: Settings, work: Callable[[Store, str], Awaitable[T]]) -> T:
    """Does something with the store that the settings name, as who runs the command."""

    async def act() -> T:
        async with store_of(settings) as (store, who):
            with caused_by(f"operator {command}", who):
                return await work(store, who)

    command = click.get_current_context().info_name
    return asyncio.run(act())
