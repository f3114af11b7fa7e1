"""`GET /api/fleet`: templates, revisions, managers and instances, each with its state and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gce_backend import specs
from gce_backend.conditions import Condition
from gce_backend.context import Context
from gce_backend.lifecycle import State, explain
from gce_backend.models import Instance, InstanceGroupManager, InstanceTemplateRevision, Key


def fleet(context: Context) -> dict[str, Any]:
    """Everything that the daemon keeps, as JSON."""
    configuration = context.fleet.configuration
    return {
        "project": context.project,
        "owner": context.settings.owner,
        "configuration": {
            "config_set": configuration.config_set,
            "revision": configuration.revision,
            "conditions": _conditions(context, "configuration"),
        },
        "conditions": [
            {"subject": condition.subject, **_condition(condition)}
            for condition in context.conditions
        ],
        "corrupt": {str(key): problem for key, problem in context.fleet.corrupt.items()},
        "templates": [_template(context, key) for key in sorted(context.fleet.templates, key=str)],
    }


def machines(context: Context) -> Counter[tuple[str, str, str]]:
    """How many machines there are, by template, zone and state."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for manager in context.fleet.managers:
        for key, instance in context.fleet.instances_of(manager):
            state, _ = _explain(context, key, instance, active=context.fleet.is_active(manager))
            counts[manager.base_name, manager.name, state.value] += 1
    return counts


def _template(context: Context, key: Key) -> dict[str, Any]:
    template = context.fleet.templates[key]
    state = "active" if template.active else "draining"
    reason = (
        "The configuration names it."
        if template.active
        else "The configuration no longer names it: it goes once its machines are gone."
    )
    return {
        "base_name": key.name,
        "state": state,
        "reason": reason,
        "revisions": [
            _revision(context, revision, entity, active=revision.name == template.active)
            for revision, entity in sorted(
                context.fleet.revisions_of(key), key=lambda item: item[0].name
            )
        ],
    }


def _revision(
    context: Context, key: Key, revision: InstanceTemplateRevision, *, active: bool
) -> dict[str, Any]:
    if not active:
        state, reason = "draining", "Another revision took its place, or its template was removed."
    elif revision.url is None:
        state, reason = "creating", "Its instance template is being created."
    else:
        state, reason = "active", "The configuration names it."
    return {
        "revision": key.name,
        "state": state,
        "reason": _with_trouble(context, key, reason),
        "instance_template": specs.template_name_of(key),
        "url": revision.url,
        "conditions": _conditions(context, str(key)),
        "managers": [
            _manager(context, manager, entity)
            for manager, entity in sorted(
                context.fleet.managers_of(key), key=lambda item: item[0].name
            )
        ],
    }


def _manager(context: Context, key: Key, manager: InstanceGroupManager) -> dict[str, Any]:
    active = context.fleet.is_active(key)
    group = context.world.groups.get(key)
    if not active:
        state, reason = "draining", "The configuration no longer names it."
    elif manager.url is None:
        state, reason = "creating", "Its group is being created, or waits for its template."
    elif group is None:
        state, reason = "unknown", "Its group has not been seen since the daemon started."
    elif group.target_size < manager.minimum_size:
        state, reason = "growing", f"It has {group.target_size} of {manager.minimum_size} machines."
    elif not group.stable:
        state, reason = "changing", "Compute is creating or deleting machines in it."
    else:
        state, reason = "active", "It has what the configuration asks for."
    return {
        "zone": key.name,
        "state": state,
        "reason": _with_trouble(context, key, reason),
        "group": specs.group_name_of(key),
        "url": manager.url,
        "minimum_size": manager.minimum_size,
        "maximum_size": manager.maximum_size or None,
        "target_size": group.target_size if group else None,
        "conditions": _conditions(context, str(key)),
        "instances": [
            _instance(context, instance, entity, active=active)
            for instance, entity in sorted(
                context.fleet.instances_of(key), key=lambda item: item[0].name
            )
        ],
    }


def _instance(context: Context, key: Key, instance: Instance, *, active: bool) -> dict[str, Any]:
    state, reason = _explain(context, key, instance, active=active)
    return {
        "name": key.name,
        "id": str(instance.gce_id) if instance.gce_id is not None else None,
        "url": instance.url,
        "state": state.value,
        "reason": _with_trouble(context, key, reason),
        "catalog": instance.catalog.value,
        "lease_expiration": instance.lease.expiration if instance.lease else None,
        "conditions": _conditions(context, str(key)),
    }


def _explain(context: Context, key: Key, instance: Instance, *, active: bool) -> tuple[State, str]:
    member = context.world.member(key)
    return explain(instance, member, active=active, now=context.clock.now())


def _with_trouble(context: Context, key: Key, reason: str) -> str:
    troubles = [condition.message for condition in context.conditions.of(str(key))]
    return " ".join([reason, *troubles])


def _conditions(context: Context, subject: str) -> list[dict[str, Any]]:
    return [_condition(condition) for condition in context.conditions.of(subject)]


def _condition(condition: Condition) -> dict[str, Any]:
    return {
        "job": condition.job,
        "reason": condition.reason,
        "message": condition.message,
        "since": condition.since,
        "failures": condition.failures,
    }
