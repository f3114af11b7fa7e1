"""What a configuration would change: created, resized, drained, deleted. Pure.

The jobs' own decisions are asked (`lifecycle`), on the entities as they are: this module only says
beforehand, for people, what follows from the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.configuration.types import NO_REVISION, Pairs, TemplateConfig
from gce_backend.configuration.values import BOOT_SECONDS, KEEP_SURPLUS, SURPLUS_SECONDS
from gce_backend.model.entities import (
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import (
    GroupKey,
    Key,
    RevisionKey,
    TemplateKey,
    revision_key,
    template_key,
)
from gce_backend.rules import compute_bodies
from gce_backend.rules.activation import (
    WantedTemplate,
    entities_of,
    is_active,
    known_entities,
    plan_template,
)
from gce_backend.rules.group_sizes import Use, beside, needed_size, wanted_size
from gce_backend.rules.permits import lease_runs

Get = Callable[[Key], Entity | None]
_REST: Mapping[str, int | None] = {
    "surplus_seconds": SURPLUS_SECONDS,
    "max_surge": None,
    "max_unavailable": None,
    "max_age_seconds": 0,
    "boot_seconds": BOOT_SECONDS,
}
"""The fields of a manager beside its sizes, with their defaults."""


class Action(StrEnum):
    """What becomes of something."""

    CREATE = "create"
    """It does not exist, and will."""
    CHANGE = "change"
    """A template gets another revision; a group other limits, and stays as large as it is."""
    RESIZE = "resize"
    """A group grows."""
    SHRINK = "shrink"
    """A group has more machines than it needs: idle ones are removed."""
    KEEP = "keep"
    """It was draining, and stays."""
    DRAIN = "drain"
    """A group's machines go, each when nobody holds it; then the group goes."""
    DELETE = "delete"
    """It goes: nothing is left in it."""


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What there is.

    Attributes:
        entities: templates, revisions and managers in the store.
        machines: each manager's machines in the store, without tombstones.
        sizes: target sizes of the managers' groups that exist at Compute.
        is_paused: whether nothing may be done with a group now.
    """

    entities: Mapping[Key, Entity]
    machines: Mapping[GroupKey, Sequence[tuple[str, Instance]]]
    sizes: Mapping[GroupKey, int]
    now: UnixSeconds
    is_paused: Callable[[GroupKey], bool] = lambda _: False


class Field(msgspec.Struct, frozen=True):
    """A field of a template that differs; None where it has no value."""

    name: str
    before: str | None
    after: str | None


class Held(msgspec.Struct, frozen=True):
    """A machine that somebody holds.

    Attributes:
        until: when the lease ends, Unix seconds; None when that is not known.
    """

    name: str
    until: UnixSeconds | None


class TemplateStep(msgspec.Struct, frozen=True, kw_only=True):
    """An instance template at Compute that is created or deleted.

    Attributes:
        action: CREATE or DELETE.
        name: at Compute.
        in_force: the configuration in force says so already.
        under_way: and it has begun.
    """

    action: Action
    name: str
    revision: str
    in_force: bool
    under_way: bool


class GroupStep(msgspec.Struct, frozen=True, kw_only=True):
    """A group to which something happens.

    Attributes:
        name: at Compute.
        zone: where.
        size: its target size now; None when it does not exist.
        goal: its target size in the end.
        at_first: the target size that the maximum leaves room for beside other revisions now, where
            that is less than the goal.
        minimum: before and after; 0 where the configuration does not name it.
        maximum: the same; 0 is no limit.
        removed: VMs of idle machines that are removed; members without a VM do not count.
        spare: machines to keep free, before and after; None for a tenth of the leased ones.
        rest: the other fields of its manager that change.
        machines: the machines that drain.
        held: those of them that somebody holds: they are waited for.
        in_force: the configuration in force says so already.
        under_way: and it has begun.
    """

    action: Action
    name: str
    revision: str
    zone: str
    size: int | None
    goal: int
    at_first: int | None = None
    minimum: tuple[int, int]
    maximum: tuple[int, int]
    spare: tuple[int | None, int | None] = (None, None)
    rest: tuple[Field, ...] = ()
    removed: int = 0
    machines: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    in_force: bool
    under_way: bool


class TemplatePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a template.

    Attributes:
        action: CREATE, CHANGE or DELETE; None when the template itself stays as it is.
        revision: the one that is wanted; None when none is.
        previous: the one that is active now; None when none is.
        fields: what differs between the two.
        templates: its instance templates at Compute.
        family: the base_name of the template that it is an alternative of; else its own.
    """

    base_name: str
    family: str
    action: Action | None
    revision: str | None
    previous: str | None
    fields: tuple[Field, ...]
    templates: tuple[TemplateStep, ...]
    groups: tuple[GroupStep, ...]

    @property
    def changes(self) -> bool:
        """Whether anything happens."""
        return bool(self.action or self.templates or self.groups)


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A plan in numbers.

    Attributes:
        create: groups to create, with `create_machines` machines.
        resize: groups to grow, by `resize_machines` machines.
        shrink: groups from which `shrink_machines` idle machines are removed.
        change: groups whose limits change, or that stop draining.
        drain: groups to drain, with `drain_machines` machines, of which `leased` are waited for.
        lost_machines: machines that this configuration drains, beyond those that it makes in the
            same zone for the same template.
        added_machines: machines that this configuration makes, beyond those that it drains there.
        leased_until: when the last of those leases ends, Unix seconds; None when that is not known.
        delete: empty groups to delete.
        create_templates: instance templates to create.
        delete_templates: instance templates to delete.
    """

    create: int
    create_machines: int
    resize: int
    resize_machines: int
    shrink: int
    shrink_machines: int
    change: int
    drain: int
    drain_machines: int
    leased: int
    lost_machines: int
    added_machines: int
    leased_until: UnixSeconds | None
    delete: int
    create_templates: int
    delete_templates: int


def make(wanted: Mapping[str, WantedTemplate], present: Present) -> tuple[TemplatePlan, ...]:
    """What a configuration would change, by template in the order of their names.

    Args:
        wanted: what it asks for.
        present: what there is.
    """
    there = {key.base_name for key in present.entities if isinstance(key, TemplateKey)}
    keys: dict[str, list[Key]] = {}
    for key in present.entities:
        keys.setdefault(key.base_name, []).append(key)
    plans = (
        _template(name, wanted.get(name), keys.get(name, []), present)
        for name in sorted({*wanted, *there})
    )
    return tuple(plan for plan in plans if plan.changes)


def totals(plans: Iterable[TemplatePlan]) -> Totals:
    """The plan in numbers."""
    plans = tuple(plans)
    groups: dict[Action, list[GroupStep]] = {action: [] for action in Action}
    templates: dict[Action, int] = dict.fromkeys(Action, 0)
    for plan in plans:
        for group in plan.groups:
            groups[group.action].append(group)
        for template in plan.templates:
            templates[template.action] += 1
    held = [one for group in groups[Action.DRAIN] for one in group.held]
    return Totals(
        create=len(groups[Action.CREATE]),
        create_machines=sum(group.goal for group in groups[Action.CREATE]),
        resize=len(groups[Action.RESIZE]),
        resize_machines=sum(group.goal - (group.size or 0) for group in groups[Action.RESIZE]),
        shrink=len(groups[Action.SHRINK]),
        shrink_machines=sum((group.size or 0) - group.goal for group in groups[Action.SHRINK]),
        change=len(groups[Action.CHANGE]) + len(groups[Action.KEEP]),
        drain=len(groups[Action.DRAIN]),
        drain_machines=sum(len(group.machines) for group in groups[Action.DRAIN]),
        leased=len(held),
        lost_machines=_lost(plans),
        added_machines=_added(plans),
        leased_until=last_end(held),
        delete=len(groups[Action.DELETE]),
        create_templates=templates[Action.CREATE],
        delete_templates=templates[Action.DELETE],
    )


def _lost(plans: Iterable[TemplatePlan]) -> int:
    """Machines that go and are not replaced, because of this configuration."""
    zones: dict[tuple[str, str], int] = {}
    for family, group in _groups_of_all(plans):
        size = group.size or 0
        if group.action is Action.DRAIN and not group.in_force:
            change = max(len(group.machines), size)
        elif group.action is Action.SHRINK:
            change = 0 if group.in_force else group.removed
        else:
            change = -max(0, group.goal - size)
        place = family, group.zone
        zones[place] = zones.get(place, 0) + change
    return sum(max(0, change) for change in zones.values())


def _added(plans: Iterable[TemplatePlan]) -> int:
    """Machines that come and replace none, because of this configuration."""
    zones: dict[tuple[str, str], int] = {}
    for family, group in _groups_of_all(plans):
        size = group.size or 0
        change = 0 if group.in_force else max(0, group.goal - size)
        if group.action is Action.DRAIN:
            change = -max(len(group.machines), size)
        place = family, group.zone
        zones[place] = zones.get(place, 0) + change
    return sum(max(0, change) for change in zones.values())


def _groups_of_all(plans: Iterable[TemplatePlan]) -> Iterator[tuple[str, GroupStep]]:
    """All groups, each with the template that it is of or an alternative of."""
    for plan in plans:
        for group in plan.groups:
            yield plan.family, group


def last_end(held: Sequence[Held]) -> float | None:
    """When the last of these leases ends; None when there is none, or one without a known end."""
    ends = [one.until for one in held if one.until is not None]
    return max(ends) if ends and len(ends) == len(held) else None


def _template(
    name: str, wanted: WantedTemplate | None, keys: Iterable[Key], present: Present
) -> TemplatePlan:
    get: Get = present.entities.get
    known = known_entities(name, wanted, get)
    news = plan_template(name, wanted, known, entities_of(name, wanted, known))

    def then(key: Key) -> Entity | None:
        return news[key] if key in news else get(key)

    both = sorted({*keys, *news}, key=str)
    template = get(template_key(name))
    previous = template.active if isinstance(template, InstanceTemplate) else None
    checksum = wanted.checksum if wanted is not None else None
    action = None
    if previous != checksum:
        action = Action.CREATE if previous is None else Action.CHANGE
        action = Action.DELETE if checksum is None else action
    before = get(revision_key(name, previous)) if previous else None
    return TemplatePlan(
        base_name=name,
        family=_family(name, both, then),
        action=action,
        revision=checksum,
        previous=previous,
        fields=differences(
            before.template if isinstance(before, InstanceTemplateRevision) else None,
            wanted.template if wanted is not None else None,
        )
        if action in {Action.CREATE, Action.CHANGE}
        else (),
        templates=tuple(_instance_templates(both, get, then)),
        groups=tuple(_groups(both, then, present)),
    )


def _family(name: str, keys: Iterable[Key], then: Get) -> str:
    pools = (
        manager.pool
        for key in keys
        if isinstance(manager := then(key), InstanceGroupManager) and manager.pool is not None
    )
    return next((pool.kinds[0] for pool in pools if name in pool.kinds), name)


def _instance_templates(keys: Iterable[Key], get: Get, then: Get) -> Iterator[TemplateStep]:
    for key in keys:
        revision = then(key)
        if not (isinstance(key, RevisionKey) and isinstance(revision, InstanceTemplateRevision)):
            continue
        active, exists = is_active(key, then), revision.url is not None
        if active != exists:
            in_force = is_active(key, get) == active
            yield TemplateStep(
                action=Action.CREATE if active else Action.DELETE,
                name=compute_bodies.template_name_of(key, revision.generation),
                revision=key.name,
                in_force=in_force,
                under_way=in_force and revision.in_flight is not None,
            )


def _groups(keys: Sequence[Key], then: Get, present: Present) -> Iterator[GroupStep]:
    for key in keys:
        if isinstance(key, GroupKey):
            step = _staying(key, keys, then, present)
            step = _leaving(key, present) if not is_active(key, then) else step
            if step is not None:
                yield step


def _staying(key: GroupKey, keys: Iterable[Key], then: Get, present: Present) -> GroupStep | None:
    """What happens to a group that the configuration names."""
    manager, before = then(key), present.entities.get(key)
    if not isinstance(manager, InstanceGroupManager):
        return None
    old = before if isinstance(before, InstanceGroupManager) else None
    named = is_active(key, present.entities.get)
    size = present.sizes.get(key)
    others = beside(manager, _siblings(key, keys, then, present))
    machines = present.machines.get(key, ())
    held = sum(lease_runs(instance, present.now) for _, instance in machines)
    use = Use(held)
    full = wanted_size(manager, 0, use)
    grows = full > (size or 0)
    idle = 0
    is_alternative = manager.pool is not None and manager.pool.rank(key.base_name) > 0
    if size is not None and manager.surplus_seconds != KEEP_SURPLUS and not is_alternative:
        idle = max(0, min(size - needed_size(manager, use), size - held))
    goal = full if grows else (size or 0) - idle
    now = wanted_size(manager, others, use) if others is not None else goal
    limits = _limits(manager)
    known = _limits(old) if old is not None and named else _Limits()
    if size is None:
        action = Action.CREATE
    elif grows:
        action = Action.RESIZE
    elif idle and named:
        action = Action.SHRINK
    elif not named:
        action = Action.KEEP
    elif limits != known:
        action = Action.CHANGE
    else:
        return None
    return GroupStep(
        action=action,
        name=compute_bodies.group_name_of(key, manager.generation),
        revision=key.lineage[1].name,
        zone=key.name,
        size=size,
        goal=goal,
        at_first=max(now, size or 0) if grows and now < goal else None,
        minimum=(known.minimum, limits.minimum),
        maximum=(known.maximum, limits.maximum),
        spare=(known.spare, limits.spare),
        rest=tuple(_rest(known, limits)),
        removed=max(0, sum(one.gce_id is not None for _, one in machines) - goal) if idle else 0,
        in_force=limits == known,
        under_way=limits == known and bool(manager.in_flight or manager.resize),
    )


class _Limits(NamedTuple):
    """All that the configuration says of a group's size; `rest` by the fields' names."""

    minimum: int = 0
    maximum: int = 0
    spare: int | None = None
    rest: tuple[tuple[str, int | None], ...] = tuple(_REST.items())


def _limits(manager: InstanceGroupManager) -> _Limits:
    rest = tuple((name, getattr(manager, name)) for name in _REST)
    return _Limits(manager.minimum_size, manager.maximum_size, manager.spare_size, rest)


def _rest(before: _Limits, after: _Limits) -> Iterator[Field]:
    """The fields that differ, apart from the sizes."""
    for (name, old), (_, new) in zip(before.rest, after.rest, strict=True):
        if old != new:
            yield Field(name, *(None if one is None else str(one) for one in (old, new)))


def _siblings(
    key: GroupKey, keys: Iterable[Key], then: Get, present: Present
) -> Iterator[tuple[InstanceGroupManager, int | None]]:
    """The other revisions' groups in that zone, with their target sizes."""
    for other in keys:
        if isinstance(other, GroupKey) and other.zone == key.zone and other != key:
            sibling = then(other)
            if isinstance(sibling, InstanceGroupManager):
                yield sibling, present.sizes.get(other)


def _leaving(key: GroupKey, present: Present) -> GroupStep | None:
    """What happens to a group that the configuration does not name."""
    size, machines = present.sizes.get(key), present.machines.get(key, ())
    manager = present.entities.get(key)
    if not isinstance(manager, InstanceGroupManager) or (size is None and not machines):
        return None
    named = is_active(key, present.entities.get)
    return GroupStep(
        action=Action.DRAIN if machines or size else Action.DELETE,
        name=compute_bodies.group_name_of(key, manager.generation),
        revision=key.lineage[1].name,
        zone=key.name,
        size=size,
        goal=0,
        minimum=(manager.minimum_size if named else 0, 0),
        maximum=(manager.maximum_size if named else 0, 0),
        machines=tuple(sorted(name for name, _ in machines)),
        held=tuple(
            Held(name, instance.lease.expiration if instance.lease else None)
            for name, instance in sorted(machines)
            if lease_runs(instance, present.now)
        ),
        in_force=not named,
        under_way=not named and not present.is_paused(key),
    )


def differences(before: TemplateConfig | None, after: TemplateConfig | None) -> tuple[Field, ...]:
    """The fields in which two templates differ; all of them where there is only one.

    What makes no other revision is no difference: order, and the fields of `NO_REVISION`.
    """
    old, new = _flat(before), _flat(after)
    return tuple(
        Field(name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def _flat(template: TemplateConfig | None) -> dict[str, str]:
    """A template's fields as texts, those of its lists by their own keys."""
    if template is None:
        return {}
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(TemplateConfig):
        value = getattr(template, field.name)
        if field.name in NO_REVISION or value == field.default:
            continue
        if field.name in {"tags", "resource_policies"}:
            found[field.name] = ", ".join(sorted(value))
        elif field.name == "service_accounts":
            found["service_accounts[0]"] = value[0].name
            for account in value:
                found[f"service_accounts.{account.name}"] = ", ".join(sorted(account.scopes))
        elif field.name == "additional_disks":
            found |= {f"{field.name}[{index}]": str(disk) for index, disk in enumerate(value)}
        elif isinstance(value, tuple):
            found |= {f"{field.name}.{key}": text for key, text in _joined(value).items()}
        else:
            found[field.name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _joined(pairs: Pairs) -> dict[str, str]:
    """Values by key; several of one key in one text."""
    values: dict[str, list[str]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: ", ".join(sorted(texts)) for key, texts in values.items()}
