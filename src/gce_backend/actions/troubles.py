"""Stores why Compute does not make something, so that history tells when that began and ended.

Conditions are forgotten with the process; an entity's trouble is not. It is written when its reason
changes, not at each failure.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gce_backend.engine.context import Context
from gce_backend.fleet.conditions import PASSING
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import InstanceGroupManager, InstanceTemplateRevision
from gce_backend.model.keys import GroupKey, RevisionKey

MAX_TROUBLE = 300
"""Characters that are stored of why."""
_WAITING = PASSING | {"ResourceNotReady", "ResourceInUse", "OperationPending"}
"""Reasons that say nothing about what can be made."""


async def note_failures(context: Context, keys: Iterable[GroupKey] | Iterable[RevisionKey]) -> None:
    """Stores what the job that makes them could not make, and what it has made since.

    Args:
        keys: the entities that the job has dealt with.
    """
    for key in keys:
        entity = context.fleet.get(key)
        if not isinstance(entity, InstanceGroupManager | InstanceTemplateRevision):
            continue
        condition = next(
            (one for one in context.conditions.of(key) if one.job == context.job), None
        )
        if entity.url is not None:
            await store(context, key, {})
        elif condition is not None and condition.reason not in _WAITING:
            await store(context, key, {condition.reason: condition.message})


async def store(context: Context, key: GroupKey | RevisionKey, found: dict[str, str]) -> int:
    """Stores an entity's trouble, if it is another one than before.

    Args:
        key: the entity.
        found: messages by reason; the first one counts unless the stored one is among them.

    Returns:
        How many entities were written.
    """
    entity = context.fleet.get(key)
    if not isinstance(entity, InstanceGroupManager | InstanceTemplateRevision):
        return 0
    known = entity.trouble.partition(":")[0]
    if known in found or not (known or found):
        return 0
    reason, message = next(iter(found.items()), ("", ""))
    trouble = f"{reason}: {message}"[:MAX_TROUBLE] if reason else ""
    if isinstance(key, GroupKey):
        return await context.fleet.change([_group_change(key, trouble)])
    return await context.fleet.change([_revision_change(key, trouble)])


def _group_change(key: GroupKey, trouble: str) -> Change[InstanceGroupManager]:
    return Change(key, when_present(lambda manager: replace(manager, trouble=trouble)))


def _revision_change(key: RevisionKey, trouble: str) -> Change[InstanceTemplateRevision]:
    return Change(key, when_present(lambda revision: replace(revision, trouble=trouble)))
