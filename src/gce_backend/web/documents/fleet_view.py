"""`GET /api/fleet`: templates, revisions, managers and instances, each with its state and why."""

from __future__ import annotations

from typing import Any

from gce_backend.engine.context import Context
from gce_backend.fleet.conditions import Condition
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey, TemplateKey
from gce_backend.web.survey import states


def fleet(context: Context) -> dict[str, Any]:
    """What exists, or is to, as JSON: also tombstones of machines, but of no group that is gone."""
    configuration = context.fleet.configuration
    return {
        "project": context.project,
        "owner": context.settings.owner,
        "configuration": {
            "config_set": configuration.config_set,
            "revision": configuration.revision,
            "warnings": configuration.warnings,
            "conditions": conditions(context, "configuration"),
        },
        "conditions": [
            {"subject": condition.subject, **_condition(context, condition)}
            for condition in context.conditions
        ],
        "corrupt": {str(key): problem for key, problem in context.fleet.corrupt.items()},
        "templates": _templates(context),
    }


def _templates(context: Context) -> list[dict[str, Any]]:
    groups: dict[RevisionKey, list[GroupKey]] = {}
    for group in sorted(states.existing_groups(context), key=str):
        groups.setdefault(group.revision, []).append(group)
    revisions: dict[TemplateKey, list[dict[str, Any]]] = {}
    for key in states.existing_revisions(context):
        told = _revision(context, key, groups.get(key, []))
        revisions.setdefault(key.template, []).append(told)
    return [
        _template(context, key, revisions.get(key, []))
        for key in states.existing_templates(context)
    ]


def _template(
    context: Context, key: TemplateKey, revisions: list[dict[str, Any]]
) -> dict[str, Any]:
    state, reason = states.template(context, key)
    return {"base_name": key.base_name, "state": state, "reason": reason, "revisions": revisions}


def _revision(context: Context, key: RevisionKey, groups: list[GroupKey]) -> dict[str, Any]:
    state, reason = states.revision(context, key)
    return {
        "revision": key.checksum,
        "state": state,
        "reason": states.with_trouble(context, key, reason),
        "instance_template": context.fleet.template_name(key),
        "url": context.fleet.revisions[key].url,
        "conditions": conditions(context, key),
        "managers": [_manager(context, group) for group in groups],
    }


def _manager(context: Context, key: GroupKey) -> dict[str, Any]:
    manager, active = context.fleet.managers[key], context.fleet.is_active(key)
    group = context.memory.seen.groups.get(key)
    state, reason = states.group(context, key, states.count(context, key))
    return {
        "zone": key.zone,
        "state": state,
        "reason": states.with_trouble(context, key, reason),
        "group": context.fleet.group_name(key),
        "url": manager.url,
        "minimum_size": manager.minimum_size,
        "maximum_size": manager.maximum_size or None,
        "target_size": group.target_size if group else None,
        "conditions": conditions(context, key),
        "instances": [
            _instance(context, instance, entity, active=active)
            for instance, entity in sorted(
                context.fleet.instances_of(key), key=lambda item: item[0].name
            )
        ],
    }


def _instance(
    context: Context, key: MachineKey, instance: Instance, *, active: bool
) -> dict[str, Any]:
    state, reason = states.machine(context, key, instance, active=active)
    return {
        "name": key.name,
        "id": str(instance.gce_id) if instance.gce_id is not None else None,
        "url": instance.url,
        "state": state.value,
        "reason": states.with_trouble(context, key, reason),
        "catalog": instance.catalog.value,
        "lease_expiration": instance.lease.expiration if instance.lease else None,
        "conditions": conditions(context, key),
    }


def conditions(context: Context, subject: Key | str) -> list[dict[str, Any]]:
    """The conditions of a subject, as JSON."""
    if isinstance(subject, Key):
        found = context.conditions_of(subject)
    else:
        found = context.conditions.of(subject)
    return [_condition(context, condition) for condition in found]


def _condition(context: Context, condition: Condition) -> dict[str, Any]:
    return {
        "job": condition.job,
        "reason": condition.reason,
        "message": condition.message,
        "since": condition.since,
        "failures": condition.failures,
        "retry_at": condition.retried(context.clock),
    }
