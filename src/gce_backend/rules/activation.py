"""The decisions of process-config: activate, drain, reactivate. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec
from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError
from gce_backend.configuration import types
from gce_backend.configuration.alternatives import kinds_of
from gce_backend.configuration.types import TemplateConfig
from gce_backend.configuration.values import BOOT_SECONDS, SURPLUS_SECONDS
from gce_backend.model.entities import (
    EarlierRevision,
    Entity,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    NextSizes,
    Pool,
)
from gce_backend.model.keys import (
    GroupKey,
    Key,
    RevisionKey,
    manager_key,
    revision_key,
    template_key,
)
from gce_backend.model.orders import Undone
from gce_backend.rules import schedules
from gce_backend.rules.zones import split


class WantedManager(msgspec.Struct, frozen=True):
    """A manager in the configuration.

    Attributes:
        minimum_size: the fewest machines to keep.
        maximum_size: the most machines to keep; 0 is no limit.
        spare_size: machines to keep free; None for a tenth of the leased ones.
        surplus_seconds: how long there must be too many until idle ones leave; KEEP_SURPLUS for
            ever.
        next_sizes: what its schedules make of these sizes next; None when they stay.
        pool: the sizes that it shares with other zones; None when it shares none.
        max_surge: machines beyond what is needed during a roll-out; None is no limit.
        max_unavailable: machines by which the number to lease from may drop during a roll-out; None
            for the setting's.
        max_age_seconds: age at which a machine that nobody holds is replaced; 0 for never.
        boot_seconds: how long a machine may take to come up; KEEP_SLOW for ever.
    """

    zone: str
    minimum_size: int
    maximum_size: int
    spare_size: int | None = None
    surplus_seconds: int = SURPLUS_SECONDS
    next_sizes: NextSizes | None = None
    pool: Pool | None = None
    max_surge: int | None = None
    max_unavailable: int | None = None
    max_age_seconds: int = 0
    boot_seconds: int = BOOT_SECONDS


class WantedTemplate(msgspec.Struct, frozen=True):
    """A template in the configuration, with its managers.

    Attributes:
        checksum: the revision that its fields make.
        template: its fields.
        managers: at most one for each zone.
    """

    checksum: str
    template: TemplateConfig
    managers: tuple[WantedManager, ...]


def wanted_templates(parsed: types.Configuration, now: UnixSeconds) -> dict[str, WantedTemplate]:
    """What a configuration asks for at a time, by template."""
    managers = _wanted_managers(parsed, now)
    return {
        kind.template.base_name: WantedTemplate(
            checksum=kind.checksum,
            template=kind.template,
            managers=managers.get(kind.template.base_name, ()),
        )
        for template in parsed.templates
        for kind in kinds_of(template)
    }


def _wanted_managers(
    parsed: types.Configuration, now: UnixSeconds
) -> dict[str, tuple[WantedManager, ...]]:
    """The managers of each template and each alternative."""
    names = {
        template.base_name: tuple(kind.template.base_name for kind in kinds_of(template))
        for template in parsed.templates
    }
    found: dict[str, list[WantedManager]] = {}
    for manager in parsed.managers:
        kinds = names.get(manager.template_base_name, ())
        for name in kinds:
            found.setdefault(name, []).append(_wanted_manager(manager, now, name, kinds))
    return {name: tuple(managers) for name, managers in found.items()}


def _wanted_manager(
    manager: types.ManagerConfig, now: UnixSeconds, name: str, kinds: tuple[str, ...]
) -> WantedManager:
    """What a manager asks for of a template, which may be an alternative of its own.

    Args:
        name: the template.
        kinds: the manager's own template and its alternatives.
    """
    sizes = schedules.sizes_at(manager, now)
    pool: Pool | None = None
    if manager.zones or len(kinds) > 1:
        zones = manager.zones or (manager.zone,)
        pool = Pool(zones, *sizes, kinds=kinds if len(kinds) > 1 else ())
    if pool is not None:
        spare = None if sizes.spare_size is None else split(sizes.spare_size, pool.zones)
        preferred = pool.rank(name) == 0
        sizes = sizes._replace(
            minimum_size=split(sizes.minimum_size, pool.zones)[manager.zone] if preferred else 0,
            spare_size=None if spare is None else spare[manager.zone] if preferred else 0,
        )
    return WantedManager(
        manager.zone,
        *sizes,
        surplus_seconds=manager.surplus_seconds,
        next_sizes=schedules.next_change(manager, now),
        pool=pool,
        max_surge=manager.max_surge,
        max_unavailable=manager.max_unavailable,
        max_age_seconds=manager.max_age_seconds,
        boot_seconds=manager.boot_seconds,
    )


def rescheduled(
    wanted: Mapping[str, WantedTemplate], parsed: types.Configuration, now: UnixSeconds
) -> dict[str, WantedTemplate]:
    """The same as `wanted_templates`, from what the same configuration asked for before."""
    managers = _wanted_managers(parsed, now)
    return {
        name: msgspec.structs.replace(one, managers=managers.get(name, ()))
        for name, one in wanted.items()
    }


def with_undone(
    wanted: Mapping[str, WantedTemplate],
    undone: Iterable[Undone],
    get: Callable[[Key], Entity | None],
) -> dict[str, WantedTemplate]:
    """What a configuration asks for, with earlier revisions in place of those that are undone.

    Args:
        wanted: what it asks for, by template.
        undone: the revisions that operators have undone.
        get: gives an entity of the picture.
    """
    found = dict(wanted)
    for one in undone:
        asked = wanted.get(one.template)
        earlier = _fields_of(one, get)
        if asked is not None and asked.checksum == one.revision and earlier is not None:
            found[one.template] = replace(asked, checksum=one.instead, template=earlier)
    return found


def _fields_of(one: Undone, get: Callable[[Key], Entity | None]) -> TemplateConfig | None:
    """The fields of the revision that is active in place of an undone one."""
    revision = get(revision_key(one.template, one.instead))
    if isinstance(revision, InstanceTemplateRevision) and revision.has_fields:
        return revision.template
    template = get(template_key(one.template))
    before = template.previous if isinstance(template, InstanceTemplate) else None
    return before.template if before is not None and before.checksum == one.instead else None


def outdated(
    undone: Iterable[Undone], wanted: Mapping[str, WantedTemplate], spoiled: Collection[str]
) -> frozenset[Undone]:
    """The undone revisions that a configuration no longer describes.

    Args:
        undone: the revisions that operators have undone.
        wanted: what the configuration asks for, by template.
        spoiled: templates of which it is not known what is asked for.
    """
    return frozenset(
        one
        for one in undone
        if one.template not in spoiled
        and ((asked := wanted.get(one.template)) is None or asked.checksum != one.revision)
    )


class UnreadEntityError(BackendError):
    """A decision needs entities that were not read; `keys` names them."""

    def __init__(self, keys: Collection[Key]) -> None:
        super().__init__(", ".join(str(key) for key in keys))
        self.keys = tuple(keys)


def entities_of(
    base_name: str, wanted: WantedTemplate | None, known: Mapping[Key, Entity]
) -> set[Key]:
    """The keys on which `plan_template` depends, as far as the entities known so far tell.

    Args:
        base_name: the template.
        wanted: what the configuration says of it; None when nothing.
        known: entities read before.
    """
    root = template_key(base_name)
    keys: set[Key] = {root}
    template = known.get(root)
    names = {wanted.checksum} if wanted else set()
    if isinstance(template, InstanceTemplate):
        names |= {*template.drained, *([template.active] if template.active else [])}
    for name in names:
        key = revision_key(base_name, name)
        keys.add(key)
        revision = known.get(key)
        zones: set[str] = set()
        if isinstance(revision, InstanceTemplateRevision):
            zones |= {*revision.active, *revision.drained}
        if wanted and name == wanted.checksum:
            zones |= {manager.zone for manager in wanted.managers}
        keys |= {manager_key(base_name, name, zone) for zone in zones}
    return keys


def known_entities(
    base_name: str, wanted: WantedTemplate | None, get: Callable[[Key], Entity | None]
) -> dict[Key, Entity]:
    """A template's entities in the picture: its revisions and their managers.

    Args:
        base_name: the template.
        wanted: what the configuration says of it; None when nothing.
        get: gives an entity of the picture.
    """
    known: dict[Key, Entity] = {}
    size = -1
    while size != len(known):
        size = len(known)
        for key in entities_of(base_name, wanted, known):
            entity = get(key)
            if entity is not None:
                known[key] = entity
    return known


def plan_template(
    base_name: str,
    wanted: WantedTemplate | None,
    found: Mapping[Key, Entity],
    read: Collection[Key],
) -> dict[Key, Entity]:
    """The changes to one template's entities: activate, drain, reactivate.

    Args:
        base_name: the template.
        wanted: the template in the configuration; None drains all of it.
        found: the entities that exist among `read`.
        read: the keys that were read.

    Returns:
        The new value of each entity that changes.

    Raises:
        UnreadEntityError: `read` lacks keys on which the decision depends.
    """
    unread = entities_of(base_name, wanted, found) - set(read)
    if unread:
        raise UnreadEntityError(unread)
    root = template_key(base_name)
    old = found.get(root)
    old = old if isinstance(old, InstanceTemplate) else None
    if old is None and wanted is None:
        return {}
    before = old or InstanceTemplate()
    active = wanted.checksum if wanted else None
    revisions = {*before.drained, *([before.active] if before.active else [])}
    drained = tuple(sorted(revisions - {active}))
    previous = before.previous
    if active is not None and before.active not in {None, active}:
        replaced = found.get(revision_key(base_name, before.active or ""))
        if isinstance(replaced, InstanceTemplateRevision):
            previous = EarlierRevision(before.active or "", replaced.template)
    news: dict[Key, Entity] = {root: InstanceTemplate(active, drained, previous)}
    if wanted:
        news |= _activate(base_name, wanted, found)
    for name in drained:
        key = revision_key(base_name, name)
        revision = found.get(key)
        if isinstance(revision, InstanceTemplateRevision):
            zones = tuple(sorted({*revision.active, *revision.drained}))
            news[key] = replace(revision, active=(), drained=zones)
    return {key: entity for key, entity in news.items() if found.get(key) != entity}


def _activate(
    base_name: str, wanted: WantedTemplate, found: Mapping[Key, Entity]
) -> dict[Key, Entity]:
    key = revision_key(base_name, wanted.checksum)
    old = found.get(key)
    revision = (
        old
        if isinstance(old, InstanceTemplateRevision)
        else InstanceTemplateRevision(template=wanted.template)
    )
    if not revision.has_fields:
        revision = replace(revision, template=wanted.template)
    template = replace(
        revision.template,
        canary=wanted.template.canary,
        alternative_machine_types=wanted.template.alternative_machine_types,
        image_family=wanted.template.image_family,
    )
    if template != revision.template:
        revision = replace(revision, template=template)
    zones = {manager.zone for manager in wanted.managers}
    rest = {*revision.active, *revision.drained} - zones
    news: dict[Key, Entity] = {
        key: replace(revision, active=tuple(sorted(zones)), drained=tuple(sorted(rest)))
    }
    for manager in wanted.managers:
        at = manager_key(base_name, wanted.checksum, manager.zone)
        there = found.get(at)
        if not isinstance(there, InstanceGroupManager):
            there = InstanceGroupManager(minimum_size=manager.minimum_size)
        news[at] = replace(
            there,
            minimum_size=manager.minimum_size,
            maximum_size=manager.maximum_size,
            spare_size=manager.spare_size,
            surplus_seconds=manager.surplus_seconds,
            next_sizes=manager.next_sizes,
            pool=manager.pool,
            max_surge=manager.max_surge,
            max_unavailable=manager.max_unavailable,
            max_age_seconds=manager.max_age_seconds,
            boot_seconds=manager.boot_seconds,
        )
    return news


def is_active(key: RevisionKey | GroupKey, get: Callable[[Key], Entity | None]) -> bool:
    """Whether the configuration names a revision, or a manager and its revision.

    Args:
        key: of the revision or the manager.
        get: gives the entities above it.
    """
    if isinstance(key, GroupKey):
        revision = get(key.revision)
        named = isinstance(revision, InstanceTemplateRevision) and key.zone in revision.active
        return named and is_active(key.revision, get)
    template = get(key.template)
    return isinstance(template, InstanceTemplate) and template.active == key.checksum
