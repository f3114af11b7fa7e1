"""The state of each entity and, in words, why: the same in every document and on every page."""

from __future__ import annotations

from typing import NamedTuple

from gce_backend.engine.context import Context
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey, TemplateKey
from gce_backend.rules.states import State, explain


class Shown(NamedTuple):
    """A state, and why."""

    state: str
    reason: str


def template(context: Context, key: TemplateKey) -> Shown:
    """How a template is."""
    if context.fleet.templates[key].active:
        return Shown("active", "The configuration names it.")
    return Shown(
        "draining",
        "The configuration no longer names it: it is deleted once its machines are gone.",
    )


def revision(context: Context, key: RevisionKey, *, active: bool) -> Shown:
    """How a revision of a template is."""
    if not active:
        return Shown("draining", "Another revision took its place, or its template was removed.")
    if context.fleet.revisions[key].url is None:
        return Shown("creating", "Its instance template is being created.")
    return Shown("active", "The configuration names it.")


def manager(context: Context, key: GroupKey) -> Shown:
    """How a revision's group in a zone is."""
    entity = context.fleet.managers[key]
    group = context.memory.seen.groups.get(key)
    if not context.fleet.is_active(key):
        return Shown("draining", "The configuration no longer names it.")
    if entity.url is None:
        return Shown("creating", "Its group is being created, or waits for its template.")
    if group is None:
        return Shown("unknown", "Its group has not been seen since the daemon started.")
    if group.target_size < entity.minimum_size:
        return Shown("growing", f"It has {group.target_size} of {entity.minimum_size} machines.")
    if not group.stable:
        return Shown("changing", "Compute is creating or deleting machines in it.")
    return Shown("active", "It has what the configuration asks for.")


def machine(
    context: Context, key: MachineKey, instance: Instance, *, active: bool
) -> tuple[State, str]:
    """How a machine is; `active` says whether the configuration names its group."""
    member = context.memory.seen.member(key)
    return explain(instance, member, active=active, now=context.clock.now())


def with_trouble(context: Context, key: Key, reason: str) -> str:
    """A reason, and what keeps the entity from going on."""
    troubles = [condition.message for condition in context.conditions_of(key)]
    return " ".join([reason, *troubles])
