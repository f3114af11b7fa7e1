"""Creates and deletes an entity's resource at Compute: an instance template or a group.

The intent is stored before it is sent, with the id under which it is sent, so that a crash resumes
it. The outcome is stored after. A try that Compute refused is given up; the next one has its own
id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from gce_backend.actions.identity import Resource
from gce_backend.actions.strays import awaits_beside
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    AlreadyExistsError,
    ForeignResourceError,
    NotFoundError,
    OperationFailedError,
    RemoteError,
)
from gce_backend.clients.compute.links import link_of
from gce_backend.clients.compute.types import Operation
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import (
    InFlight,
    Instance,
    InstanceGroupManager,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey
from gce_backend.model.orders import DrainCause
from gce_backend.rules import aging, group_sizes, melt_down
from gce_backend.rules.activation import is_active
from gce_backend.rules.facets import Facet
from gce_backend.rules.group_sizes import Use
from gce_backend.rules.melt_down import Pace, lost_for
from gce_backend.rules.ownership import Mark, Whose, name_taken, whose
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.surplus import is_on_its_way_out, waits_to_leave

PENDING = "OperationPending"
FRESH_SECONDS = 60.0
"""Seconds that an operation may take before it is reported."""
PATIENCE_SECONDS = 600.0
"""Seconds until it is given up, and the resource itself read."""

K = TypeVar("K", bound=Key)
R = TypeVar("R", InstanceTemplateRevision, InstanceGroupManager)


class Creation(NamedTuple):
    """How one resource is made.

    Attributes:
        what: its kind, name and place, for people.
        mark: what marks it as ours.
        revision: what it is made for.
        send: inserts it.
        read: reads it back.
    """

    what: str
    mark: Mark
    revision: RevisionKey
    send: Callable[[], Awaitable[Operation]]
    read: Callable[[], Awaitable[Resource]]


async def create(context: Context, key: Key, creation: Creation, under: R) -> bool:
    """Makes a resource whose insert is in flight, and stores its link.

    Args:
        key: its entity.
        creation: how it is made.
        under: the entity with that insert: its outcome is stored only for its generation.

    Returns:
        Whether it is there; if not, it is under way.

    Raises:
        ForeignResourceError: there is one of that name, and it is not ours.
        RemoteError: it was refused, or its outcome is not known.
    """
    made = 0
    try:
        operation = await creation.send()
    except AlreadyExistsError:
        pass  # by an earlier try whose answer was lost, or somebody else's: read back
    except RemoteError as error:
        if not error.retryable:  # refused: nothing was begun
            await give_up(context, key, under)
        raise
    else:
        ended = await _ended(context, key, operation, under)
        if not _is_to_be_looked_at(context, key, ended, under):
            return False
        if ended is not None and ended.done:
            made = ended.target_id
        elif not await _is_there(creation.read):
            await _begin_anew(context, key, under)
            return False
    found = await creation.read()
    said = whose(found.description, creation.mark, creation.revision)
    if said is not Whose.OURS and not (made and made == found.id):
        await give_up(context, key, under)
        raise ForeignResourceError(name_taken(creation.what, found.description, said))
    await adopt(context, key, found, under)
    return True


async def delete(
    context: Context,
    key: Key,
    send: Callable[[], Awaitable[Operation]],
    read: Callable[[], Awaitable[Resource]],
    under: R,
) -> bool:
    """Deletes a resource whose delete is in flight, and forgets its link.

    Args:
        key: its entity.
        send: deletes it.
        read: reads it back.
        under: the entity with that delete.

    Returns:
        Whether it is gone; if not, its deletion is under way.

    Raises:
        RemoteError: it was refused, or its outcome is not known.
    """
    try:
        operation = await send()
    except NotFoundError:
        # Gone, as wanted, by an earlier try whose answer was lost or by somebody else; or it lies.
        if await _is_there(read):
            raise
    else:
        ended = await _ended(context, key, operation, under)
        if not _is_to_be_looked_at(context, key, ended, under):
            return False
        if (ended is None or not ended.done) and await _is_there(read):
            await _begin_anew(context, key, under)
            return False
    await forget(context, {key: under.generation})
    return True


def _is_to_be_looked_at(context: Context, key: Key, ended: Operation | None, under: R) -> bool:
    """Whether an operation's outcome is known, or to be read off the resource."""
    if ended is None or ended.done or under.in_flight is None:
        return True
    return is_overdue(context, key, under.in_flight.started)


def is_overdue(context: Context, key: Key, started: UnixSeconds) -> bool:
    """Whether an operation is no longer waited for; reports one that takes long.

    Args:
        key: what it is to change.
        started: when it was decided.
    """
    age = context.clock.elapsed(started)
    if age < FRESH_SECONDS:
        return False
    message = (
        f"Compute has not ended an operation on it within {FRESH_SECONDS:.0f} s. "
        f"After {PATIENCE_SECONDS:.0f} s the daemon reads the resource itself."
    )
    wait = max(0.0, min(age, PATIENCE_SECONDS + 1 - age))
    context.conditions.back_off(key, PENDING, message, retry_after=wait)
    return age >= PATIENCE_SECONDS


async def _is_there(read: Callable[[], Awaitable[Resource]]) -> bool:
    try:
        await read()
    except NotFoundError:
        return False
    return True


async def _begin_anew(context: Context, key: Key, under: R) -> None:
    """Sends anew, in time, what an operation that never ended or was forgotten has not changed.

    What could not be made is made under another name: the operation may hold the first one still.
    """
    before = under.in_flight
    message = "An operation on it did not end, or is no longer known, and has changed nothing yet."
    context.conditions.back_off(key, PENDING, message)
    if before is None or context.clock.elapsed(before.started) < PATIENCE_SECONDS:
        return  # it may still take effect
    fresh = replace(before, request_id=context.new_id(), started=context.clock.stamp())

    def apply(entity: Any) -> Any:
        if entity.in_flight != before:
            return entity
        generation = entity.generation + (before.action == "insert")
        return replace(entity, in_flight=fresh, generation=generation)

    await context.fleet.change([Change(key, when_present(apply))])


async def _ended(context: Context, key: Key, operation: Operation, under: R) -> Operation | None:
    """An operation's state, ended or not; None when Compute no longer has it."""
    try:
        return await context.compute.await_operation(
            operation, timeout=context.settings.compute.operation_wait_seconds
        )
    except NotFoundError:
        return None
    except OperationFailedError:
        await give_up(context, key, under)
        raise


def beginning(context: Context, action: str, size: int | None = None) -> Callable[[R], R]:
    """A change that stores the intent to make (`insert`) or delete (`delete`) a resource.

    Args:
        action: `insert` or `delete`.
        size: the size of a group to be made.
    """
    in_flight = InFlight(action, context.new_id(), context.clock.stamp(), size)

    def apply(entity: R) -> R:
        is_there = entity.url is not None
        if entity.in_flight is not None or is_there == (action == "insert"):
            return entity
        return replace(entity, in_flight=in_flight)

    return apply


async def adopt(context: Context, key: Key, found: Resource, under: R) -> None:
    """Stores which resource is there, unless its generation is over."""
    url, gce_id, generation = link_of(found.self_link).url, found.id, under.generation

    def apply(entity: Any) -> Any:
        if entity.generation != generation:
            return entity
        return replace(entity, url=url, gce_id=gce_id, in_flight=None)

    await context.fleet.change([Change(key, when_present(apply))])


def learning(under: R, gce_id: int) -> Apply[R]:
    """A change that stores the numeric id of a resource whose link an earlier release stored.

    Args:
        under: the entity with the link.
    """
    url = under.url

    def apply(entity: R) -> R:
        unknown = entity.url == url and entity.gce_id is None
        return replace(entity, gce_id=gce_id) if unknown else entity

    return when_present(apply)


async def give_up(context: Context, key: Key, under: R) -> None:
    """Ends what is in flight in `under`; the next try is a new one."""
    ended = under.in_flight

    def apply(entity: Any) -> Any:
        return replace(entity, in_flight=None) if entity.in_flight == ended else entity

    await context.fleet.change([Change(key, when_present(apply))])


async def forget(context: Context, gone: Mapping[K, int]) -> None:
    """Stores that resources are not there; what is made in their place has another name.

    A deletion that was asked for may be executed late, and a process that was stopped may still ask
    for it: both meet a name that nobody uses any longer.

    Args:
        gone: the entities, each with the generation that is gone; a later one stays.
    """
    for key in gone:
        context.memory.seen.forget_marked(key, _gce_id(context, key))
    changes = [Change(key, _forgotten(generation)) for key, generation in gone.items()]
    await context.fleet.change(changes)


def _gce_id(context: Context, key: Key) -> int | None:
    entity = context.fleet.get(key)
    if isinstance(entity, InstanceGroupManager | InstanceTemplateRevision):
        return entity.gce_id
    return None


def _forgotten(generation: int) -> Apply[Any]:
    def apply(entity: Any) -> Any:
        if entity.generation != generation:
            return entity
        next_one = generation + (entity.url is not None)
        fresh = replace(entity, url=None, gce_id=None, in_flight=None, generation=next_one)
        return replace(fresh, resize=None) if isinstance(fresh, InstanceGroupManager) else fresh

    return when_present(apply)


def is_leaving(context: Context, key: RevisionKey | GroupKey, entity: R | None) -> bool:
    """Whether an entity has a resource, or one under way, that is not to stay."""
    if entity is None or (entity.url is None and entity.in_flight is None):
        return False
    return entity.is_deleting or not is_active(key, context.fleet.get)


def use_of(context: Context, key: GroupKey) -> Use:
    """What is asked of a group now."""
    now = context.clock.now()
    leased = context.fleet.leased(key, now)
    share = context.memory.seen.pool_sizes.get(key)
    ageing = 0 if share is not None else ageing_of(context, key, now)
    return Use(leased, context.memory.demand.waiting(key, leased), share, ageing)


def ageing_of(context: Context, key: GroupKey, now: UnixSeconds) -> int:
    """How many machines of a group stay only until others have come in their place."""
    return sum(
        aging.replaced_for_age(instance) and not lease_runs(instance, now)
        for _, instance in context.fleet.having(Facet.LEAVING, group=key)
    )


def leaving_of(context: Context, key: GroupKey, *, waiting: bool = True) -> int:
    """How many machines that a group may still count are about to be deleted.

    Args:
        context: all that is known.
        key: the group's.
        waiting: whether those count that stay until another can be leased in their place.
    """
    some = context.fleet.having(Facet.LEAVING, Facet.TROUBLED, Facet.UNCATALOGED, group=key)
    return sum(
        not one.is_tombstone and is_on_its_way_out(one) and (waiting or not waits_to_leave(one))
        for _, one in some
    )


def pace(context: Context, key: GroupKey) -> Pace:
    """How fast a group may grow, by what happened to the VMs that it had."""
    late = not_up(context, key)
    if len(late) >= aging.IN_A_ROW:
        slow = aging.boot_pace(late, coming=_coming(context, key))
        if slow.most is not None:
            return slow
    return _pace_of_losses(context, key)


def not_up(context: Context, key: GroupKey) -> list[float]:
    """How long ago machines of a group did not come up, since the last one that did."""
    elapsed = context.clock.elapsed
    failures = [
        elapsed(instance.drain.since)
        for _, instance in context.fleet.having(Facet.NOT_UP, group=key)
        if instance.drain is not None
    ]
    if not failures:
        return []
    successes = (
        elapsed(instance.adding_since or 0.0)
        for machine, instance in context.fleet.all_instances_of(key)
        if not (instance.drain is not None and instance.drain.cause is DrainCause.BOOT)
        and _is_up(context, machine, instance)
    )
    return aging.in_a_row(failures, min(successes, default=None))


def _is_up(context: Context, key: MachineKey, instance: Instance) -> bool:
    """Whether a machine is known to be leasable, or to have been leased."""
    up = instance.lease is not None or context.memory.catalog.agents.is_up(key)
    return up and instance.adding_since is not None


def _coming(context: Context, key: GroupKey) -> int:
    """Machines of a group that have not come up yet, and may."""
    return sum(
        instance.drain is None and not _is_up(context, one, instance)
        for one, instance in context.fleet.instances_of(key)
    )


def _pace_of_losses(context: Context, key: GroupKey) -> Pace:
    elapsed = context.clock.elapsed
    lost = (lost_for(one, elapsed) for _, one in context.fleet.having(Facet.TROUBLED, group=key))
    ages = [age for age in lost if age is not None]
    if not ages:
        return melt_down.FULL
    grown = context.memory.seen.grown.get(key)
    return melt_down.pace(
        group_sizes.needed_size(context.fleet.managers[key], use_of(context, key)),
        ages,
        None if grown is None else context.clock.monotonic() - grown,
    )


def beside(context: Context, manager: GroupKey, entity: InstanceGroupManager) -> int | None:
    """VMs of the other revisions' groups of the same template and zone.

    Args:
        manager: the group that wants to grow.

    Returns:
        None when it matters and is not known: one of those groups has not been seen yet, or has
        no entity yet.
    """
    if entity.maximum_size and awaits_beside(context, manager):
        return None
    siblings = context.fleet.siblings(manager)
    return group_sizes.beside(entity, ((one, size_of(context, key)) for key, one in siblings))


def size_of(context: Context, key: GroupKey) -> int | None:
    """VMs of a group, those under way included; None while it has not been seen."""
    seen = context.memory.seen
    if key in seen.groups:
        return seen.groups[key].target_size
    if key not in seen.gone:
        return None
    return sum(  # somebody deleted it: whatever VM is not proven gone may be there
        machine not in seen.vanished for machine, _ in context.fleet.instances_of(key)
    )
