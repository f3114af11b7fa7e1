"""remove-cataloged-instances: machines that drain, or got lost, leave the catalog.

Per template and zone, old machines leave only as new ones have entered. Whoever holds a machine
keeps it: LEASED means wait, and so does ENTRY_NOT_FOUND while a lease known here is running.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeAlias

from gce_backend.actuation import Step, act_on_each
from gce_backend.context import Context
from gce_backend.deletion import is_gone
from gce_backend.errors import TransientError
from gce_backend.fleet import Change, when_present
from gce_backend.job import Job, Outcome
from gce_backend.lifecycle import is_lost, lease_runs, replace
from gce_backend.machine_provider import CatalogError
from gce_backend.models import CatalogState, Instance, Key
from gce_backend.rollout import Zone, removable, share_out

NAME = "remove-cataloged-instances"
BROKER = "machine-provider"

Apply: TypeAlias = Callable[[Instance | None], Instance | None]


async def run(context: Context) -> Outcome:
    """Takes out what may go now; asks nothing of a Machine Provider that does not answer."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    if context.conditions.blocked(BROKER, NAME):
        return Outcome(again_after=context.conditions.wait(BROKER, NAME))
    lost = [key for key in _lost(context) if await _is_truly_lost(context, key)]
    leaving = [*_leaving(context), *lost]
    down = asyncio.Event()

    async def remove(key: Key) -> Step:
        if down.is_set():
            return Step.NOTHING
        try:
            return await _remove(context, key)
        except TransientError as error:
            down.set()  # one that does not answer is not asked for every machine
            context.conditions.fail(
                BROKER, NAME, "Unavailable", str(error), retry_after=error.retry_after
            )
            raise

    outcome = await act_on_each(context, NAME, leaving, remove)
    if not down.is_set():
        context.conditions.clear(BROKER, NAME)
    return outcome


def _leaving(context: Context) -> Iterator[Key]:
    """The drained machines that may leave the catalog now."""
    zones: defaultdict[tuple[Key, str], list[Key]] = defaultdict(list)
    for manager in context.fleet.managers:
        revision = manager.parent
        if revision is not None and revision.parent is not None:
            zones[revision.parent, manager.name].append(manager)
    for managers in zones.values():
        drained = [key for key in managers if not context.fleet.is_active(key)]
        free = {
            str(key): key
            for manager in drained
            for key, instance in context.fleet.instances_of(manager)
            if _may_be_cataloged(instance) and not lease_runs(instance, context.clock.now())
        }
        if not free:
            continue
        rollout = context.settings.rollout
        count = removable(
            _zone(context, managers),
            max_unavailable=rollout.max_unavailable,
            exchange_share=rollout.exchange_share,
        )
        # What was refused as LEASED stands in nobody's way: another one goes in its place.
        ready = [name for name in free if not context.conditions.of(name)]
        waiting = [name for name in free if context.conditions.of(name)]
        for name in (*share_out(count, ready), *waiting):
            yield free[name]


def _zone(context: Context, managers: list[Key]) -> Zone:
    now = context.clock.now()
    minimum = maximum = active_target = drained_target = available = leased = 0
    for manager in managers:
        active = context.fleet.is_active(manager)
        entity = context.fleet.managers[manager]
        group = context.world.groups.get(manager)
        target = group.target_size if group is not None else 0
        if active:
            minimum, maximum = entity.minimum_size, entity.maximum_size
            active_target = target
        else:
            drained_target += target
        for _, instance in context.fleet.instances_of(manager):
            if instance.catalog is not CatalogState.CATALOGED or not _may_be_cataloged(instance):
                continue
            if lease_runs(instance, now):
                leased += 1
            elif instance.lost_since is None:
                available += 1
    return Zone(minimum, maximum, active_target, drained_target, available, leased)


def _may_be_cataloged(instance: Instance) -> bool:
    return (
        instance.catalog in {CatalogState.CATALOGED, CatalogState.ADDING}
        and instance.pending_deletion is None
        and instance.deletion is None
    )


def _lost(context: Context) -> list[Key]:
    now = context.clock.now()
    patience = context.settings.machine_provider.lost_seconds
    return [
        key
        for key, instance in context.fleet.instances.items()
        if _may_be_cataloged(instance)
        and is_lost(instance, now, patience)
        and not context.conditions.blocked(str(key), NAME)
    ]


async def _is_truly_lost(context: Context, key: Key) -> bool:
    """A machine that its group does not list any more is looked for once more at Compute."""
    instance = context.fleet.instances[key]
    if instance.missing_since is None:
        return True
    try:
        return await is_gone(context, key)
    except TransientError:
        return False


async def _remove(context: Context, key: Key) -> Step:
    instance = context.fleet.instances.get(key)
    now = context.clock.now()
    if instance is None or not _may_be_cataloged(instance) or lease_runs(instance, now):
        return Step.NOTHING
    if key in context.world.adding:
        return Step.WAITING  # an answer now could be older than its entry
    answer = await context.broker().delete_machine(key.name)
    if answer.error == CatalogError.LEASED:
        message = "Somebody holds it: the Machine Provider does not let it go yet."
        context.conditions.fail(str(key), NAME, "Leased", message)
        return Step.HELD
    if answer.error not in {None, CatalogError.ENTRY_NOT_FOUND}:
        message = f"The Machine Provider refused: {answer.error}"
        context.conditions.fail(str(key), NAME, "Refused", message)
        return Step.HELD
    state = CatalogState.REMOVED if answer.error is None else CatalogState.ABSENT
    written = await context.fleet.change([Change(key, _became(state, now))])
    if written:
        context.log.info(
            "instance.uncataloged",
            job=NAME,
            instance=key.name,
            zone=key.parent.name if key.parent else "",
            state=state.value,
        )
    return Step.CHANGED if written else Step.NOTHING


def _became(state: CatalogState, now: float) -> Apply:
    def apply(instance: Instance) -> Instance:
        if not _may_be_cataloged(instance):
            return instance
        if state is CatalogState.ABSENT and lease_runs(instance, now):
            return instance
        return replace(instance, catalog=state)

    return when_present(apply)


JOB = Job(name=NAME, run=run, timeout=120.0, wakes=("delete-drained-instances",))
