"""Operators' orders to the daemon: changes to the Control entity and to machines. Pure.

The web API and the commands write the same entities with the same functions, each guarded by the
entity's version. All of them are idempotent, as `fleet.Change` requires. An order that cannot be
carried out raises an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import OrderError, UnknownNameError
from gce_backend.model.entities import Instance, InstanceTemplate, SetAsideMessage
from gce_backend.model.keys import GroupKey, Key, MachineKey, TemplateKey, template_key
from gce_backend.model.orders import (
    Control,
    Cordon,
    Drain,
    MachineOrder,
    Pause,
    RolloutPause,
    Undone,
)

MAX_REASON = 500
"""Longest reason of a pause, a drain or a cordon, in characters."""
MAX_REVISION = 200
"""Longest name of a revision."""
MAX_NAME = 500
"""Longest name of a template, zone or machine, or key of a machine, in an order."""
MAX_PAUSES = 100
"""Most paused parts of the fleet at a time."""
MAX_MACHINE_ORDERS = 50
"""Orders about machines that are stored: more than operators give within a minute."""
MAX_LIFT_SECONDS = 24 * 3600.0
"""Longest time for which one order lifts the caps on deletions."""
LIFT_SECONDS = 600.0
"""How long an order lifts them by default."""
MAX_KNOWN = 20
"""Most names in a message."""

REVISION_PATTERN = r"^[!-~]+\Z"
"""Revisions are hashes; any text without spaces is accepted."""

Apply: TypeAlias = Callable[[Control | None], Control]
ApplyToMachine: TypeAlias = Callable[[Instance | None], Instance]


def is_revision(text: str) -> bool:
    """Whether a text can be the name of a revision."""
    return len(text) <= MAX_REVISION and re.match(REVISION_PATTERN, text) is not None


def pause(
    reason: str, now: UnixSeconds, *, template: str = "", zone: str = "", by: str = ""
) -> Apply:
    """Stops all changes to the fleet; observing continues.

    Args:
        template: only for this template; "" is any.
        zone: only in this zone; "" is any.
        by: who orders it.

    Raises:
        OrderError: (by the change) too many parts of the fleet are paused already.
    """

    def apply(control: Control | None) -> Control:
        control = control or Control()
        if not template and not zone:
            since = control.paused_since if control.paused else now
            return replace(
                control, paused=True, pause_reason=reason, paused_since=since, paused_by=by
            )
        before, others = _apart(control, template, zone)
        if len(others) >= MAX_PAUSES:
            raise OrderError(
                f"{MAX_PAUSES} parts of the fleet are paused: resume one, or pause all"
            )
        new = Pause(template, zone, reason, before.since if before else now, by)
        return replace(control, pauses=tuple(sorted((*others, new), key=_scope)))

    return apply


def resume(*, template: str = "", zone: str = "") -> Apply:
    """Ends the pause of exactly this part of the fleet; with neither, the pause of everything."""

    def apply(control: Control | None) -> Control:
        control = control or Control()
        if template or zone:
            return replace(control, pauses=_apart(control, template, zone)[1])
        return replace(control, paused=False, pause_reason="", paused_since=None, paused_by="")

    return apply


def resume_all(control: Control | None) -> Control:
    """Ends all pauses."""
    return replace(resume()(control), pauses=())


def _apart(control: Control, template: str, zone: str) -> tuple[Pause | None, tuple[Pause, ...]]:
    """The pause of this part of the fleet, and the other pauses."""
    others = tuple(found for found in control.pauses if _scope(found) != (template, zone))
    same = (found for found in control.pauses if _scope(found) == (template, zone))
    return next(same, None), others


def _scope(found: Pause) -> tuple[str, str]:
    return found.template, found.zone


def check_scope(
    template: str, zone: str, templates: Iterable[TemplateKey], managers: Iterable[GroupKey]
) -> None:
    """Checks that an order's template and zone exist.

    Args:
        template: a base_name; "" is any.
        zone: a zone; "" is any.
        templates: keys of all stored templates.
        managers: keys of all stored managers.

    Raises:
        UnknownNameError: there is no such template, or nothing in that zone.
    """
    names = {key.base_name for key in templates}
    if template and template not in names:
        raise UnknownNameError(f"there is no template {template!r}. {_known(names)}")
    zones = {key.zone for key in managers if template in {"", key.base_name}}
    if zone and zone not in zones:
        whose = f"template {template!r}" if template else "any template"
        raise UnknownNameError(f"there is no group of {whose} in zone {zone!r}. {_known(zones)}")


def _known(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - MAX_KNOWN} more" if len(listed) > MAX_KNOWN else ""
    return f"Known: {', '.join(listed[:MAX_KNOWN]) or 'none yet'}{more}."


def the_template(name: str, templates: Mapping[TemplateKey, InstanceTemplate]) -> InstanceTemplate:
    """The template of this base_name.

    Args:
        name: the base_name.
        templates: all stored templates.

    Raises:
        UnknownNameError: there is none.
    """
    check_scope(name, "", templates, ())
    return templates[template_key(name)]


def pause_rollout(template: str, reason: str, now: UnixSeconds, by: str = "") -> Apply:
    """Stops a template's roll-out: no old machine leaves for a new one until it is resumed.

    Args:
        template: its base_name.
        by: who orders it.

    Raises:
        OrderError: (by the change) too many roll-outs are paused already.
    """

    def apply(control: Control | None) -> Control:
        control = control or Control()
        others = tuple(one for one in control.rollout_pauses if one.template != template)
        if len(others) >= MAX_PAUSES:
            raise OrderError(f"{MAX_PAUSES} roll-outs are paused: resume one")
        since = next((it.since for it in control.rollout_pauses if it.template == template), now)
        new = RolloutPause(template, reason, since, by)
        return replace(control, rollout_pauses=(*others, new))

    return apply


def resume_rollout(template: str) -> Apply:
    """Continues a template's roll-out: ends its pause, and what was undone of it."""

    def apply(control: Control | None) -> Control:
        control = control or Control()
        return replace(
            control,
            rollout_pauses=tuple(it for it in control.rollout_pauses if it.template != template),
            undone=tuple(it for it in control.undone if it.template != template),
        )

    return apply


def undo_rollout(
    name: str, template: InstanceTemplate, reason: str, now: UnixSeconds, by: str = ""
) -> Apply:
    """Puts the revision before in place of the active one, while the configuration describes that.

    Args:
        name: the template's base_name.
        by: who orders it.

    Raises:
        OrderError: there is no revision before; or (by the change) the active revision stands in
            for an undone one already.
    """
    active, before = template.active, template.previous
    if active is None or before is None:
        raise OrderError(f"template {name!r} has no earlier revision to go back to")

    def apply(control: Control | None) -> Control:
        control = control or Control()
        known = next((it for it in control.undone if it.template == name), None)
        if known is not None and known.revision == active:
            return control
        if known is not None:
            raise OrderError(
                f"a revision of template {name!r} is undone already: "
                f"`gce-backend rollout resume {name}` ends that"
            )
        if len(control.undone) >= MAX_PAUSES:
            raise OrderError(f"{MAX_PAUSES} roll-outs are undone: submit their earlier fields")
        new = Undone(name, active, before.checksum, reason, now, by)
        return replace(control, undone=(*control.undone, new))

    return apply


SHORTEST_REVISION = 4
"""Characters of a revision's beginning by which it is approved."""


def the_held(revision: str, held: str) -> str:
    """The full name of the revision that an operator means: the one that waits for approval.

    Args:
        revision: its name, or the beginning of it.
        held: the revision that waits; "" when none does.

    Raises:
        UnknownNameError: no revision waits, or another one does.
    """
    if not held:
        raise UnknownNameError(f"revision {revision} does not wait for approval: none does")
    if held != revision and (len(revision) < SHORTEST_REVISION or not held.startswith(revision)):
        raise UnknownNameError(f"revision {revision} does not wait for approval: {held} does")
    return held


def approve(revision: str, by: str = "") -> Apply:
    """Allows one import of this revision of the configuration, although it removes much.

    Args:
        by: who orders it.
    """
    return lambda control: replace(control or Control(), approved_revision=revision, approved_by=by)


def messages_meant(given: Collection[str], kept: Iterable[Key]) -> list[Key]:
    """The set-aside messages that an operator acknowledges.

    Args:
        given: their ids; none means all of them.
        kept: keys of all stored messages.

    Raises:
        UnknownNameError: one of them is not stored.
    """
    keys = {key.name: key for key in kept}
    unknown = [name for name in given if name not in keys]
    if unknown:
        raise UnknownNameError(f"no message {unknown[0]!r} is set aside")
    return [keys[name] for name in given] if given else list(keys.values())


def acknowledge(
    now: UnixSeconds, by: str = ""
) -> Callable[[SetAsideMessage | None], SetAsideMessage | None]:
    """Notes that an operator acknowledged a message, which then is no longer a problem.

    Args:
        by: who did.
    """

    def apply(message: SetAsideMessage | None) -> SetAsideMessage | None:
        known = message is None or message.seen is not None
        return message if message is None or known else replace(message, seen=now, seen_by=by)

    return apply


def lift_cap(until: float, by: str = "") -> Apply:
    """Lifts the caps on deletions until this time, in Unix seconds; a past time ends it.

    Args:
        by: who orders it.
    """
    return lambda control: replace(control or Control(), cap_lifted_until=until, cap_lifted_by=by)


def find_machine(name: str, machines: Iterable[MachineKey]) -> MachineKey:
    """The machine that an operator means.

    Args:
        name: the VM's name, or the whole key: template/revision/zone/name.
        machines: keys of all stored machines.

    Raises:
        UnknownNameError: there is none.
        OrderError: there are several; the message lists their keys.
    """
    last = name.rpartition("/")[2]
    known = list(machines)
    found = [key for key in known if key.name == last and name in {last, str(key)}]
    if not found:
        near = get_close_matches(last, {key.name for key in known})
        hint = f"Do you mean {' or '.join(near)}?" if near else "`gce-backend machines` lists them."
        raise UnknownNameError(f"there is no machine {name!r}. {hint}")
    if len(found) > 1:
        keys = ", ".join(sorted(map(str, found)))
        raise OrderError(f"{len(found)} machines have the name {name!r}: give one of {keys}")
    return found[0]


def machines_meant(
    names: Collection[str], selected: Collection[MachineKey], machines: Collection[MachineKey]
) -> list[MachineKey]:
    """The machines that an order is about, each once.

    Args:
        names: VMs' names or whole keys.
        selected: those that a selector chose.
        machines: keys of all stored machines.

    Raises:
        UnknownNameError: one of them does not exist, or there is none.
        OrderError: several machines have one of the names.
    """
    named = [find_machine(name, machines) for name in names]
    meant = list(dict.fromkeys((*named, *sorted(selected, key=str))))
    if not meant:
        raise UnknownNameError("the selector matches no machine: `gce-backend machines` lists them")
    return meant


def drain(
    key: MachineKey,
    reason: str,
    now: UnixSeconds,
    max_unavailable: int | None = None,
    *,
    by: str = "",
) -> ApplyToMachine:
    """Drains a machine: it leaves the catalog and is deleted as soon as nobody holds it.

    Args:
        max_unavailable: wait until at most so many machines of its template and zone are lacking
            then; None: do not wait.
        by: who orders it.

    Raises:
        UnknownNameError: (by the change) it no longer exists.
    """

    def apply(instance: Instance | None) -> Instance:
        instance = _present(key, instance)
        if instance.deletion is not None:
            return instance
        since = instance.drain.since if instance.drain is not None else now
        ordered = Drain(reason, since, max_unavailable=max_unavailable, by=by)
        return replace(instance, drain=ordered)

    return apply


def undrain(key: MachineKey) -> ApplyToMachine:
    """Cancels the drain of a machine, unless its deletion has begun.

    Raises:
        UnknownNameError: (by the change) it no longer exists.
        OrderError: (by the change) its deletion has begun.
    """

    def apply(instance: Instance | None) -> Instance:
        return replace(_staying(key, instance, "stay"), drain=None)

    return apply


def cordon(key: MachineKey, reason: str, now: UnixSeconds, *, by: str = "") -> ApplyToMachine:
    """Cordons a machine: it leaves the catalog, and its VM is kept until it is uncordoned.

    Args:
        by: who orders it.

    Raises:
        UnknownNameError: (by the change) it no longer exists.
        OrderError: (by the change) its deletion has begun.
    """

    def apply(instance: Instance | None) -> Instance:
        instance = _staying(key, instance, "be kept")
        since = instance.cordon.since if instance.cordon is not None else now
        return replace(instance, cordon=Cordon(reason, since, by))

    return apply


def uncordon(key: MachineKey) -> ApplyToMachine:
    """Ends the cordon of a machine.

    Raises:
        UnknownNameError: (by the change) it no longer exists.
    """
    return lambda instance: replace(_present(key, instance), cordon=None)


def _present(key: MachineKey, instance: Instance | None) -> Instance:
    if instance is None or instance.is_tombstone:
        raise UnknownNameError(f"the machine {key.name} is gone")
    return instance


def _staying(key: MachineKey, instance: Instance | None, wish: str) -> Instance:
    instance = _present(key, instance)
    if instance.deletion is not None:
        raise OrderError(f"the deletion of {key.name} has begun: it cannot {wish}")
    return instance


def mention(keys: Collection[MachineKey], now: UnixSeconds) -> Apply:
    """Tells every daemon that an order changed the entities of machines.

    Args:
        keys: the machines' keys.
    """
    new = tuple(MachineOrder(key, now) for key in keys)

    def apply(control: Control | None) -> Control:
        control = control or Control()
        if len(new) > MAX_MACHINE_ORDERS:
            return replace(control, machines_ordered=now)
        others = (found for found in control.machine_orders if found.machine not in keys)
        return replace(control, machine_orders=(*others, *new)[-MAX_MACHINE_ORDERS:])

    return apply


def shown(control: Control, now: UnixSeconds) -> dict[str, Any]:
    """The orders in force, as JSON."""
    until = control.cap_lifted_until
    return {
        "paused_by_operator": control.paused,
        "pause_reason": control.pause_reason,
        "paused_since": control.paused_since,
        "paused_by": control.paused_by or None,
        "pauses": [
            {
                "scope": found.scope,
                "template": found.template or None,
                "zone": found.zone or None,
                "reason": found.reason,
                "since": found.since,
                "by": found.by or None,
            }
            for found in control.pauses
        ],
        "rollout_pauses": list(control.rollout_pauses),
        "undone": list(control.undone),
        "approved_revision": control.approved_revision or None,
        "approved_by": control.approved_by or None,
        "cap_lifted_until": until if until > now else None,
        "cap_lifted_by": (control.cap_lifted_by or None) if until > now else None,
    }
