"""Decisions: from what is known to what is to change. Pure functions on frozen values.

A job loads what these functions ask for, calls one, and applies its answer. No decision ever
follows from an absence, an error or an empty answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum

import msgspec

from gce_backend import config
from gce_backend.config import TemplateConfig
from gce_backend.models import (
    CatalogState,
    Deletion,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    Key,
    Permit,
    manager_key,
    revision_key,
    template_key,
)
from gce_backend.world import Member

replace = msgspec.structs.replace


class WantedManager(msgspec.Struct, frozen=True):
    """A manager of the configuration.

    Attributes:
        zone: where.
        minimum_size: machines to keep at least.
        maximum_size: machines to keep at most; 0 is no limit.
    """

    zone: str
    minimum_size: int
    maximum_size: int


class WantedTemplate(msgspec.Struct, frozen=True):
    """A template of the configuration, with its managers.

    Attributes:
        checksum: which revision its fields make.
        template: the fields.
        managers: at most one for each zone.
    """

    checksum: str
    template: TemplateConfig
    managers: tuple[WantedManager, ...]


def wanted_templates(parsed: config.Configuration) -> dict[str, WantedTemplate]:
    """What a configuration asks for, by template."""
    return {
        template.base_name: WantedTemplate(
            checksum=config.checksum(template),
            template=template,
            managers=tuple(
                WantedManager(manager.zone, manager.minimum_size, manager.maximum_size)
                for manager in parsed.managers
                if manager.template_base_name == template.base_name
            ),
        )
        for template in parsed.templates
    }


class UnreadEntityError(LookupError):
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
    keys = {root}
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
    """A template's entities in the picture: what it lists, then what that lists.

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
    """What process-config makes of one template: activate, drain, reactivate.

    Args:
        base_name: the template.
        wanted: what the configuration says of it; None when nothing: all of it drains.
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
    news: dict[Key, Entity] = {root: InstanceTemplate(active=active, drained=drained)}
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
            there, minimum_size=manager.minimum_size, maximum_size=manager.maximum_size
        )
    return news


def beside(
    manager: InstanceGroupManager, siblings: Iterable[tuple[InstanceGroupManager, int | None]]
) -> int | None:
    """VMs of the other revisions' groups in a group's zone.

    Args:
        manager: the group that wants to grow.
        siblings: those groups, each with its target size; None where it was not seen.

    Returns:
        None when it matters and is not known: one of those groups has not been seen yet.
    """
    if not manager.maximum_size:
        return 0
    total = 0
    for sibling, size in siblings:
        if size is not None:
            total += size
        elif sibling.url is not None or sibling.in_flight is not None:
            return None
    return total


def room(maximum_size: int, others: int) -> int | None:
    """Machines that a group may have beside the other revisions' groups in its zone.

    Args:
        maximum_size: of the manager; 0 is no limit.
        others: VMs that the other revisions' groups have or are creating there.

    Returns:
        None when there is no limit.
    """
    return max(0, maximum_size - others) if maximum_size else None


def wanted_size(manager: InstanceGroupManager, others: int) -> int:
    """The size that a group is to have at least now: its minimum, as far as there is room."""
    limit = room(manager.maximum_size, others)
    return manager.minimum_size if limit is None else min(manager.minimum_size, limit)


def raised_size(manager: InstanceGroupManager, target_size: int, others: int) -> int | None:
    """The size to which a group is to be raised; None when it is large enough.

    It never lowers: Compute would pick arbitrary victims.

    Args:
        manager: an active manager.
        target_size: the group's present target size.
        others: VMs of the other revisions' groups in that zone.
    """
    size = wanted_size(manager, others)
    return size if size > target_size else None


def is_active(key: Key, get: Callable[[Key], Entity | None]) -> bool:
    """Whether the configuration names a revision, or a manager and its revision.

    Args:
        key: of an InstanceTemplateRevision or an InstanceGroupManager.
        get: gives the entities above it.
    """
    if key.parent is None:
        return False
    above = get(key.parent)
    if isinstance(above, InstanceTemplate):
        return above.active == key.name
    if isinstance(above, InstanceTemplateRevision):
        return key.name in above.active and is_active(key.parent, get)
    return False


CATALOGABLE = frozenset(
    {CatalogState.NEVER, CatalogState.ADDING, CatalogState.REMOVED, CatalogState.REFUSED}
)
"""REMOVED: it drained and was reactivated before it was deleted. Nobody has used it since. REFUSED:
it is tried again, seldom: the host name may have become free."""


def is_catalogable(instance: Instance, member: Member | None) -> bool:
    """Whether an active group's machine is to be added to the catalog now.

    Args:
        instance: the entity.
        member: the VM as last listed; None when it was not.
    """
    return (
        member is not None
        and member.is_running
        and member.gce_id is not None
        and member.gce_id == instance.gce_id
        and instance.catalog in CATALOGABLE
        and instance.pending_deletion is None
        and instance.drain is None
        and instance.deletion is None
        and instance.missing_since is None
    )


def seen_instance(instance: Instance | None, gce_id: int | None, url: str, now: float) -> Instance:
    """What fetch-instances makes of an entity whose VM is listed.

    Args:
        instance: the entity; None when there is none.
        gce_id: the listed VM's id; None before the VM exists.
        url: its resource link.
        now: Unix seconds.

    Returns:
        The entity to store; the same object when nothing changes.
    """
    if instance is None:
        return Instance(gce_id=gce_id, url=url, rising_since=now)
    if gce_id is None or gce_id == instance.gce_id:
        same = gce_id == instance.gce_id  # where it has lost its id, the one we know is gone
        if instance.missing_since is not None and same and not instance.is_tombstone:
            return replace(instance, missing_since=None)
        return instance
    if instance.is_tombstone:  # the name is used again, by another VM
        return Instance(gce_id=gce_id, url=url, rising_since=now)
    if instance.gce_id is None and instance.deletion is None:
        return replace(instance, gce_id=gce_id, url=url, missing_since=None)
    if instance.catalog is CatalogState.NEVER and instance.deletion is None:
        news = replace(instance, gce_id=gce_id, url=url, missing_since=None, drain=None)
        return replace(news, rising_since=now)
    # Another VM under the name of one that the catalog knows: the one we know is missing.
    return instance if instance.missing_since is not None else replace(instance, missing_since=now)


def unseen_instance(instance: Instance, now: float) -> Instance:
    """What fetch-instances makes of an entity that a complete listing does not show."""
    if instance.is_tombstone:
        return instance
    if instance.missing_since is not None and instance.missing_since <= now:
        return instance
    return replace(instance, missing_since=now)  # anew where the clock was set back


MISSING_SECONDS = 10.0
"""How long a group must go on not listing a VM before anything is done about it."""


def is_lost(instance: Instance, now: float, patience: float) -> bool:
    """Whether a machine is to leave the catalog although the configuration names it.

    Its group does not list it any more, or the catalog itself has not known it for a while.

    Args:
        instance: the entity.
        now: Unix seconds.
        patience: seconds for which the catalog must go on not knowing it.
    """
    if instance.missing_since is not None:
        return now - instance.missing_since >= MISSING_SECONDS
    return instance.lost_since is not None and now - instance.lost_since >= patience


def is_leaving(instance: Instance, now: float, *, active: bool) -> bool:
    """Whether delete-drained-instances is to see to this machine's end.

    Args:
        instance: the entity.
        now: Unix seconds.
        active: whether the configuration names its manager and revision.
    """
    if instance.pending_deletion is not None:
        return False
    if not active or instance.drain is not None or instance.deletion is not None:
        return True
    if instance.missing_since is not None:
        return now - instance.missing_since >= MISSING_SECONDS
    return instance.catalog is CatalogState.ABSENT


def permit(instance: Instance, now: float) -> Permit | None:
    """What allows this VM's destruction (S1); None when nothing does.

    Args:
        instance: the entity, read just before.
        now: Unix seconds.
    """
    if instance.is_tombstone:
        return None
    if instance.pending_deletion is not None:
        return Permit.RECLAIMED
    if instance.catalog is CatalogState.REMOVED:
        return Permit.REMOVED
    # REFUSED is an absence too: the catalog holds another's entry under its host name.
    absent = instance.catalog in {CatalogState.ABSENT, CatalogState.REFUSED}
    if absent and not lease_runs(instance, now):
        return Permit.ABSENT
    if instance.catalog is CatalogState.NEVER and instance.lease is None:
        return Permit.NEVER_CATALOGED
    return None


def lease_runs(instance: Instance, now: float) -> bool:
    """Whether a lease known here has not run out; one without a known end never has."""
    lease = instance.lease
    if lease is None:
        return False
    return lease.expiration is None or now < lease.expiration


class State(StrEnum):
    """What an operator calls the state of a machine."""

    CREATING = "creating"
    """Compute is making it."""
    STARTING = "starting"
    """The VM exists and is not running yet."""
    RUNNING = "running"
    """It runs and is not in the catalog yet."""
    CATALOGED = "cataloged"
    """It can be leased."""
    LEASED = "leased"
    """Somebody holds it."""
    DRAINING = "draining"
    """The configuration no longer names its revision or manager, or an operator drained it."""
    PENDING_DELETION = "pending-deletion"
    """It was reclaimed and is to be deleted."""
    DELETING = "deleting"
    """Its deletion was asked for."""
    MISSING = "missing"
    """Its group no longer lists it."""
    SET_ASIDE = "set-aside"
    """The catalog holds its host name for another."""
    DELETED = "deleted"
    """It is gone."""


def explain(
    instance: Instance, member: Member | None, *, active: bool, now: float
) -> tuple[State, str]:
    """A machine's state and, in words, why it is in it.

    Args:
        instance: the entity.
        member: the VM as last listed.
        active: whether the configuration names its manager and revision.
        now: Unix seconds.
    """
    return _ending(instance) or _draining(instance, now, active=active) or _rising(instance, member)


def _ending(instance: Instance) -> tuple[State, str] | None:
    deletion: Deletion | None = instance.deletion
    if deletion is not None and deletion.confirmed is not None:
        return State.DELETED, "The VM is gone; the entity remains for a while as a tombstone."
    if deletion is not None:
        return State.DELETING, f"Deletion was asked for (permit: {deletion.permit.value})."
    if instance.missing_since is not None:
        return State.MISSING, "Its group no longer lists this VM: somebody else deleted it."
    if instance.pending_deletion is not None:
        return State.PENDING_DELETION, instance.pending_deletion.reason
    return None


def _draining(instance: Instance, now: float, *, active: bool) -> tuple[State, str] | None:
    if lease_runs(instance, now):
        waiting = "" if active else " The configuration no longer names it: it goes afterwards."
        if instance.drain is not None:
            waiting = f" It goes afterwards. {instance.drain}"
        return State.LEASED, f"Somebody holds it.{waiting}"
    if instance.drain is not None:
        return State.DRAINING, str(instance.drain)
    if not active:
        return State.DRAINING, "The configuration no longer names its revision or manager."
    return None


def _rising(instance: Instance, member: Member | None) -> tuple[State, str]:
    if instance.catalog is CatalogState.CATALOGED:
        return State.CATALOGED, "It is in the catalog and can be leased."
    if instance.catalog is CatalogState.REFUSED:
        return State.SET_ASIDE, "The catalog holds its host name under a key that is not ours."
    if member is None:
        return State.STARTING, "Its group has not been listed since the daemon started."
    if member.gce_id is None:
        reason = f"Compute is creating it. {member.error}".strip()
        return State.CREATING, reason
    if not member.is_running:
        return State.STARTING, f"The VM is {member.status or 'not there yet'} ({member.action})."
    if instance.catalog is CatalogState.ADDING:
        return State.RUNNING, "It is being added to the catalog."
    return State.RUNNING, "It runs and waits to be added to the catalog."
