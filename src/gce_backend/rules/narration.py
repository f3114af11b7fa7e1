"""Describes a change of an entity: its state before and after, and why. Pure.

States come from entities alone. Facts that only Compute's lists show (a VM boots, a group has its
size) change no entity and make no event. Time alone makes no event either: a machine counts as
leased until the end of its lease is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple, TypeAlias

from gce_backend.base.dates import date
from gce_backend.base.plurals import plural
from gce_backend.configuration.naming import short_checksum
from gce_backend.model.entities import (
    CatalogState,
    ConfigServiceAddress,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    Lease,
    MachineProviderAddress,
    MetadataUpdate,
    StoredConfiguration,
)
from gce_backend.model.events import EventKind
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey
from gce_backend.model.orders import Control
from gce_backend.rules.activation import is_active
from gce_backend.rules.sightings import TAKEN_BACK
from gce_backend.rules.states import State, stored_machine_state, stored_state

Get: TypeAlias = Callable[[Key], Entity | None]
"""Returns the entities as they were at one time."""


_UPDATED, _PENDING = "Its metadata was updated: ", "An update of its metadata is pending: "


def is_about_metadata(reason: str) -> bool:
    """Whether an event only tells that metadata was changed, or is going to be."""
    return reason.startswith((_UPDATED, _PENDING)) and reason.count(". ") == 0


class Told(NamedTuple):
    """The description of a change.

    Attributes:
        kind: the kind of the subject.
        before: the state before; "" when it did not exist.
        after: the new state; "" when the subject no longer exists.
        reason: why, for people.
    """

    kind: EventKind
    before: str
    after: str
    reason: str


class NamedState(NamedTuple):
    """Whether the configuration names an entity, before and after."""

    before: bool
    after: bool

    @property
    def changed(self) -> bool:
        """Whether a commit changes it."""
        return self.before != self.after


Named: TypeAlias = Callable[[RevisionKey | GroupKey], NamedState]
"""Whether the configuration names a revision or a group, before and after a commit."""


def named_states(was: Get, now: Get) -> Named:
    """Looks once at what is above each of the many entities of a commit.

    Args:
        was: returns the entities above the changed ones as they were before.
        now: returns the new entities above them.
    """

    @cache
    def named(key: RevisionKey | GroupKey) -> NamedState:
        return NamedState(is_active(key, was), is_active(key, now))

    return named


def tell(key: Key, before: Entity | None, after: Entity | None, named_by: Named) -> Told | None:
    """The description of a change; None when no visible state has changed.

    Args:
        key: the entity's key.
        before: the entity before; None when there was none.
        after: the new entity; None when it was removed. Equal to `before` when only an entity
            above it has changed.
        named_by: whether the configuration names what is above it.
    """
    at = key.group if isinstance(key, MachineKey) else key
    named = NamedState(False, False)
    if isinstance(at, RevisionKey | GroupKey):
        named = named_by(at)
    if before is None and after is None:
        return None
    match before, after:
        case (Instance() | None as old, Instance() | None as new):
            told = _machine(old, new, named)
        case (InstanceGroupManager() | None as old, InstanceGroupManager() | None as new):
            told = _group(old, new, named)
        case (InstanceTemplateRevision() | None as old, InstanceTemplateRevision() | None as new):
            told = _revision(key.name, old, new, named)
        case (InstanceTemplate() | None as old, InstanceTemplate() | None as new):
            told = _template(old, new)
        case (StoredConfiguration() | None as old, StoredConfiguration() | None as new):
            told = _configuration(old or StoredConfiguration(), new or StoredConfiguration())
        case (ConfigServiceAddress() | None as old, ConfigServiceAddress() | None as new):
            hosts = (entity.service_hostname if entity else "" for entity in (old, new))
            told = _address("Configuration is served by", *hosts)
        case (
            MachineProviderAddress() | None as old,
            MachineProviderAddress() | None as new,
        ):
            urls = (entity.instance_url if entity else "" for entity in (old, new))
            told = _address("The Machine Provider is at", *urls)
        case (Control() | None as old, Control() | None as new):
            told = _control(old or Control(), new or Control())
        case _:
            return None
    return told if told.before != told.after or told.reason else None


# A machine


"""A member in place of the one that its group would list."""

_CATALOG = {
    CatalogState.ADDING: "It runs, and is being added to the catalog.",
    CatalogState.CATALOGED: "It is in the catalog.",
    CatalogState.REMOVED: "It has left the catalog.",
    CatalogState.ABSENT: "The catalog does not hold it.",
    CatalogState.REFUSED: "The catalog has its host name under another key.",
}
_ENDING = {
    State.MISSING,
    State.STOPPED,
    State.LOST,
    State.PENDING_DELETION,
    State.DELETING,
    State.DELETED,
}


def _machine(old: Instance | None, new: Instance | None, named: NamedState) -> Told:
    before = _machine_state(old, active=named.before)
    after = _machine_state(new, active=named.after)
    if new is None:
        if before == State.DELETED:  # removing a tombstone does not change the machine's state
            after = before
        reasons: Iterable[str] = () if after else ("Its entity was removed.",)
    else:
        reasons = _machine_reasons(old, new)
        if named.changed and after not in _ENDING:
            reasons = (*reasons, _naming("its group", named))
            if new.lease is not None and not named.after:
                reasons = (*reasons, "It is deleted after its lease ends.")
    return Told(EventKind.MACHINE, before, after, " ".join(reasons))


def _machine_state(instance: Instance | None, *, active: bool) -> str:
    if instance is None:
        return ""
    return stored_machine_state(instance, float("-inf"), active=active).value


def _machine_reasons(old: Instance | None, new: Instance) -> Iterator[str]:
    if old is None:
        empty = new.missing_since is not None
        yield "Its group counts it without a VM." if empty else "Its group lists it."
        old = Instance(gce_id=new.gce_id, missing_since=new.missing_since)
    elif old.gce_id is None and new.gce_id is not None:
        yield "Compute has made the VM."
    elif old.gce_id != new.gce_id:
        yield "Another VM has its name now."
        old = Instance()
    if (old.missing_since is None) != (new.missing_since is None) and new.deletion is None:
        yield "Its group lists it again." if old.missing_since else "Its group no longer lists it."
    if old.abandoned_since is None and new.abandoned_since is not None:
        yield "The VM still exists: somebody abandoned it."
    if (old.stopped_since is None) != (new.stopped_since is None):
        yield "The VM runs again." if old.stopped_since else "The VM no longer runs."
    if old.preempted_since is None and new.preempted_since is not None:
        yield TAKEN_BACK
    if old.catalog is not new.catalog and new.catalog in _CATALOG:
        yield _CATALOG[new.catalog]
    if (old.lost_since is None) != (new.lost_since is None):
        yield "The catalog holds it again." if old.lost_since else "The catalog no longer holds it."
    yield from _lease(old, new)
    if old.pending_deletion is None and new.pending_deletion is not None:
        yield new.pending_deletion.reason
    yield from _orders(old, new)
    yield from _metadata(old, new)
    yield from _deletion(old, new)


def _orders(old: Instance, new: Instance) -> Iterator[str]:
    if old.drain is not None and new.drain is None:
        yield "Its group needs it again." if old.drain.surplus else "An operator undrained it."
    elif new.drain is not None and old.drain != new.drain:
        yield str(new.drain)
    if old.cordon is not None and new.cordon is None:
        yield "An operator uncordoned it."
    elif new.cordon is not None and old.cordon != new.cordon:
        yield str(new.cordon)


def _lease(old: Instance, new: Instance) -> Iterator[str]:
    if new.lease is None:
        if old.lease is not None and new.pending_deletion is None:
            yield "Its lease has ended."
    elif old.lease is None or old.lease.expiration != new.lease.expiration:
        end = new.lease.expiration
        yield _lease_words(old.lease, end)


def _lease_words(before: Lease | None, end: float | None) -> str:
    if end is None:
        return "Somebody holds it." if before is None else "Its lease no longer has a known end."
    if before is None:
        return f"Somebody holds it until {_moment(end)}."
    if before.expiration is None:
        return f"The end of its lease became known: {_moment(end)}."
    word = "extended until" if end > before.expiration else "shortened to"
    return f"Its lease was {word} {_moment(end)}."


def _metadata(old: Instance, new: Instance) -> Iterator[str]:
    active, pending = old.active_metadata_update, new.pending_metadata_updates
    if active is not None and new.active_metadata_update is None and not new.is_tombstone:
        if not pending or pending[0].attempts <= active.attempts:
            yield f"{_UPDATED}{_keys(active)}."
        elif active.attempts == 0:  # a repeated failure is a condition
            yield f"Its metadata could not be updated; the daemon tries again: {_keys(active)}."
    elif len(pending) > len(old.pending_metadata_updates):
        yield f"{_PENDING}{_keys(pending[-1])}."


def _keys(update: MetadataUpdate) -> str:
    return ", ".join(sorted(update.items))


def _deletion(old: Instance, new: Instance) -> Iterator[str]:
    if new.deletion is None:
        return
    if old.deletion is None:
        yield f"Its deletion was requested (permit: {new.deletion.permit.value})."
    if new.is_tombstone and not old.is_tombstone:
        yield "The VM is gone."
    elif old.is_tombstone and not new.is_tombstone:
        yield "The VM was not gone: its group lists it."


def _naming(what: str, named: NamedState) -> str:
    if named.after:
        return f"The configuration names {what} again."
    return f"The configuration no longer names {what}."


# A group, a template's revision, a template


_Resource: TypeAlias = InstanceGroupManager | InstanceTemplateRevision


def _resource_state(entity: _Resource | None, *, active: bool) -> str:
    return stored_state(entity, active=active).value if entity is not None else ""


def _group(
    old: InstanceGroupManager | None, new: InstanceGroupManager | None, named: NamedState
) -> Told:
    reasons = (*_sizing(old, new), *_making("The group", old, new, named))
    return _resource(EventKind.GROUP, old, new, named, reasons)


def _revision(
    name: str,
    old: InstanceTemplateRevision | None,
    new: InstanceTemplateRevision | None,
    named: NamedState,
) -> Told:
    what = f"Revision {short_checksum(name)}"
    first = (f"The configuration describes {what.lower()}.",) if old is None else ()
    return _resource(EventKind.TEMPLATE, old, new, named, (*first, *_making(what, old, new, named)))


def _resource(
    kind: EventKind,
    old: _Resource | None,
    new: _Resource | None,
    named: NamedState,
    reasons: Iterable[str],
) -> Told:
    before = _resource_state(old, active=named.before)
    after = _resource_state(new, active=named.after)
    if new is None and before == "deleted":  # only its entity remained
        after = before
    return Told(kind, before, after, " ".join(reasons))


def _sizing(old: InstanceGroupManager | None, new: InstanceGroupManager | None) -> Iterator[str]:
    if new is None:
        return
    if old is None:
        yield f"The configuration asks for {_sizes(new)}."
        return
    if _sizes(old) != _sizes(new):
        yield f"The configuration asks for {_sizes(new)} instead of {_sizes(old)}."
    if new.resize is not None and (old.resize is None or old.resize.size != new.resize.size):
        yield f"The daemon lets the group grow by {plural(new.resize.size or 0, 'machine')}."
    elif old.resize is not None and new.resize is None and new.url is not None:
        yield f"The growth by {plural(old.resize.size or 0, 'machine')} has ended."


def _sizes(manager: InstanceGroupManager) -> str:
    if not manager.maximum_size:
        return f"at least {plural(manager.minimum_size, 'machine')}"
    return f"{manager.minimum_size} to {plural(manager.maximum_size, 'machine')}"


def _making(
    what: str, old: _Resource | None, new: _Resource | None, named: NamedState
) -> Iterator[str]:
    if old is None or new is None:
        return
    if named.changed:
        yield _naming(what[0].lower() + what[1:], named)
    if old.url is None and new.url is not None:
        yield f"{what} is there."
    elif old.url is not None and new.url is None:
        yield f"{what} is gone; the daemon makes it again." if named.after else f"{what} is gone."
    if old.trouble != new.trouble:
        yield from _trouble(old, new)
    if not old.is_deleting and new.is_deleting:
        yield "Its deletion was requested."
    elif old.is_deleting and not new.is_deleting and new.url is not None:
        yield "Its deletion has failed; the daemon tries again."


def _trouble(old: _Resource, new: _Resource) -> Iterator[str]:
    if old.trouble:
        yield f"{old.trouble.partition(':')[0]} has ended."
    if new.trouble:
        machines = isinstance(new, InstanceGroupManager) and new.url is not None
        yield f"Compute does not make {'its machines' if machines else 'it'}: {new.trouble}"


def _template(old: InstanceTemplate | None, new: InstanceTemplate | None) -> Told:
    before, after = (
        "" if entity is None else "active" if entity.active else "draining" for entity in (old, new)
    )
    first, last = (entity.active if entity is not None else None for entity in (old, new))
    if new is None:
        reason = "Its last revision was removed."
    elif first == last:
        reason = ""
    elif last is None:
        reason = "The configuration no longer names it."
    elif first is None:
        reason = f"The configuration names it: revision {short_checksum(last)}."
    else:
        reason = f"Revision {short_checksum(first)} -> {short_checksum(last)}."
    return Told(EventKind.TEMPLATE, before, after, reason)


# What is there once


def _configuration(old: StoredConfiguration, new: StoredConfiguration) -> Told:
    notes = []
    if old.revision != new.revision:
        notes.append("A new revision is in force.")
    if old.config_set != new.config_set:
        notes.append(f"The config set is {new.config_set}.")
    notes += [
        f"The newest image of the family {family} is {image}."
        for family, image in sorted(new.images.items())
        if old.images.get(family) != image
    ]
    served, before = new.candidate, old.candidate
    if served is not None and served != before:
        notes.append(f"Revision {served.revision} is {served.state.value}: {served.reason}")
    elif served is None and before is not None and old.revision == new.revision:
        notes.append(f"Revision {before.revision} is no longer served.")
    return Told(EventKind.CONFIGURATION, old.revision, new.revision, " ".join(notes))


def _address(where: str, old: str, new: str) -> Told:
    reason = f"{where} {new or 'nobody'}." if old != new else ""
    return Told(EventKind.CONFIGURATION, old, new, reason)


def _control(old: Control, new: Control) -> Told:
    notes = ["The pause of the whole fleet has ended."] if old.paused and not new.paused else []
    if new.paused and (not old.paused or old.pause_reason != new.pause_reason):
        notes.append(new.pause_reason or "No reason was given.")
    notes += [f"{pause}." for pause in new.pauses if pause not in old.pauses]
    scopes = {pause.scope for pause in new.pauses}
    ended = [pause.scope for pause in old.pauses if pause.scope not in scopes]
    notes += [f"Resumed by an operator ({scope})." for scope in ended]
    notes += list(_rollout_orders(old, new))
    if new.approved_revision not in {"", old.approved_revision}:
        notes.append(f"Revision {new.approved_revision} of the configuration was approved.")
    if old.cap_lifted_until < new.cap_lifted_until:
        notes.append(f"The caps on deletions are lifted until {_moment(new.cap_lifted_until)}.")
    elif old.cap_lifted_until > new.cap_lifted_until:
        notes.append(f"The caps on deletions apply again from {_moment(new.cap_lifted_until)}.")
    before, after = ("paused" if control.paused else "running" for control in (old, new))
    return Told(EventKind.CONTROL, before, after, " ".join(notes))


def _rollout_orders(old: Control, new: Control) -> Iterator[str]:
    """What has changed in the orders about roll-outs."""
    for pause in new.rollout_pauses:
        if pause not in old.rollout_pauses:
            why = f": {pause.reason}" if pause.reason else "."
            yield f"The roll-out of template {pause.template} is paused{why}"
    for pause in old.rollout_pauses:
        if not new.is_rollout_paused(pause.template):
            yield f"The roll-out of template {pause.template} continues."
    for one in new.undone:
        if one not in old.undone:
            why = f": {one.reason}" if one.reason else "."
            yield (
                f"Revision {short_checksum(one.revision)} of template {one.template} is undone, "
                f"and {short_checksum(one.instead)} is active in its place{why}"
            )
    for one in old.undone:
        if one not in new.undone:
            yield (
                f"Revision {short_checksum(one.revision)} of template {one.template} is no longer "
                "undone."
            )


def _moment(seconds: float) -> str:
    return date(seconds).strftime("%Y-%m-%d %H:%M:%S UTC")
