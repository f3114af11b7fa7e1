"""remove-cataloged-instances: removes machines that drain or got lost from the catalog.

In each place, old machines leave only as new ones enter; machines that an operator drains
or cordons leave at once. Lessees keep their machines: LEASED means wait, and so does
ENTRY_NOT_FOUND while a known lease runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from gce_backend.actions import announcements, lessee_news, rollouts, unknown_machines
from gce_backend.actions.broker_turns import BROKER, BrokerTurns
from gce_backend.actions.canaries import canaries
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.lease_ends import end_of, lease_entry
from gce_backend.actions.places import Place, groups_at, limits_at, place_of
from gce_backend.actions.vm_looks import is_gone
from gce_backend.base.errors import RemoteError
from gce_backend.clients.machine_provider import CatalogError, EntryOf
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey, TemplateKey
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.cataloging import (
    may_be_cataloged,
    removal_refused,
    settles_in,
    uncataloged,
)
from gce_backend.rules.facets import Facet
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.rollout import (
    PlaceRollout,
    drainable,
    in_turn,
    removable,
    share_out,
    stays_apart,
)
from gce_backend.rules.sightings import MISSING_SECONDS, is_lost

LEASED = "Leased"
REFUSED = "Refused"
UNSETTLED = "Unsettled"


async def run(context: Context) -> Outcome:
    """Removes machines that may leave now; stops asking when the Machine Provider is silent."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    if context.conditions.blocked(BROKER):
        return Outcome(again_after=context.conditions.wait(BROKER))
    await announcements.ask(context)
    await lessee_news.tell(context)
    lost = dict.fromkeys(_lost(context))  # in their order
    drained = await _look_again(context, list(_leaving(context)))
    leaving = list(dict.fromkeys((*drained, *_ordered_out(context), *lost)))
    turns = BrokerTurns(context)

    async def remove_in_turn(key: MachineKey) -> Result:
        if key in lost and not await _is_truly_lost(context, key):
            return Result.NOTHING
        return await turns.ask(lambda: _remove(context, key))

    outcome = await act_on_each(context, leaving, remove_in_turn)
    if not turns.silent:
        context.conditions.clear(BROKER)
    waits = (outcome.again_after, announcements.wait(context), _missing_wait(context))
    again_after = min((wait for wait in waits if wait is not None), default=None)
    return msgspec.structs.replace(outcome, again_after=again_after)


async def _look_again(context: Context, leaving: list[MachineKey]) -> list[MachineKey]:
    """The machines that may still leave: another process may have reactivated their groups."""
    if not leaving:
        return []
    await context.fleet.refresh({above for key in leaving for above in key.lineage[1:]})
    return list(_leaving(context))


def _leaving(context: Context) -> Iterator[MachineKey]:
    """The drained machines that may leave the catalog now."""
    for place, groups in _places(context).items():
        drained = [key for key in groups if not context.fleet.is_active(key)]
        old = {
            str(key): key
            for manager in drained
            for key, instance in context.fleet.instances_of(manager)
            if may_be_cataloged(instance)
            and instance.missing_since is None
            and instance.stopped_since is None
            and not _is_ordered_out(instance)
        }
        if not old:
            continue
        # One that was never known to be in the catalog is not a machine to lease from: it may go.
        unsettled = [name for name, key in old.items() if _is_unsettled(context, key)]
        yield from (old.pop(name) for name in unsettled)
        free = [name for name, key in old.items() if not _is_held(context, key)]
        count = _removable(context, place, groups, len(free))
        # One whose removal had no answer may be out already: no other goes in its place.
        begun = [name for name in free if _trouble(context, old[name]) not in {None, REFUSED}]
        # And when the catalog no longer holds it, its removal costs nothing.
        out = [name for name in begun if context.fleet.instances[old[name]].lost_since is not None]
        begun = [name for name in begun if name not in out]
        able = [name for name in free if _trouble(context, old[name]) is None]
        refused = [name for name in free if _trouble(context, old[name]) == REFUSED]
        # A leased one holds up no other, and is asked about again only now and then.
        leased = [name for name, key in old.items() if _trouble(context, key) == LEASED]
        order = _in_turn(context, groups, [old[name] for name in able]) if count else ()
        for name in (*share_out(count, sorted(begun), order, sorted(refused)), *out, *leased):
            yield old[name]


def _places(context: Context) -> dict[Place, list[GroupKey]]:
    """All groups, by their place."""
    places: defaultdict[Place, list[GroupKey]] = defaultdict(list)
    known: dict[tuple[TemplateKey, str], Place] = {}
    for key in context.fleet.managers:
        where = key.template, key.zone
        if where not in known:
            known[where] = place_of(context, key)
        places[known[where]].append(key)
    return places


def _in_turn(
    context: Context, groups: Iterable[GroupKey], able: Iterable[MachineKey]
) -> tuple[str, ...]:
    """The names of machines that may leave, those of the fullest zones first."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for key in able:
        names[key.zone].append(str(key))
    sizes: Counter[str] = Counter()
    for group in groups if len(names) > 1 else ():
        instances = context.fleet.instances_of(group)
        sizes[group.zone] += sum(may_be_cataloged(instance) for _, instance in instances)
    return in_turn(names, sizes)


def _removable(context: Context, place: Place, groups: list[GroupKey], old: int) -> int:
    """How many old machines that nobody holds may leave the catalog of a place now."""
    settings = context.settings.rollout
    own = [
        entity.max_unavailable
        for entity in (
            context.fleet.managers[key] for key in groups if context.fleet.is_active(key)
        )
        if entity.max_unavailable is not None
    ]
    return removable(
        _rollout(context, place, groups, old),
        max_unavailable=own[0] if own else settings.max_unavailable,
        exchange_share=0.0 if own else settings.exchange_share,
    )


def _rollout(context: Context, place: Place, groups: list[GroupKey], old: int) -> PlaceRollout:
    """The machines of a place."""
    limits = limits_at(context, place)
    maximum = limits.maximum_size if limits is not None else 0
    surge = rollouts.max_surge(context, groups)
    if surge is not None:
        most = max(1, rollouts.needed_at(context, place, groups) + surge)
        maximum = min(maximum or most, most)
    active_groups = [key for key in groups if context.fleet.is_active(key)]
    held_back = [limit for key in active_groups if (limit := canaries(context, key)) is not None]
    active_target = sum(_target(context, key) for key in active_groups)
    arrived = staying = available = leased = 0
    for group in groups:
        active = context.fleet.is_active(group)
        for key, instance in context.fleet.instances_of(group):
            apart = active and stays_apart(instance, context.clock.now())
            if not may_be_cataloged(instance):
                arrived += apart
                leased += apart
                staying += not active and instance.catalog is CatalogState.REFUSED
                continue
            held = _is_held(context, key)
            offered = not held and not _is_ordered_out(instance)
            leasable = offered and _can_be_leased(context, key)
            leased += held
            available += leasable
            arrived += active and (held or leasable or apart)
            staying += not active
    return PlaceRollout(
        minimum_size=limits.minimum_size if limits is not None else 0,
        maximum_size=maximum,
        active_target=active_target,
        coming=max(0, active_target - arrived),
        staying=staying,
        available=available,
        leased=leased,
        old=old,
        canaries=sum(held_back) if held_back else None,
        paused=rollouts.is_paused(context, active_groups),
    )


def _target(context: Context, manager: GroupKey) -> int:
    """VMs that an active group has or is to have; its minimum while that is not known."""
    entity = context.fleet.managers[manager]
    group = context.memory.seen.groups.get(manager)
    if group is not None:
        return group.target_size
    if entity.in_flight is not None and entity.in_flight.size is not None:
        return entity.in_flight.size
    return entity.minimum_size if entity.url is not None else 0


def _is_held(context: Context, key: MachineKey) -> bool:
    """Whether a machine is leased, as far as its entity or the catalog's last answer shows."""
    instance = context.fleet.instances[key]
    return lease_runs(instance, context.clock.earliest()) or _trouble(context, key) == LEASED


def _is_unsettled(context: Context, key: MachineKey) -> bool:
    return context.fleet.instances[key].catalog is CatalogState.ADDING


def _can_be_leased(context: Context, key: MachineKey) -> bool:
    """Whether the Machine Provider can lease a machine out."""
    instance = context.fleet.instances[key]
    if instance.catalog is not CatalogState.CATALOGED:
        return False
    if instance.lost_since is not None or instance.missing_since is not None:
        return False
    if instance.stopped_since is not None:
        return False
    return announcements.is_announced(context, key)


def _trouble(context: Context, key: MachineKey) -> str | None:
    """Why the last try to remove a machine from the catalog failed."""
    return context.conditions.reason(key)


def _is_ordered_out(instance: Instance) -> bool:
    """Whether an operator wants a machine out of the catalog."""
    return instance.drain is not None or instance.cordon is not None


def _ordered_out(context: Context) -> list[MachineKey]:
    """Those that leave now: their groups grow again only once they are gone, if at all."""
    at_once: list[MachineKey] = []
    patient: defaultdict[Place, dict[MachineKey, int]] = defaultdict(dict)
    for key, instance in context.fleet.having(Facet.LEAVING):
        if not _is_ordered_out(instance) or not may_be_cataloged(instance):
            continue
        if instance.missing_since is not None:
            continue
        limit = _patience(instance)
        if limit is None or not _is_usable(context, key) or _is_held(context, key):
            at_once.append(key)
        else:
            patient[place_of(context, key.group)][key] = limit
    for place, keys in patient.items():
        count = drainable(*_supply(context, place), min(keys.values()))
        names = {str(key): key for key in keys}
        # One whose removal had no answer may be out already: no other goes in its place.
        troubles = {name: _trouble(context, key) for name, key in names.items()}
        begun = sorted(name for name, it in troubles.items() if it not in {None, REFUSED})
        able = sorted(name for name, trouble in troubles.items() if trouble is None)
        refused = sorted(name for name, trouble in troubles.items() if trouble == REFUSED)
        at_once += [names[name] for name in share_out(count, begun, able, refused)]
    return at_once


def _patience(instance: Instance) -> int | None:
    """How many machines may be lacking when a drained one leaves; None: it does not wait."""
    if instance.cordon is not None or instance.drain is None:
        return None
    return instance.drain.max_unavailable


def _supply(context: Context, place: Place) -> tuple[int, int]:
    """How many machines of a place are leased or can be; and how many are needed."""
    groups = groups_at(context, place)
    usable = sum(
        _is_usable(context, key) for group in groups for key, _ in context.fleet.instances_of(group)
    )
    return usable, rollouts.needed_at(context, place, groups)


def _is_usable(context: Context, key: MachineKey) -> bool:
    """Whether a machine is leased or can be, also while it waits to leave."""
    instance = context.fleet.instances[key]
    if not may_be_cataloged(instance):
        return False
    leaves = _is_ordered_out(instance) and _patience(instance) is None
    return _is_held(context, key) or (not leaves and _can_be_leased(context, key))


def _lost(context: Context) -> list[MachineKey]:
    patience = context.settings.machine_provider.lost_seconds
    return [
        key
        for key, instance in context.fleet.having(Facet.TROUBLED)
        if may_be_cataloged(instance)
        and is_lost(instance, context.clock.elapsed, patience)
        and (instance.stopped_since or not unknown_machines.awaits(context, key, instance))
        and not context.conditions.blocked(key)
    ]


def _missing_wait(context: Context) -> float | None:
    """Seconds until the first machine that its group has ceased to list counts as lost."""
    waits = [
        MISSING_SECONDS - context.clock.elapsed(instance.missing_since)
        for _, instance in context.fleet.having(Facet.TROUBLED)
        if instance.missing_since is not None and may_be_cataloged(instance)
    ]
    return min((wait for wait in waits if wait > 0), default=None)


async def _is_truly_lost(context: Context, key: MachineKey) -> bool:
    """Checks a machine at Compute again that its group no longer lists."""
    instance = context.fleet.instances[key]
    if instance.missing_since is None or instance.abandoned_since is not None:
        return True
    try:
        return await is_gone(context, key)
    except RemoteError:
        return False


async def _remove(context: Context, key: MachineKey) -> Result:
    instance = context.fleet.instances.get(key)
    now = context.clock.earliest()
    if instance is None or not may_be_cataloged(instance) or lease_runs(instance, now):
        return Result.NOTHING
    if key in context.memory.catalog.adding:
        return Result.WAITING  # an answer now could be older than its entry
    context.memory.catalog.removing.add(key)  # nor is it added again until the answer is stored
    try:
        return await _ask_to_remove(context, key, instance.catalog)
    finally:
        context.memory.catalog.removing.discard(key)


async def _ask_to_remove(context: Context, key: MachineKey, asked: CatalogState) -> Result:
    now = context.clock.earliest()
    own = None
    if asked is CatalogState.ADDING:  # its addition may have been refused: the entry is another's
        token = instance_token(context.project, key)
        own = EntryOf(token, context.fleet.instances[key].gce_id)
    answer = await context.broker().delete_machine(key.name, own)
    if answer.error == CatalogError.LEASED:
        message = (
            "Somebody holds it: the Machine Provider refuses its removal until the lease ends."
        )
        context.conditions.back_off(key, LEASED, message)
        await _store_lease(context, key, asked)
        return Result.HELD
    if answer.error not in {None, CatalogError.ENTRY_NOT_FOUND}:
        message = f"The Machine Provider refused: {answer.error}"
        context.conditions.back_off(key, REFUSED, message)
        return Result.HELD
    state = CatalogState.REMOVED if answer.error is None else CatalogState.ABSENT
    instance = context.fleet.instances.get(key)
    if instance is not None and state is CatalogState.ABSENT:
        wait = settles_in(instance, context.clock.elapsed)
        if wait > 0:
            message = "It was sent to the catalog a moment ago: its entry may still appear."
            context.conditions.back_off(key, UNSETTLED, message, retry_after=wait)
            return Result.HELD
    written = await context.fleet.change([Change(key, _became(context, state, asked, now))])
    if written:
        context.log.info(
            "instance.uncataloged",
            **key.log_fields,
            state=state.value,
        )
    return Result.CHANGED if written else Result.NOTHING


async def _store_lease(context: Context, key: MachineKey, asked: CatalogState) -> None:
    """Stores the lease for which a removal was refused, as far as the catalog tells of it."""
    try:
        entry = await lease_entry(context, key)
    except RemoteError:  # its removal is tried again; the sweep tells of the trouble
        return
    if entry is None:  # it has just ended, or the entry is another's
        return
    end, now = end_of(entry), context.clock.now()
    refused = when_present(lambda instance: removal_refused(instance, asked, end, now))
    await context.fleet.change([Change(key, refused)])


def _became(
    context: Context, state: CatalogState, asked: CatalogState, now: float
) -> Apply[Instance]:
    elapsed = context.clock.elapsed
    return when_present(lambda instance: uncataloged(instance, asked, state, now, elapsed))


def _concerns(context: Context, key: Key) -> bool:
    instance = context.fleet.instances.get(key) if isinstance(key, MachineKey) else None
    if instance is None or not isinstance(key, MachineKey) or not may_be_cataloged(instance):
        return False
    troubles = instance.lost_since, instance.missing_since, instance.stopped_since
    troubled = any(it is not None for it in troubles) or _is_ordered_out(instance)
    return troubled or not context.fleet.is_active(key.group)


def _topics(context: Context, _topic: str) -> bool:
    """The Machine Provider concerns this job while there is a machine to remove."""
    return any(_concerns(context, key) for key in context.fleet.instances)


JOB = Job(
    name="remove-cataloged-instances",
    run=run,
    timeout=120.0,
    wakes=("delete-drained-instances",),
    concerns=_concerns,
    topics=_topics,
)
