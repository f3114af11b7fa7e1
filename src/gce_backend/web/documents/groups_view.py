"""`GET /api/groups` and `GET /api/templates`: lists of what the machines belong to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey, TemplateKey
from gce_backend.rules.selector import GROUP_KEYS, TEMPLATE_KEYS, Candidate
from gce_backend.rules.states import State
from gce_backend.web.documents.answers import chosen_by
from gce_backend.web.survey import states
from gce_backend.web.survey.census import Survey


class GroupsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of `/api/groups` and `/api/templates`.

    Attributes:
        selector: only those that match it (`rules.selector`).
    """

    selector: str = ""


def groups(context: Context, survey: Survey, query: GroupsQuery) -> dict[str, Any]:
    """The groups by template, zone and revision as plain data.

    Raises:
        RefusedError: the selector cannot be understood.
    """
    chosen = chosen_by(query.selector, GROUP_KEYS)
    keys = sorted(
        states.existing_groups(context), key=lambda key: (key.base_name, key.zone, str(key))
    )
    rows = [_group(context, survey, key) for key in keys]
    return {"groups": [row for row in rows if chosen.matches(_candidate(row))]}


def templates(context: Context, survey: Survey, query: GroupsQuery) -> dict[str, Any]:
    """The templates as plain data.

    Raises:
        RefusedError: the selector cannot be understood.
    """
    chosen = chosen_by(query.selector, TEMPLATE_KEYS)
    rows = [_template(context, survey, key) for key in states.existing_templates(context)]
    return {"templates": [row for row in rows if chosen.matches(_candidate(row))]}


def _candidate(row: dict[str, Any]) -> Candidate:
    return Candidate(row["template"], row.get("zone", ""), row["state"])


def _group(context: Context, survey: Survey, key: GroupKey) -> dict[str, Any]:
    manager, seen = context.fleet.managers[key], context.memory.seen.groups.get(key)
    counts = survey.by_group.get(key, Counter())
    shown = states.group(context, key, counts)
    return {
        "name": context.fleet.group_name(key),
        "template": key.base_name,
        "zone": key.zone,
        "revision": key.revision.checksum,
        "state": shown.state,
        "reason": states.with_trouble(context, key, shown.reason),
        "minimum": manager.minimum_size,
        "maximum": manager.maximum_size or None,
        "target": seen.target_size if seen is not None else None,
        "machines": states.told(counts),
        "url": manager.url,
    }


def _template(context: Context, survey: Survey, key: TemplateKey) -> dict[str, Any]:
    template, shown = context.fleet.templates[key], states.template(context, key)
    counts: Counter[State] = Counter()
    zones: set[str] = set()
    for group in states.existing_groups(context, key):
        counts.update(survey.by_group.get(group, Counter()))
        zones.add(group.zone)
    active = context.fleet.revisions.get(key.child(template.active)) if template.active else None
    return {
        "name": key.base_name,
        "template": key.base_name,
        "state": shown.state,
        "reason": states.with_trouble(context, key, shown.reason),
        "revision": template.active,
        "revisions": len(template.drained) + (template.active is not None),
        "machine_type": active.template.machine_type if active is not None else None,
        "project": active.template.project if active is not None else None,
        "zones": sorted(zones),
        "machines": states.told(counts),
    }
