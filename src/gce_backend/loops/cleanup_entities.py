"""cleanup-entities: removes entities that nothing needs any longer, bottom up."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from msgspec.structs import replace

from gce_backend.actions import strays
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.memory import SeenTombstone
from gce_backend.fleet.picture import Change, Decision, when_present
from gce_backend.model.entities import (
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.permits import revived

KEEP_SET_ASIDE = 1000
"""Most set-aside messages that are kept; the newest ones stay."""


async def run(context: Context) -> Outcome:
    """Removes expired tombstones, then empty entities, then old ones."""
    tombstones = await _remove_tombstones(context)
    managers = await _remove_managers(context)
    revisions = await _remove_revisions(context)
    templates = await _remove_templates(context)
    messages = await _remove_messages(context)
    history = await context.archive.trim()
    counts = {
        "tombstones": tombstones,
        "managers": managers,
        "revisions": revisions,
        "templates": templates,
        "messages": messages,
        "history": history,
    }
    removed = {name: count for name, count in counts.items() if count}
    for name, count in removed.items():
        context.log.info("entities.removed", kind=name, count=count)
    return Outcome(changed=sum(removed.values()), facts=removed)


async def _remove_tombstones(context: Context) -> int:
    """By this process's own clock: a jump of the wall clock does not age a tombstone."""
    now, keep = context.clock.monotonic(), context.settings.deletion.tombstone_seconds
    seen, known = context.memory.deletions.tombstones, context.fleet.tombstones
    new = list(known.after(seen[-1].number if seen else context.memory.deletions.removed))
    seen.extend(SeenTombstone(now, number, key) for number, key in reversed(new))
    due = list(takewhile(lambda one: now - one.since >= keep, seen))
    old = [one.key for one in due if known.has(one.number, one.key)]
    listed = {key for key in old if _is_listed(context, key)}
    for key in listed:
        context.log.error(
            "instance.deleted_and_listed",
            **key.log_fields,
        )
    revive = when_present(revived)
    removed = await context.fleet.change(
        [Change(key, revive if key in listed else _remove_tombstone) for key in old]
    )
    for one in due:
        seen.popleft()
        context.memory.deletions.removed = one.number
    return removed


def _is_listed(context: Context, key: MachineKey) -> bool:
    """Whether its group has listed a machine all that time that was taken to be gone."""
    member = context.memory.seen.member(key)
    return member is not None and member.gce_id == context.fleet.instances[key].gce_id


def _remove_tombstone(instance: Instance | None) -> Instance | None:
    return None if instance is None or instance.is_tombstone else instance


async def _remove_managers(context: Context) -> int:
    removed = 0
    for key, manager in tuple(context.fleet.managers.items()):
        idle = manager.url is None and manager.in_flight is None
        if not idle or context.fleet.is_active(key) or strays.is_unsettled(context, key):
            continue
        if not context.fleet.size(key) and not context.fleet.count(Facet.DELETED, key):
            removed += await context.fleet.transact([key.revision, key], _without_manager(key))
    return removed


def _without_manager(key: GroupKey) -> Decision:
    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        revision, manager = found.get(key.revision), found.get(key)
        if not isinstance(revision, InstanceTemplateRevision) or key.zone in revision.active:
            return {}
        if not isinstance(manager, InstanceGroupManager) or manager.url or manager.in_flight:
            return {}
        zones = tuple(zone for zone in revision.drained if zone != key.zone)
        return {key.revision: replace(revision, drained=zones), key: None}

    return decide


async def _remove_revisions(context: Context) -> int:
    removed = 0
    active = {key for key, _ in context.fleet.active_revisions()}
    for key, revision in tuple(context.fleet.revisions.items()):
        if key in active or revision.url or revision.in_flight:
            continue
        if not revision.active and not revision.drained and not strays.is_unsettled(context, key):
            removed += await context.fleet.transact([key.template, key], _without_revision(key))
    return removed


def _without_revision(key: RevisionKey) -> Decision:
    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        template, revision = found.get(key.template), found.get(key)
        if not isinstance(template, InstanceTemplate) or template.active == key.checksum:
            return {}
        if not isinstance(revision, InstanceTemplateRevision):
            return {}
        if revision.active or revision.drained or revision.url or revision.in_flight:
            return {}
        names = tuple(name for name in template.drained if name != key.checksum)
        return {key.template: replace(template, drained=names), key: None}

    return decide


async def _remove_templates(context: Context) -> int:
    empty = [
        key
        for key, template in context.fleet.templates.items()
        if template.active is None and not template.drained
    ]
    return await context.fleet.change([Change(key, _remove_template) for key in empty])


def _remove_template(template: InstanceTemplate | None) -> InstanceTemplate | None:
    if template is None or (template.active is None and not template.drained):
        return None
    return template


async def _remove_messages(context: Context) -> int:
    newest = sorted(
        context.fleet.set_aside.items(), key=lambda item: item[1].received, reverse=True
    )
    old = [key for key, _ in newest[KEEP_SET_ASIDE:]]
    return await context.fleet.change([Change(key, lambda _: None) for key in old])


JOB = Job(name="cleanup-entities", run=run, timeout=60.0)
