"""An operator's orders, as they are stored."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from gce_backend.base.dates import StoredSeconds
from gce_backend.model.keys import Key, MachineKey


class Pause(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A pause of a part of the fleet: the daemon changes nothing there, and continues to observe.

    Attributes:
        template: of this template only, by its base_name; "" is any.
        zone: in this zone only; "" is any. What has no zone (a template) is not in one.
        reason: why, for people.
        since: since when, Unix seconds.
        by: who ordered it; "" is not known.
    """

    template: str = ""
    zone: str = ""
    reason: str = ""
    since: StoredSeconds = 0.0
    by: str = ""

    def covers(self, key: Key) -> bool:
        """Whether it pauses the resource of this entity: a template, a revision, a group, a VM."""
        return self.template in {"", key.base_name} and self.zone in {"", key.zone}

    @property
    def scope(self) -> str:
        """The paused part, in words."""
        template = f"template {self.template}" if self.template else ""
        zone = f"zone {self.zone}" if self.zone else ""
        return " in ".join(filter(None, (template, zone))) or "everything"

    @property
    def ended_by(self) -> str:
        """The command that ends it."""
        template = f" --template {self.template}" if self.template else ""
        zone = f" --zone {self.zone}" if self.zone else ""
        return f"gce-backend resume{template}{zone}"

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"Paused by {self.by or 'an operator'} ({self.scope}){why}"


class RolloutPause(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A pause of a template's roll-out: no old machine leaves for a new one meanwhile.

    Attributes:
        template: the template's base_name.
        reason: why, for people.
        since: since when, Unix seconds.
        by: who ordered it; "" is not known.
    """

    template: str
    reason: str = ""
    since: StoredSeconds = 0.0
    by: str = ""


class Undone(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A template keeps an earlier revision while the configuration describes a certain one.

    Attributes:
        template: the template's base_name.
        revision: the checksum of the revision that is undone.
        instead: the checksum of the revision that is active in its place.
        reason: why, for people.
        since: since when, Unix seconds.
        by: who ordered it; "" is not known.
    """

    template: str
    revision: str
    instead: str
    reason: str = ""
    since: StoredSeconds = 0.0
    by: str = ""


class MachineOrder(msgspec.Struct, frozen=True, gc=False):
    """Notes that an operator has written into the entity of a machine.

    Attributes:
        at: when, Unix seconds.
    """

    machine: MachineKey
    at: StoredSeconds


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """The orders in force (written by operators, through the web API and the commands).

    Attributes:
        paused: whether the whole fleet is paused; observing continues.
        pause_reason: why, for people.
        paused_since: since when, Unix seconds.
        paused_by: who ordered it.
        pauses: pauses of parts of the fleet, one for each scope, in the order of their scopes.
        machine_orders: the last of them, the newest at the end: each daemon reads those entities
            again, and need not read all to find what another process wrote.
        machines_ordered: when an order was last about more machines than these can name, Unix
            seconds: each daemon reads all machines again.
        approved_revision: the configuration that may be imported once although it removes much
            (import-config clears it with that import).
        approved_by: who approved it.
        cap_lifted_until: until when the caps on deletions do not hold, Unix seconds.
        rollout_pauses: paused roll-outs, one for each template.
        undone: revisions that are undone, one for each template (process-config removes those that
            the configuration no longer describes).
        cap_lifted_by: who lifted them.
    """

    KIND: ClassVar[str] = "Control"

    paused: bool = False
    pause_reason: str = ""
    paused_since: StoredSeconds | None = None
    pauses: tuple[Pause, ...] = ()
    machine_orders: tuple[MachineOrder, ...] = ()
    machines_ordered: StoredSeconds = 0.0
    approved_revision: str = ""
    cap_lifted_until: StoredSeconds = 0.0
    rollout_pauses: tuple[RolloutPause, ...] = ()
    undone: tuple[Undone, ...] = ()
    paused_by: str = ""
    approved_by: str = ""
    cap_lifted_by: str = ""

    def is_rollout_paused(self, template: str) -> bool:
        """Whether the roll-out of a template, by its base_name, is paused."""
        return any(pause.template == template for pause in self.rollout_pauses)

    @property
    def pauses_in_force(self) -> tuple[Pause, ...]:
        """All pauses; the one of the whole fleet first."""
        if not self.paused:
            return self.pauses
        whole = Pause("", "", self.pause_reason, self.paused_since or 0.0, self.paused_by)
        return (whole, *self.pauses)


class DrainCause(StrEnum):
    """Why the daemon replaces a machine."""

    AGE = "age"
    """It is too old. It stays in the catalog until another can be leased."""
    BOOT = "boot"
    """It did not come up."""


class Drain(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The machine is to be deleted, as soon as nobody holds it.

    Attributes:
        reason: why, for people.
        since: since when, Unix seconds.
        surplus: whether the daemon wants that, because its group has too many machines.
        endangered: whether the daemon wants that, because a deletion that was sent for an earlier
            VM of its name may still take effect.
        cause: another reason for which the daemon wants that; without any of these three, an
            operator does.
        max_unavailable: it leaves the catalog once at most so many machines of its template and
            zone are lacking then; None: at once.
        by: who ordered it; "" is not known.
    """

    reason: str = ""
    since: StoredSeconds = 0.0
    surplus: bool = False
    max_unavailable: int | None = None
    endangered: bool = False
    by: str = ""
    cause: DrainCause | None = None

    def __str__(self) -> str:
        if self.endangered or self.cause is not None:
            return f"It is replaced: {self.reason}"
        if self.surplus:
            return f"Surplus: {self.reason}"
        return _ordered("Drained", self.by, self.reason)


class Cordon(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An operator wants the VM kept and not offered, whatever else is said of the machine.

    Attributes:
        reason: why, for people.
        since: since when, Unix seconds.
        by: who ordered it; "" is not known.
    """

    reason: str = ""
    since: StoredSeconds = 0.0
    by: str = ""

    def __str__(self) -> str:
        return _ordered("Cordoned", self.by, self.reason)


def _ordered(what: str, by: str, reason: str) -> str:
    """An order about a machine, in words."""
    return f"{what} by {by or 'hand'}" + (f": {reason}" if reason else ".")
