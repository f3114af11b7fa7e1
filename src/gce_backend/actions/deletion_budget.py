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
from gce_backend.fleet.memory import HeldDeletions
from gce_backend.model.entities import (
    DELETION_WINDOW_KEY,
    Begun,
    DeletionWindow,
    Instance,
    Permit,
)
from gce_backend.model.keys import GroupKey, MachineKey
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
HELD = "DeletionCap"
"""The reason when an operator has to find out why so many deletions are due."""
PACED = "PacedByCap"
"""The reason when a roll-out has to go no faster; it goes on by itself."""
_ROLLED_OUT = frozenset({Permit.REMOVED, Permit.NEVER_CATALOGED})
"""Permits of the old machines that a roll-out replaces."""

IsWanted: TypeAlias = Callable[[MachineKey, Instance], bool]


async def under_caps(context: Context, wanted: IsWanted) -> tuple[list[MachineKey], HeldDeletions]:
    """The instances whose deletion may begin now, and how many the caps hold back.

    Args:
        wanted: whether the job wants an instance deleted.

    Raises:
        RemoteError: Datastore could not be read.
    """
    _is_lifted(context)  # its age is known from the first look on
    now = context.clock.earliest()
    asked = {
        key: granted
        for key, instance in context.fleet.having(Facet.LEAVING, Facet.UNCATALOGED)
        if instance.deletion is None
        and (granted := permit(instance, now)) is not None
        and wanted(key, instance)
        and not backs_off(context, key)
    }
    if not asked:
        return [], HeldDeletions()
    await context.fleet.refresh([DELETION_WINDOW_KEY])
    begun = _counting(context, context.fleet.deletion_window)
    begins = _admitted(context, asked, begun)
    held = asked.keys() - set(begins)
    paced = [key for key in held if asked[key] in _ROLLED_OUT and _is_replaced(context, key.group)]
    return begins, HeldDeletions(
        permits=Counter(asked[key] for key in held),
        paced=Counter(asked[key] for key in paced),
        templates=tuple(sorted({key.base_name for key in paced})),
    )


def _is_replaced(context: Context, group: GroupKey) -> bool:
    """Whether a roll-out replaces a group: another revision of its template is active there."""
    if context.fleet.is_active(group):
        return False
    return any(context.fleet.is_active(other) for other, _ in context.fleet.siblings(group))


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


def note_held(context: Context, held: HeldDeletions) -> None:
    """Says that the caps hold deletions back, or that they no longer do.

    It is an alarm unless all that is held back are old machines of a roll-out.
    """
    context.memory.deletions.held[context.job] = held
    number = held.total()
    if not number:
        context.conditions.clear(CAP)
        return
    begun = _counting(context, context.fleet.deletion_window)
    settings = context.settings.deletion
    caps = told(held.permits, begun, _limits(context), settings.window_seconds)
    permits = by_permit(held.permits)
    if held.paced == held.permits:
        waits = plural(number, "old machine waits", "old machines wait")
        message = (
            f"The roll-out of {', '.join(held.templates)} goes no faster than the caps on "
            f"deletions: {waits} ({permits}). {caps} It goes on by itself; `gce-backend lift-cap` "
            "lets it go on now."
        )
        if context.conditions.note(CAP, PACED, message):
            context.log.info("deletion.paced", held=number, permits=permits)
        return
    waits = plural(number, "deletion is held back", "deletions are held back")
    message = (
        f"{waits} ({permits}). {caps} Find out why so many are due, and whether the Machine "
        "Provider works. If they are right, wait, or lift the caps with `gce-backend lift-cap`; "
        "if not, `gce-backend pause` stops them."
    )
    if context.conditions.note(CAP, HELD, message):
        context.log.error("deletion.held", held=number, permits=permits)


def backs_off(context: Context, key: MachineKey) -> bool:
    """Whether a machine, or its whole group, is not to be tried now; it takes no other's place."""
    blocked = context.conditions.blocked
    return blocked(key) or blocked(key.group)
