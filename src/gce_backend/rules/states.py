"""What an operator calls the state of a machine, a group, a revision and a template, and why. Pure.

Every page, document, command and metric takes its states from here. History does too, as far as
entities alone determine the state. A state follows from all known facts about its subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds, date
from gce_backend.base.plurals import plural
from gce_backend.configuration.values import KEEP_SURPLUS
from gce_backend.model.entities import (
    CatalogState,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.observed import Group, Member
from gce_backend.rules.group_sizes import UNUSED, Use, wanted_size
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.rollout import RolloutLimit
from gce_backend.rules.sightings import TAKEN_BACK, is_empty


class State(StrEnum):
    """What an operator calls the state of a machine."""

    CREATING = "creating"
    """Compute is making it."""
    STARTING = "starting"
    """The VM exists and is not running yet, or its group is at work on it."""
    RUNNING = "running"
    """It runs and is not in the catalog yet."""
    CATALOGED = "cataloged"
    """It runs and is in the catalog: it can be leased."""
    LEASED = "leased"
    """Somebody holds it."""
    DRAINING = "draining"
    """The configuration no longer names its revision or manager, or an operator drained it."""
    CORDONED = "cordoned"
    """An operator keeps it out of the catalog and its VM in existence."""
    PENDING_DELETION = "pending-deletion"
    """It was reclaimed and is to be deleted."""
    DELETING = "deleting"
    """Its deletion was requested."""
    MISSING = "missing"
    """Its group no longer lists it."""
    STOPPED = "stopped"
    """Its VM does not run: it was stopped, suspended or preempted, or its host failed."""
    LOST = "lost"
    """The catalog does not know it, though it was added."""
    SET_ASIDE = "set-aside"
    """The catalog holds its host name for another."""
    DELETED = "deleted"
    """It is gone."""


class GroupState(StrEnum):
    """What an operator calls the state of a group."""

    CREATING = "creating"
    """Compute does not have it yet."""
    UNKNOWN = "unknown"
    """It has not been seen since the daemon started."""
    MISSING = "missing"
    """Compute does not list it, and nobody here deleted it."""
    FAILING = "failing"
    """It cannot be created, or cannot change its machines as requested."""
    PAUSED = "paused"
    """It would be created or grow, but is paused."""
    GROWING = "growing"
    """It has fewer machines than it is to have."""
    CHANGING = "changing"
    """Machines in it are being created or deleted, or come up."""
    DEGRADED = "degraded"
    """Fewer of its machines are usable than the configuration asks for."""
    ACTIVE = "active"
    """It has what the configuration asks for."""
    SURPLUS = "surplus"
    """It has more machines than it needs."""
    DRAINING = "draining"
    """The configuration no longer names it."""
    DELETING = "deleting"
    """Its deletion was requested."""
    DELETED = "deleted"
    """Compute has no such group, and none is needed."""


class Shown(NamedTuple):
    """A state, and why."""

    state: str
    reason: str


# A machine


class MachineFacts(NamedTuple):
    """What is known of a machine.

    Attributes:
        member: the VM as last listed; None when it was not.
        active: whether the configuration names its manager and revision.
        listed: whether `member` is from a complete list of its group.
        paused: whether nothing may be done with it now.
    """

    instance: Instance
    member: Member | None
    active: bool
    now: UnixSeconds
    listed: bool = False
    paused: bool = False


def explain(facts: MachineFacts) -> tuple[State, str]:
    """A machine's state and, in words, why it is in it."""
    return (
        _ending(facts)
        or _stopped(facts)
        or _cordoned(facts)
        or _draining(facts)
        or _lost(facts.instance)
        or _rising(facts)
    )


def _ending(facts: MachineFacts) -> tuple[State, str] | None:
    instance = facts.instance
    deletion = instance.deletion
    if deletion is not None and deletion.confirmed is not None:
        return State.DELETED, "The VM is gone; the entity remains for a while as a tombstone."
    if deletion is not None and instance.abandoned_since is None:
        return State.DELETING, f"Deletion was requested (permit: {deletion.permit.value})."
    if instance.abandoned_since is not None:
        return (
            State.MISSING,
            "Somebody abandoned this VM: it exists, and its group no longer manages it.",
        )
    if instance.missing_since is not None:
        if instance.preempted_since is not None:
            return State.MISSING, f"Its group no longer lists this VM. {TAKEN_BACK}"
        return State.MISSING, "Its group no longer lists this VM: somebody else deleted it."
    if instance.pending_deletion is not None and instance.cordon is None:
        return State.PENDING_DELETION, instance.pending_deletion.reason
    return _unlisted(facts)


def _unlisted(facts: MachineFacts) -> tuple[State, str] | None:
    """A machine whose entity does not say so yet, and that its group does not show."""
    instance, member = facts.instance, facts.member
    if instance.gce_id is None:
        return None
    if member is None:
        told = State.MISSING, "The last list of its group does not show it."
        return told if facts.listed else None
    if member.gce_id not in {None, instance.gce_id}:
        return State.MISSING, "Another VM has its name."
    if is_empty(member, instance):
        return State.MISSING, "Its group still counts this VM: somebody else deleted it."
    return None


def _stopped(facts: MachineFacts) -> tuple[State, str] | None:
    member = facts.member
    if facts.instance.stopped_since is None and not (member is not None and member.is_stopped):
        return None
    status = f" ({member.status})" if member is not None and member.status else ""
    held = (
        " Somebody holds it: it is kept until the lease ends."
        if lease_runs(facts.instance, facts.now)
        else ""
    )
    kept = f" {facts.instance.cordon}" if facts.instance.cordon is not None else ""
    why = f" {TAKEN_BACK}" if facts.instance.preempted_since is not None else ""
    return State.STOPPED, f"The VM does not run{status}.{why}{held}{kept}"


def _cordoned(facts: MachineFacts) -> tuple[State, str] | None:
    instance = facts.instance
    if instance.cordon is None:
        return None
    if instance.pending_deletion is not None:
        told = f"{instance.pending_deletion.reason} It is kept all the same."
        return State.CORDONED, f"{told} {instance.cordon}"
    if lease_runs(instance, facts.now):
        told = "Somebody holds it. It leaves the catalog after its lease ends, and is kept."
        return State.LEASED, f"{told} {instance.cordon}"
    return State.CORDONED, str(instance.cordon)


def _draining(facts: MachineFacts) -> tuple[State, str] | None:
    instance = facts.instance
    if lease_runs(instance, facts.now):
        reasons = ["Somebody holds it."]
        if instance.lost_since is not None:
            reasons.append("The catalog no longer holds it.")
        if instance.drain is not None:
            reasons.append(f"It is deleted after its lease ends. {instance.drain}")
        elif not facts.active:
            reasons.append(
                "The configuration no longer names it: it is deleted after its lease ends."
            )
        return State.LEASED, " ".join(reasons)
    if instance.drain is not None:
        return State.DRAINING, str(instance.drain)
    if not facts.active:
        return State.DRAINING, "The configuration no longer names its revision or manager."
    return None


def _lost(instance: Instance) -> tuple[State, str] | None:
    if instance.catalog is CatalogState.ABSENT:
        return State.LOST, "The catalog does not hold it, though it was added."
    if instance.lost_since is not None and instance.catalog is CatalogState.CATALOGED:
        return State.LOST, "It was added to the catalog, and the catalog no longer holds it."
    return None


def _rising(facts: MachineFacts) -> tuple[State, str]:
    instance, member = facts.instance, facts.member
    if instance.catalog is CatalogState.REFUSED:
        return State.SET_ASIDE, "The catalog has its host name under another key."
    cataloged = instance.catalog is CatalogState.CATALOGED
    where = " It is in the catalog." if cataloged else ""
    if member is None:
        state = State.CATALOGED if cataloged else State.STARTING
        return state, f"Its group has not been listed since the daemon started.{where}"
    if member.gce_id is None:
        reason = f"Compute is creating it. {member.error}".strip()
        return State.CREATING, f"{reason}{where}"
    if member.action == "DELETING":
        return State.DELETING, f"Its group deletes it, and nobody here asked for that.{where}"
    if not member.is_running:
        at = "" if member.action == "NONE" else f" ({member.action})"
        return State.STARTING, f"The VM is {member.status or 'not there yet'}{at}.{where}"
    if cataloged and facts.paused:
        return State.CATALOGED, "It is in the catalog. Nothing is done with it until a pause ends."
    if cataloged:
        return State.CATALOGED, "It is in the catalog and can be leased."
    if facts.paused:
        return State.RUNNING, "It runs, and is not added to the catalog until a pause ends."
    if instance.catalog is CatalogState.ADDING:
        return State.RUNNING, "It is being added to the catalog."
    return State.RUNNING, "It runs and waits to be added to the catalog."


_CREATING = Member("", None, "", "CREATING")


def stored_machine_state(instance: Instance, now: UnixSeconds, *, active: bool) -> State:
    """A machine's state, as far as its entity tells.

    Args:
        active: whether the configuration names its group.
    """
    member = _CREATING
    if instance.gce_id is not None and instance.catalog is CatalogState.NEVER:
        member = Member("", instance.gce_id, "", "CREATING")
    elif instance.gce_id is not None:  # only running machines are added to the catalog
        member = Member("", instance.gce_id, "RUNNING", "NONE")
    return explain(MachineFacts(instance, member, active, now))[0]


def is_useful(facts: MachineFacts, state: State) -> bool:
    """Whether a machine is leased or can be: also one that stays until another replaces it.

    Args:
        facts: what is known of it.
    """
    if state is not State.DRAINING:
        return state in {State.LEASED, State.CATALOGED}
    instance, member = facts.instance, facts.member
    offered = instance.catalog is CatalogState.CATALOGED and instance.lost_since is None
    stays = instance.drain is None or instance.drain.max_unavailable is not None
    return offered and stays and (member is None or member.is_running)


# A group, a revision, a template


def stored_state(
    entity: InstanceGroupManager | InstanceTemplateRevision, *, active: bool
) -> GroupState:
    """The state of a group or of an instance template, as far as its entity tells.

    Args:
        entity: what stands for it.
        active: whether the configuration names it.
    """
    if entity.is_deleting:
        return GroupState.DELETING
    if not active:
        gone = entity.url is None and entity.in_flight is None
        return GroupState.DELETED if gone else GroupState.DRAINING
    if entity.url is None:
        return GroupState.CREATING
    growing = isinstance(entity, InstanceGroupManager) and entity.resize is not None
    return GroupState.GROWING if growing else GroupState.ACTIVE


class GroupFacts(NamedTuple):
    """What is known of a group.

    Attributes:
        group: as last seen at Compute; None when it was not.
        active: whether the configuration names it.
        others: VMs of the other revisions' groups in its zone; None when that is not known.
        unlisted: whether the last complete list of groups did not show it.
        paused: whether nothing may be done with it now.
        troubled: whether something that was tried with it, or with its template, has failed.
        use: what is asked of it.
        limit: what holds back its growth in a roll-out; None when nothing does.
    """

    manager: InstanceGroupManager
    group: Group | None
    active: bool
    machines: Mapping[State, int]
    others: int | None = 0
    unlisted: bool = False
    paused: bool = False
    troubled: bool = False
    use: Use = UNUSED
    limit: RolloutLimit | None = None


_COMING = (State.CREATING, State.STARTING, State.RUNNING)
_USELESS = (State.MISSING, State.STOPPED, State.LOST, State.SET_ASIDE, State.CORDONED)


def explain_group(facts: GroupFacts) -> tuple[GroupState, str]:
    """A group's state and, in words, why it is in it."""
    manager = facts.manager
    stored = stored_state(manager, active=facts.active)
    if stored in {GroupState.DELETING, GroupState.DELETED, GroupState.DRAINING}:
        return stored, _going(facts, stored)
    if facts.unlisted:
        return GroupState.MISSING, "Compute does not list it, and nobody here deleted it."
    if manager.url is None:
        return _coming(facts)
    if facts.group is None:
        return GroupState.UNKNOWN, "It has not been seen since the daemon started."
    state, reason = _sized(facts, facts.group)
    return state, f"{reason}{_later(manager)}"


def _later(manager: InstanceGroupManager) -> str:
    """What a schedule makes of a group's sizes next; "" when none does."""
    then = manager.next_sizes
    if then is None:
        return ""
    sizes = (
        ("minimum_size", manager.minimum_size, then.minimum_size),
        ("maximum_size", manager.maximum_size or None, then.maximum_size or None),
        ("spare_size", manager.spare_size, then.spare_size),
    )
    told = [
        f"{name} {'ends' if after is None else f'becomes {after}'}"
        for name, before, after in sizes
        if before != after
    ]
    return f" At {date(then.at):%Y-%m-%d %H:%M} UTC, {' and '.join(told)}."


def _going(facts: GroupFacts, stored: GroupState) -> str:
    left = sum(number for state, number in facts.machines.items() if state is not State.DELETED)
    if stored is GroupState.DELETING:
        return "Its deletion was requested."
    if stored is GroupState.DELETED and not left:
        return "The configuration no longer names it, and Compute has no such group."
    pause = " Nothing is done until a pause ends." if facts.paused else ""
    return f"The configuration no longer names it.{pause}"


def _coming(facts: GroupFacts) -> tuple[GroupState, str]:
    if facts.paused:
        return GroupState.PAUSED, "It is not made until a pause ends."
    if facts.troubled:
        return GroupState.FAILING, "It cannot be made now."
    if facts.manager.in_flight is not None:
        return GroupState.CREATING, "It is being created."
    return GroupState.CREATING, "It is about to be created, or waits for its instance template."


def _sized(facts: GroupFacts, group: Group) -> tuple[GroupState, str]:
    manager = facts.manager
    wanted = wanted_size(manager, facts.others or 0, facts.use)
    size = f"It has {group.target_size} of {plural(wanted, 'machine')}"
    failing = [member for member in group.members.values() if member.error_code]
    if failing:
        total = plural(len(group.members), "machine")
        count = f"{len(failing)} of its {total}" if len(failing) < len(group.members) else total
        return GroupState.FAILING, f"Compute cannot do what it asks for with {count}."
    if group.target_size < wanted:
        if facts.paused:
            return GroupState.PAUSED, f"{size}, and does not grow until a pause ends."
        state = GroupState.FAILING if facts.troubled else GroupState.GROWING
        if facts.limit is not None and group.target_size >= facts.limit.size:
            return state, f"{size}. {facts.limit.reason}"
        return state, f"{size}."
    if not group.stable:
        return GroupState.CHANGING, "Compute is creating or deleting machines in it."
    return _used(facts, group, wanted)


def _used(facts: GroupFacts, group: Group, wanted: int) -> tuple[GroupState, str]:
    """A group that has its size: whether its machines are of use."""
    machines, manager = facts.machines, facts.manager
    useful = machines.get(State.CATALOGED, 0) + machines.get(State.LEASED, 0)
    if useful < wanted:
        rest = {
            state: number
            for state, number in machines.items()
            if number and state not in {State.CATALOGED, State.LEASED, State.DELETED}
        }
        told = ", ".join(f"{number} {state.value}" for state, number in rest.items())
        coming = useful + sum(machines.get(state, 0) for state in _COMING) >= wanted
        reason = f"{useful} of {plural(wanted, 'machine')} can be leased or are leased"
        state = GroupState.CHANGING if coming else GroupState.DEGRADED
        return state, f"{reason}{f'; {told}' if told else ''}."
    if wanted < manager.minimum_size and facts.use.share is not None:
        return GroupState.ACTIVE, (
            f"It has {group.target_size} of {plural(manager.minimum_size, 'machine')}: the rest of "
            "its pool has the others, which it could not make when they were wanted."
        )
    if wanted < manager.minimum_size:
        return GroupState.ACTIVE, (
            f"It has {group.target_size} of {plural(manager.minimum_size, 'machine')}: other "
            f"revisions leave no room for more below the maximum of {manager.maximum_size}."
        )
    useless = sum(machines.get(state, 0) for state in _USELESS)
    if useless:
        total = sum(n for state, n in machines.items() if state is not State.DELETED)
        number = f"{useless} of its {plural(total, 'machine')}"
        return GroupState.DEGRADED, f"{number} cannot be leased; the rest are enough."
    if group.target_size > wanted:
        return GroupState.SURPLUS, _too_many(facts, group, wanted)
    return GroupState.ACTIVE, "It has what the configuration asks for."


def _too_many(facts: GroupFacts, group: Group, wanted: int) -> str:
    """Why a group has surplus, and what becomes of it."""
    seconds, leaving = facts.manager.surplus_seconds, facts.machines.get(State.DRAINING, 0)
    told = f"It has {plural(group.target_size, 'machine')} and needs {wanted}"
    if facts.paused:
        return f"{told}. Nothing is removed until a pause ends."
    if leaving:
        return f"{told}: {leaving} drain."
    if not facts.machines.get(State.CATALOGED, 0):
        return f"{told}. Somebody holds them: they are kept until their leases end."
    if seconds == KEEP_SURPLUS:
        return f"{told}. Its manager keeps them (surplus_seconds: {KEEP_SURPLUS})."
    return f"{told}: idle ones leave when that has lasted for {seconds} s."


def explain_revision(
    revision: InstanceTemplateRevision, *, active: bool, paused: bool, troubled: bool
) -> tuple[GroupState, str]:
    """The state of a template's revision and, in words, why.

    Args:
        active: whether it is the one that the configuration describes.
        paused: whether nothing may be done with it now.
        troubled: whether something that was tried with it has failed.
    """
    state = stored_state(revision, active=active)
    if state is GroupState.DELETING:
        return state, "The deletion of its instance template was requested."
    if not active:
        return state, "Another revision took its place, or its template was removed."
    if state is GroupState.ACTIVE:
        return state, "The configuration names it."
    if paused:
        return GroupState.PAUSED, "Its instance template is not made until a pause ends."
    if troubled:
        return GroupState.FAILING, "Its instance template cannot be made now."
    return state, "Its instance template is being created, or is about to be."


def explain_template(
    template: InstanceTemplate, machines: int, *, exists: bool = True, alternative_of: str = ""
) -> tuple[str, str]:
    """The state of a template and, in words, why.

    Args:
        machines: those of all its revisions that are not gone.
        exists: whether anything of it is left at Compute.
        alternative_of: the template in whose place its machines are made; "" when it is none.
    """
    if template.active and alternative_of:
        return "active", (
            f"It is an alternative of {alternative_of}: it has machines while Compute Engine "
            f"cannot make enough of {alternative_of}."
        )
    if template.active:
        return "active", "The configuration names it."
    if machines:
        return "draining", (
            f"The configuration no longer names it: {plural(machines, 'machine')} of it left."
        )
    if not exists:
        return "deleted", "The configuration no longer names it, and nothing of it is left."
    return "draining", "The configuration no longer names it, and no machine of it is left."
