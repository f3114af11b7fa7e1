"""`GET /api/explain`: everything about one machine, group or template: its state, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gce_backend.base.errors import BackendError
from gce_backend.base.plurals import plural
from gce_backend.configuration.types import TemplateConfig
from gce_backend.engine.context import Context
from gce_backend.fleet.history import EventFilter
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, MachineKey, TemplateKey
from gce_backend.rules.states import GroupState, State
from gce_backend.web.documents import events_view, fleet_view
from gce_backend.web.survey import costs, states
from gce_backend.web.survey.names import Named, kind_of, meant, name_of
from gce_backend.web.survey.view import View
from gce_backend.web.survey.waiting import PAUSE_ENDS, waits_for

EVENTS = 100
"""Most events that are shown of one subject."""

_CHANGES = frozenset(GroupState) - {GroupState.ACTIVE, GroupState.UNKNOWN, GroupState.DELETED}
"""States of a group that the daemon or Compute ends."""

Facts = dict[str, str | int | float | None]
"""Facts by name; a name that ends in `_at` holds a time in Unix seconds."""


async def explain(view: View, name: str) -> list[dict[str, Any]]:
    """All that a name means, each with its state; empty when nothing has or had that name.

    Args:
        view: the daemon as its readers see it.
        name: as `names.meant` takes it; also a name that only history still has.
    """
    found = []
    for key in meant(view.context, name):
        told = _explained(view.context, key)
        events, problem = await _events(view, told["name"], told["kind"])
        told["events"] = [event for event in events if event["subject"] == told["subject"]]
        told["history_problem"] = problem
        told["since"] = _since_event(told) or told["since"]
        found.append(told)
    return found or await _gone(view, name)


async def _events(view: View, name: str, kind: str = "") -> tuple[list[dict[str, Any]], str]:
    """The last events of this name, and why they cannot be read; "" when they can."""
    try:
        entries = (
            await view.history.events(EventFilter(name=name, kind=kind, limit=EVENTS))
        ).events
    except BackendError as error:
        return [], str(error)
    return [{"id": entry.id, **events_view.told(entry.event)} for entry in entries], ""


def _since_event(told: dict[str, Any]) -> float | None:
    """When something entered its state, according to its events; None when they do not say."""
    since = None
    for event in told["events"]:
        if event["after"] != told["state"]:
            break
        since = event["at"]
        if event["before"] != event["after"]:
            break
    return since


async def _gone(view: View, name: str) -> list[dict[str, Any]]:
    """The history of something that no longer exists."""
    events, _ = await _events(view, name)
    if not events:
        return []
    last = events[0]
    names = last["subject"].split("/")
    return [
        {
            "kind": last["kind"],
            "name": last["name"],
            "subject": last["subject"],
            "template": names[0],
            "zone": names[2] if len(names) > 2 else None,
            "state": last["after"] or "gone",
            "reason": last["reason"],
            "since": last["at"],
            "waits_for": None,
            "facts": {},
            "conditions": [],
            "events": events,
            "history_problem": "",
        }
    ]


def _explained(context: Context, key: Named) -> dict[str, Any]:
    if isinstance(key, TemplateKey):
        told = _template(context, key)
    elif isinstance(key, GroupKey):
        told = _group(context, key)
    else:
        told = _machine(context, key)
    return {
        "kind": kind_of(key),
        "name": name_of(context.fleet, key),
        "subject": str(key),
        **told,
        "conditions": fleet_view.conditions(context, key),
    }


def _machine(context: Context, key: MachineKey) -> dict[str, Any]:
    instance = context.fleet.instances[key]
    active = context.fleet.is_active(key.group)
    state, reason = states.machine(context, key, instance, active=active)
    return {
        "template": key.base_name,
        "zone": key.zone,
        "state": state.value,
        "reason": reason,
        "since": _since(instance, state),
        "waits_for": waits_for(context, key, instance, state),
        "facts": _known(_place(context, key.group) | _facts(context, key, instance)),
    }


def _place(context: Context, manager: GroupKey) -> Facts:
    if manager.revision not in context.fleet.revisions:
        return {}
    template = context.fleet.revision_of(manager).template
    return {
        "project": template.project,
        "template": manager.base_name,
        "revision": manager.parent.name,
        "zone": manager.zone,
        "group": context.fleet.group_name(manager),
        "machine_type": template.machine_type,
        "agent": "required" if template.require_agent else None,
    }


def _facts(context: Context, key: MachineKey, instance: Instance) -> Facts:
    member = context.memory.seen.member(key)
    lease, deletion = instance.lease, instance.deletion
    pending, update = instance.pending_deletion, instance.active_metadata_update
    updates = len(instance.pending_metadata_updates) + (update is not None)
    return {
        "id": str(instance.gce_id) if instance.gce_id is not None else None,
        "url": instance.url,
        "vm_status": (member.status or None) if member is not None else None,
        "group_action": member.action if member is not None else None,
        "group_error": (member.error or None) if member is not None else None,
        "catalog": instance.catalog.value,
        "sent_to_catalog_at": instance.adding_since,
        "leased_at": lease.since if lease is not None else None,
        "lease_ends_at": lease.expiration if lease is not None else None,
        "missing_at": instance.missing_since,
        "abandoned_at": instance.abandoned_since,
        "stopped_at": instance.stopped_since,
        "preempted_at": instance.preempted_since,
        "unknown_to_catalog_at": instance.lost_since,
        "pending_deletion_at": pending.since if pending is not None else None,
        "drained_at": instance.drain.since if instance.drain is not None else None,
        "cordoned_at": instance.cordon.since if instance.cordon is not None else None,
        "deletion_permit": deletion.permit.value if deletion is not None else None,
        "deletion_decided_at": deletion.requested if deletion is not None else None,
        "deletion_asked_at": deletion.asked if deletion is not None else None,
        "gone_at": deletion.confirmed if deletion is not None else None,
        "metadata_updates_waiting": updates or None,
        "metadata_update_failures": (update.attempts or None) if update is not None else None,
    }


def _since(instance: Instance, state: State) -> float | None:
    """When a machine entered its state, according to its entity; None when it does not say."""
    lease, deletion, pending = instance.lease, instance.deletion, instance.pending_deletion
    if state is State.DELETED:
        return deletion.confirmed if deletion is not None else None
    if state is State.DELETING:
        return deletion.requested if deletion is not None else None
    if state is State.MISSING:
        return instance.missing_since
    if state is State.LOST:
        return instance.lost_since
    if state is State.STOPPED:
        return instance.stopped_since
    if state is State.PENDING_DELETION:
        return pending.since if pending is not None else None
    if state is State.LEASED:
        return lease.since if lease is not None else None
    if state is State.DRAINING:
        return instance.drain.since if instance.drain is not None else None
    if state is State.CORDONED:
        return instance.cordon.since if instance.cordon is not None else None
    return None


def _group(context: Context, key: GroupKey) -> dict[str, Any]:
    entity = context.fleet.managers[key]
    seen = context.memory.seen.groups.get(key)
    counts = states.count(context, key)
    state, reason = states.group(context, key, counts)
    here = (State.CATALOGED, State.LEASED, State.CORDONED)
    missing = max(0, entity.minimum_size - sum(counts[state] for state in here))
    troubled = context.conditions.of(key) or context.conditions.of(key.revision)
    waits = None
    if state in _CHANGES and context.is_paused(key):
        waits = PAUSE_ENDS
    elif state == GroupState.DRAINING:
        waits = (
            f"{_some(counts.total(), 'machine')} to go first."
            if counts.total()
            else "Two looks at Compute have to show that it is empty."
        )
    elif state == GroupState.DELETED:
        waits = "cleanup-entities removes it after its last machine."
    elif state in _CHANGES and missing and not troubled:
        waits = f"{_some(missing, 'machine')} to come up and into the catalog."
    flight = entity.in_flight or entity.resize
    return {
        "template": key.base_name,
        "zone": key.zone,
        "state": state,
        "reason": reason,
        "since": None,
        "waits_for": waits,
        "facts": _known(
            _place(context, key)
            | {
                "url": entity.url,
                "minimum": entity.minimum_size,
                "maximum": entity.maximum_size or None,
                "target": seen.target_size if seen is not None else None,
                "cost": _cost(context, key, counts),
                "under_way": flight.action if flight is not None else None,
                "under_way_at": flight.started if flight is not None else None,
            }
        ),
        "machines": states.told(counts),
    }


def _cost(context: Context, key: GroupKey, counts: Mapping[State, int]) -> str | None:
    """About what a group's machines cost; None when no price is known."""
    cost = costs.of_group(context, key, counts)
    return None if cost is None else costs.in_words(context, cost)


def _template(context: Context, key: TemplateKey) -> dict[str, Any]:
    entity = context.fleet.templates[key]
    state, reason = states.template(context, key)
    groups = states.existing_groups(context, key)
    control = context.fleet.control
    paused = (one.since for one in control.rollout_pauses if one.template == key.base_name)
    undone = (one.since for one in control.undone if one.template == key.base_name)
    facts: Facts = {
        "revision": entity.active,
        "previous_revision": entity.previous.checksum if entity.previous is not None else None,
        "drained_revisions": len(entity.drained) or None,
        "rollout_paused_at": next(paused, None),
        "rollout_undone_at": next(undone, None),
    }
    for revision, found in context.fleet.revisions_of(key):
        if revision.checksum == entity.active:
            facts |= _hardware(found.template)
    facts["alternative_of"] = states.alternative_of(context, key) or None
    return {
        "template": key.base_name,
        "zone": None,
        "state": state,
        "reason": reason,
        "since": None,
        "waits_for": _left(len(groups)) if state == "draining" else None,
        "facts": _known(facts),
        "groups": [_summary(context, manager) for manager in sorted(groups, key=str)],
    }


def _left(groups: int) -> str:
    """What a template waits for that the configuration no longer names."""
    if groups:
        return f"{_some(groups, 'group')} to go first."
    return "delete-instance-templates has to delete its instance template."


def _hardware(template: TemplateConfig) -> Facts:
    return {
        "project": template.project,
        "machine_type": template.machine_type,
        "image": template.image_name or None,
        "image_family": template.image_family or None,
        "snapshot": template.snapshot_name or template.boot_snapshot or None,
        "disk_gb": template.disk_size_gb or None,
        "disk_type": template.disk_type or None,
        "additional_disks": "; ".join(map(str, template.additional_disks)) or None,
        "provisioning_model": template.provisioning_model or None,
        "alternatives": ", ".join(template.alternative_machine_types) or None,
        "canary": template.canary,
        "network": template.network_url or None,
        "accelerators": ", ".join(map(":".join, template.guest_accelerators)) or None,
        "local_ssds": template.local_ssds or None,
        "reservation": template.reservation or None,
        "resource_policies": ", ".join(template.resource_policies) or None,
        "agent": "required" if template.require_agent else None,
    }


def _summary(context: Context, key: GroupKey) -> dict[str, Any]:
    counts = states.count(context, key)
    state, reason = states.group(context, key, counts)
    return {
        "name": context.fleet.group_name(key),
        "zone": key.name,
        "revision": key.revision.checksum,
        "state": state,
        "reason": states.with_trouble(context, key, reason),
        "machines": states.told(counts),
    }


def _some(number: int, what: str) -> str:
    return f"{plural(number, what)} {'has' if number == 1 else 'have'}"


def _known(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}
