"""Collects the facts from which `rules.states` derives a state, for all documents and pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gce_backend.actions.resources import beside, use_of
from gce_backend.actions.rollouts import limit_of
from gce_backend.engine.context import Context
from gce_backend.fleet.conditions import PASSING
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey, TemplateKey
from gce_backend.rules.group_sizes import Use, wanted_size
from gce_backend.rules.states import (
    GroupFacts,
    GroupState,
    MachineFacts,
    Shown,
    State,
    explain,
    explain_group,
    explain_revision,
    explain_template,
    stored_state,
)

PERSISTENT = 3
"""Failures in a row after which a passing trouble counts as a lasting one."""


def template(context: Context, key: TemplateKey) -> Shown:
    """The state of a template."""
    machines = sum(
        context.fleet.size(group)
        for revision, _ in context.fleet.revisions_of(key)
        for group, _ in context.fleet.managers_of(revision)
    )
    entity = context.fleet.templates[key]
    active = key.child(entity.active) if entity.active else None
    if active is not None and active in context.fleet.revisions:
        made = revision(context, active)
        if made.state == GroupState.FAILING:
            return Shown(made.state, with_trouble(context, active, made.reason))
    exists = bool(entity.active or machines or existing_groups(context, key)) or any(
        stored_state(found, active=False) != GroupState.DELETED
        for _, found in context.fleet.revisions_of(key)
    )
    return Shown(
        *explain_template(
            entity, machines, exists=exists, alternative_of=alternative_of(context, key)
        )
    )


def alternative_of(context: Context, key: TemplateKey) -> str:
    """The template in whose place machines of this one are made; "" when it is none."""
    active = context.fleet.templates[key].active
    if active is None:
        return ""
    for _, manager in context.fleet.managers_of(key.child(active)):
        if manager.pool is not None and manager.pool.rank(key.base_name) > 0:
            return manager.pool.kinds[0]
    return ""


def revision(context: Context, key: RevisionKey) -> Shown:
    """The state of a revision."""
    active = context.fleet.templates[key.template].active == key.checksum
    state, reason = explain_revision(
        context.fleet.revisions[key],
        active=active,
        paused=context.is_paused(key),
        troubled=_is_troubled(context, key),
    )
    return Shown(state, reason)


def group(context: Context, key: GroupKey, machines: Mapping[State, int]) -> Shown:
    """The state of a group.

    Args:
        context: all that is known.
    """
    entity, seen = context.fleet.managers[key], context.memory.seen
    state, reason = explain_group(
        GroupFacts(
            manager=entity,
            group=seen.groups.get(key),
            active=context.fleet.is_named(key),
            machines=machines,
            others=beside(context, key, entity),
            unlisted=key in seen.unlisted or key in seen.gone,
            paused=context.is_paused(key),
            troubled=_is_troubled(context, key) or _is_troubled(context, key.revision),
            use=use_of(context, key),
            limit=limit_of(context, key) if context.fleet.is_active(key) else None,
        )
    )
    return Shown(state, reason)


def wanted(context: Context, key: GroupKey, machines: Mapping[State, int]) -> int:
    """The size that a group that the configuration names should have now.

    Args:
        context: all that is known.
        key: the group's.
        machines: its machines, by state.
    """
    manager, leased = context.fleet.managers[key], machines.get(State.LEASED, 0)
    share = context.memory.seen.pool_sizes.get(key)
    use = Use(leased, context.memory.demand.waiting(key, leased), share)
    return wanted_size(manager, beside(context, key, manager) or 0, use)


def existing_groups(context: Context, template: TemplateKey | None = None) -> list[GroupKey]:
    """The groups that exist, or are to.

    Entities of other groups remain until their last tombstone is removed.

    Args:
        context: all that is known.
        template: only those of this template.
    """
    fleet = context.fleet
    return [
        key
        for key, manager in fleet.managers.items()
        if template in {None, key.template}
        and (
            stored_state(manager, active=fleet.is_named(key)) != GroupState.DELETED
            or fleet.size(key)
        )
    ]


def existing_revisions(context: Context) -> list[RevisionKey]:
    """The revisions of which anything exists, or is to, in order of their keys."""
    fleet = context.fleet
    kept = {key.revision for key in existing_groups(context)}
    for key, entity in fleet.revisions.items():
        template = fleet.templates.get(key.template)
        if template is None:
            kept.discard(key)
        elif stored_state(entity, active=template.active == key.checksum) != GroupState.DELETED:
            kept.add(key)
    return sorted(kept & fleet.revisions.keys(), key=str)


def existing_templates(context: Context) -> list[TemplateKey]:
    """The templates that the configuration names, or of which anything exists, by name."""
    kept = {key.template for key in existing_revisions(context)}
    kept.update(key for key, entity in context.fleet.templates.items() if entity.active)
    return sorted(kept & context.fleet.templates.keys(), key=str)


def machine_facts(
    context: Context, key: MachineKey, instance: Instance, *, active: bool
) -> MachineFacts:
    """The facts about a machine; `active` says whether the configuration names its group."""
    return MachineFacts(
        instance=instance,
        member=context.memory.seen.member(key),
        active=active,
        now=context.clock.now(),
        listed=is_listed(context, key.group),
        paused=context.is_paused(key),
    )


def machine(
    context: Context, key: MachineKey, instance: Instance, *, active: bool
) -> tuple[State, str]:
    """The state of a machine, and why; `active` says whether the configuration names its group."""
    return explain(machine_facts(context, key, instance, active=active))


def told(counts: Mapping[State, int]) -> dict[str, int]:
    """Counts of the states that there are, as JSON."""
    return {state.value: counts[state] for state in State if counts[state]}


def count(context: Context, key: GroupKey) -> Counter[State]:
    """A group's machines by state, without tombstones."""
    active = context.fleet.is_active(key)
    return Counter(
        machine(context, child, instance, active=active)[0]
        for child, instance in context.fleet.instances_of(key)
    )


def is_listed(context: Context, key: GroupKey) -> bool:
    """Whether all members of a group are known: its last list was complete, or it is gone."""
    seen = context.memory.seen
    listed = seen.groups.get(key)
    return key in seen.gone or (listed is not None and listed.complete)


def with_trouble(context: Context, key: Key, reason: str) -> str:
    """A reason, followed by the entity's conditions."""
    troubles = [condition.message for condition in context.conditions_of(key)]
    return " ".join([reason, *troubles])


def _is_troubled(context: Context, key: Key) -> bool:
    """Whether a condition of the entity seems to last."""
    return any(
        condition.failures >= (PERSISTENT if condition.reason in PASSING else 1)
        for condition in context.conditions.of(key)
    )
