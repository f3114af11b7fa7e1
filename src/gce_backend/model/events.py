"""Events: what happened, as pages show it and as Datastore holds it."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from gce_backend.base.dates import StoredSeconds, UnixSeconds


class EventKind(StrEnum):
    """What an event is about."""

    MACHINE = "machine"
    GROUP = "group"
    TEMPLATE = "template"
    """A template, or one of its revisions: the subject says which."""
    CONFIGURATION = "configuration"
    """The configuration in force, or the addresses of its source and of the Machine Provider."""
    CONTROL = "control"
    """What an operator ordered."""


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A change of state, as history shows it.

    Attributes:
        at: when it was stored, Unix seconds.
        kind: one of `EventKind`.
        name: what people call it: the VM's or the group's name, the template's base_name,
            `configuration` or `control`.
        subject: its key as text, e.g. `base_name/checksum/zone/vm`.
        before: the state before; "" when it did not exist.
        after: the new state; "" when the subject is gone. The same as before when the event is
            something else, which the reason says.
        reason: why, for people.
        cause: what did it: `job NAME`, `message KIND ID`, `operator ORDER`.
        who: who ordered it: the name of a token, or the account of a command; "" for nobody.
    """

    at: UnixSeconds
    kind: str
    name: str
    subject: str
    before: str = ""
    after: str = ""
    reason: str = ""
    cause: str = ""
    who: str = ""

    @property
    def template(self) -> str:
        """The base_name of the template that it belongs to; "" when to none."""
        of_template = self.kind in {EventKind.MACHINE, EventKind.GROUP, EventKind.TEMPLATE}
        return self.subject.split("/")[0] if of_template else ""

    @property
    def zone(self) -> str:
        """The zone that it happened in; "" when in none."""
        parts = self.subject.split("/")
        return parts[2] if len(parts) > 2 else ""


class Happening(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The same event of several subjects side by side: how history is stored.

    Attributes:
        kind: as in `Event`, like the rest.
        parent: the subjects' common parent key as text; "" for roots.
        names: the last part of each subject.
        before: the state before.
        after: the new state.
        reason: why.
        cause: what did it.
        who: who ordered it.
    """

    kind: str
    parent: str
    names: tuple[str, ...]
    before: str
    after: str
    reason: str
    cause: str
    who: str = ""


class HistoryPage(msgspec.Struct, frozen=True, gc=False):
    """What one commit did, stored in that commit; `fleet.history` reads it, the picture does not.

    Attributes:
        at: when, Unix seconds.
        happenings: in order.
    """

    KIND: ClassVar[str] = "HistoryPage"

    at: StoredSeconds
    happenings: tuple[Happening, ...]
