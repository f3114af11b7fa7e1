"""Which deletions may begin now: those with a permit, within the caps (S5).

One entity stores the counts of the caps. All processes on the store read and write it, in the
transaction that stores the deletions. So neither a second daemon nor a restart has a cap of its
own. A member whose VM its group cannot create does not count: it costs nothing, and its deletion
destroys nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gce_backend.base.plurals import plural
from gce_backend.engine.context import Context
from gce_backend.model.entities import (
    DELETION_WINDOW_KEY,
    Begun,
    DeletionWindow,
    Instance,
    Permit,
)
from gce_backend.model.keys import MachineKey
from gce_backend.rules.deletion_caps import (
    COUNTED,
    Cap,
    admitted,
    begin,
    by_permit,
    counting,
    limits,
    slot_seconds,
    told,
    used,
)
from gce_backend.rules.facets import Facet
from gce_backend.rules.orders import MAX_LIFT_SECONDS
from gce_backend.rules.permits import permit

CAP = "deletions"

IsWanted: TypeAlias = Callable[[MachineKey, Instance], bool]


async def under_caps(
    context: Context, wanted: IsWanted
) -> tuple[list[MachineKey], Counter[Permit]]:
    """The instances whose deletion may begin now, and how many the caps hold back, by permit.

    Args:
        wanted: whether the job wants an instance deleted.

    Raises:
        RemoteError: Datastore could not be read.
    """
    _is_lifted(context)  # its age is known from the first look on
    now = context.clock.now()
    asked = {
        key: granted
        for key, instance in context.fleet.having(Facet.LEAVING, Facet.UNCATALOGED)
        if instance.deletion is None
        and (granted := permit(instance, now)) is not None
        and wanted(key, instance)
        and not backs_off(context, key)
    }
    if not asked:
        return [], Counter()
    await context.fleet.refresh([DELETION_WINDOW_KEY])
    begun = _counting(context, context.fleet.deletion_window)
    begins = _admitted(context, asked, begun)
    held = Counter(asked.values()) - Counter(asked[key] for key in begins)
    return begins, held


def free_deletions(context: Context, granted: Permit) -> int:
    """How many more deletions the caps leave room for, beyond those that are due already.

    Args:
        granted: the permit that these deletions will have.
    """
    if _is_lifted(context):
        return len(context.fleet.instances)
    begun = used(_counting(context, context.fleet.deletion_window))
    due = sum(
        instance.deletion is None and instance.drain is not None
        for key, instance in context.fleet.having(Facet.LEAVING)
        if context.fleet.is_active(key.group)
    )
    due += sum(
        instance.deletion is None
        for group in context.fleet.managers
        if not context.fleet.is_active(group)
        for _, instance in context.fleet.instances_of(group)
    )
    caps = [(limit, COUNTED[cap]) for cap, limit in _limits(context).items()]
    return min(
        limit - due - sum(begun[permit] for permit in counted)
        for limit, counted in caps
        if granted in counted
    )


def begin_under_caps(
    context: Context, window: DeletionWindow, asked: Mapping[MachineKey, Permit]
) -> tuple[set[MachineKey], DeletionWindow]:
    """Which of these deletions begin, and the window that counts them.

    Args:
        window: as it is in the store now.
        asked: the permits of the requested deletions, by instance.
    """
    begun = _counting(context, window)
    begins = set(_admitted(context, asked, begun))
    slot = slot_seconds(context.settings.deletion)
    permits = (asked[key] for key in begins if _counts(context, key))
    return begins, DeletionWindow(begin(begun, permits, context.clock.stamp(), slot))


def _admitted(
    context: Context, asked: Mapping[MachineKey, Permit], begun: tuple[Begun, ...]
) -> list[MachineKey]:
    """Which of these deletions may begin: those that count, as far as they fit, and the others."""
    caps = {} if _is_lifted(context) else _limits(context)
    counted = {key: it for key, it in asked.items() if _counts(context, key)}
    fits = set(admitted(counted, begun, caps))
    return [key for key in asked if key in fits or key not in counted]


def _counts(context: Context, key: MachineKey) -> bool:
    """Whether its deletion counts: not that of a member whose VM its group cannot create."""
    instance, group = context.fleet.instances.get(key), context.memory.seen.groups.get(key.group)
    if instance is None or instance.gce_id is not None or group is None or not group.complete:
        return True
    member = group.members.get(key.name)
    return member is None or not member.cannot_be_made


def _limits(context: Context) -> dict[Cap, int]:
    living = len(context.fleet.instances) - context.fleet.count(Facet.DELETED)
    return limits(context.settings.deletion, living)


def _counting(context: Context, window: DeletionWindow) -> tuple[Begun, ...]:
    return counting(window.begun, context.clock.elapsed, context.settings.deletion)


def _is_lifted(context: Context) -> bool:
    """Whether an operator has lifted the caps now; setting the clock back does not prolong it."""
    until = context.fleet.control.cap_lifted_until
    return context.clock.remaining(until, MAX_LIFT_SECONDS) > 0


def note_held(context: Context, held: Counter[Permit]) -> None:
    """Raises the alarm that the caps hold deletions back, or ends it.

    Args:
        held: how many they hold back, by permit.
    """
    context.memory.deletions.held[context.job] = held
    if not held:
        context.conditions.clear(CAP)
        return
    begun = _counting(context, context.fleet.deletion_window)
    message = (
        f"{plural(held.total(), 'deletion')} held back ({by_permit(held)}). "
        f"{told(begun, _limits(context), context.settings.deletion.window_seconds)} "
        "Find out why so many are due, and whether the Machine Provider works; then wait, or lift "
        "the caps with `gce-backend lift-cap`."
    )
    if context.conditions.note(CAP, "DeletionCap", message):
        context.log.error("deletion.held", held=held.total(), permits=by_permit(held))


def backs_off(context: Context, key: MachineKey) -> bool:
    """Whether a machine, or its whole group, is not to be tried now; it takes no other's place."""
    blocked = context.conditions.blocked
    return blocked(key) or blocked(key.group)
