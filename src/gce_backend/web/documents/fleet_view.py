"""`GET /api/fleet`: templates, revisions, managers and instances, each with its state and why.

It comes in pages of whole groups, so that a large fleet does not hold the process.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gce_backend.engine.context import Context
from gce_backend.fleet.conditions import Condition
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey, TemplateKey
from gce_backend.rules.facets import Facet
from gce_backend.web.survey import states

MOST = 5000
"""Most machines of a page, which has one group at least."""


class FleetQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of `/api/fleet`.

    Attributes:
        template: only this one.
        limit: machines of the page; the group that reaches it is the last one.
        cursor: `next` of the page before.
    """

    template: str = ""
    limit: Annotated[int, Meta(ge=1, le=MOST)] = MOST
    cursor: str = ""


def fleet(context: Context, query: FleetQuery) -> dict[str, Any]:
    """What exists, or is to, as JSON: also tombstones of machines, but of no group that is gone.

    The first page also has what is of no group: conditions, and templates without groups.
    """
    configuration = context.fleet.configuration
    begins = not query.cursor
    every = [
        key
        for key in sorted(states.existing_groups(context), key=str)
        if query.template in {"", key.base_name}
    ]
    rest = [key for key in every if str(key) > query.cursor]
    page = _page(context, rest, query.limit)
    more = len(rest) > len(page)
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
            for condition in (context.conditions if begins else ())
        ],
        "corrupt": {str(key): problem for key, problem in context.fleet.corrupt.items()},
        "templates": _templates(context, page, every, query.template, begins=begins),
        "next": str(page[-1]) if more else None,
    }


def _page(context: Context, groups: list[GroupKey], limit: int) -> list[GroupKey]:
    """The first of these groups, until they have so many machines together."""
    machines = 0
    for number, key in enumerate(groups):
        machines += context.fleet.size(key) + context.fleet.count(Facet.DELETED, key)
        if machines >= limit:
            return groups[: number + 1]
    return groups


def _templates(
    context: Context,
    page: Collection[GroupKey],
    every: Collection[GroupKey],
    template: str,
    *,
    begins: bool,
) -> list[dict[str, Any]]:
    """The templates of a page of groups; on the first page also those without any."""
    groups: dict[RevisionKey, list[GroupKey]] = {}
    for group in page:
        groups.setdefault(group.revision, []).append(group)
    elsewhere = {group.revision for group in every} - groups.keys()
    revisions: dict[TemplateKey, list[dict[str, Any]]] = {}
    for key in states.existing_revisions(context):
        if key in groups or (begins and key not in elsewhere):
            told = _revision(context, key, groups.get(key, []))
            revisions.setdefault(key.template, []).append(told)
    without = {key.template for key in elsewhere}
    return [
        _template(context, key, revisions.get(key, []))
        for key in states.existing_templates(context)
        if template in {"", key.base_name} and (key in revisions or (begins and key not in without))
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
                context.fleet.all_instances_of(key), key=lambda item: item[0].name
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
