"""Faults that a test or a person injects into the embedded cloud, each counted as it fires."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Kind = Literal[
    "status",
    "latency",
    "drop",
    "late",
    "truncate",
    "html",
    "answer",
    "empty",
    "unreachable",
    "lost-page",
    "operation",
    "endless",
    "stockout",
    "outage",
]
SPOILING = frozenset({"truncate", "empty", "unreachable", "lost-page"})
"""Kinds of faults that spoil a finished answer."""
_UNREACHABLE = {"code": "UNREACHABLE", "message": "injected fault"}
_LOST = "!"
"""A page token that this cloud never issues."""


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One injected fault.

    Attributes:
        method: `service.resource.method`, or a prefix ending in `*`: `compute.*`, `*`.
        kind: `status` answers with `status` and `reason`; `latency` delays the answer by `seconds`;
            `drop` cuts the connection; `late` cuts it after `held` seconds, and the call takes
            effect `seconds` after it came; `truncate` sends half of the body; `html` sends a page
            with 200; `answer` sends `body` with 200; `empty` answers a list with nothing;
            `unreachable` with a warning in place of what it has (a list of managed instances has no
            warnings); `lost-page` with its first half and a page token that is then unknown;
            `operation` lets the operation that the call starts end in error `reason`; `endless`
            lets it run forever, so that it never takes effect; `stockout` makes VM creation in
            `zone` (and of `machine_type`) fail while it lasts, with the code `reason` unless that
            is left out; `outage` makes `zone`
            unreachable: Compute calls to it are answered with 503, and lists over all zones lack
            it.
        when: whether `status`, `drop`, `latency` and `answer` strike before the call takes effect,
            or after it.
        status: HTTP status of a `status` fault.
        reason: the error's reason (Compute), status word (Datastore, Pub/Sub) or operation code.
        message: the error's text.
        retry_after: seconds for a Retry-After header.
        seconds: the delay of `latency` and of `late`.
        held: seconds that `late` keeps the connection open.
        body: the JSON value of an `answer`.
        zone: restricts the fault to calls whose path names this zone.
        machine_type: restricts a `stockout` to one machine type.
        inner: whether it strikes the calls of the cloud's own services, e.g. of the Machine
            Provider to Datastore, instead of those from outside.
        skip: matching calls that pass unharmed before the first one is struck.
        times: how often it strikes; None until it is cleared.
        fired: how often it has struck.
        executed: how many calls that `late` struck have taken effect or were refused.
    """

    method: str = "*"
    kind: Kind = "status"
    when: Literal["before", "after"] = "before"
    status: int = 503
    reason: str = "backendError"
    message: str = "injected fault"
    retry_after: float | None = None
    seconds: float = 0.0
    held: float = 0.0
    body: Any = None
    zone: str | None = None
    machine_type: str | None = None
    inner: bool = False
    skip: int = 0
    times: int | None = 1
    fired: int = 0
    executed: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether it has struck as often as it shall."""
        return self.times is not None and self.fired >= self.times

    def matches(self, method: str, zone: str | None) -> bool:
        """Whether this fault strikes a call of `method` in `zone`."""
        if self.is_spent:
            return False
        if self.zone is not None and self.zone != zone:
            return False
        if self.method.endswith("*"):
            return method.startswith(self.method[:-1])
        return method == self.method


def spoiled_list(kind: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of a list after a fault of kind `empty`, `unreachable` or `lost-page`."""
    members = next((name for name in ("items", "managedInstances") if name in answer), None)
    rest = {name: value for name, value in answer.items() if name != members}
    if members is None or kind == "empty":
        return rest
    found = answer[members]
    if kind == "unreachable":
        if members == "managedInstances":
            return rest  # Compute has no warning for it
        if isinstance(found, list):
            return rest | {"warning": _UNREACHABLE}
        return rest | {members: {scope: {"warning": _UNREACHABLE} for scope in found}}
    half = len(found) // 2
    if isinstance(found, list):
        return rest | {members: found[:half], "nextPageToken": _LOST}
    return rest | {members: dict(list(found.items())[:half]), "nextPageToken": _LOST}


class Faults:
    """The faults in force, in the order in which they were injected."""

    def __init__(self) -> None:
        self.injected: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Puts a fault in force."""
        self.injected.append(fault)

    def clear(self) -> None:
        """Ends all faults."""
        self.injected.clear()

    def strike(
        self, method: str, zone: str | None, *kinds: str, inner: bool = False
    ) -> list[Fault]:
        """The faults of these kinds that strike this call now; each is counted as fired."""
        if not self.injected:
            return []
        near = [fault for fault in self.injected if fault.kind in kinds and fault.inner == inner]
        met = [fault for fault in near if fault.matches(method, zone)]
        struck = [fault for fault in met if fault.skip == 0]
        for fault in met:
            if fault.skip:
                fault.skip -= 1
            else:
                fault.fired += 1
        return struck

    def operation_error(self, method: str, zone: str | None) -> Fault | None:
        """The fault that makes the operation of this call fail; None when there is none."""
        struck = self.strike(method, zone, "operation")
        return struck[0] if struck else None

    def is_endless(self, method: str, zone: str | None) -> bool:
        """Whether the operation of this call must never end."""
        return bool(self.strike(method, zone, "endless"))

    def outages(self, zones: Iterable[str]) -> list[str]:
        """The zones that a call cannot reach now; each outage counts as fired."""
        if not any(fault.kind == "outage" for fault in self.injected):
            return []
        return [zone for zone in zones if self.strike("*", zone, "outage")]

    def stockout(self, zone: str, machine_type: str) -> Fault | None:
        """The stockout that a VM creation in this zone meets now; None when there is none."""
        for fault in self.injected:
            wanted = fault.machine_type in {None, machine_type}
            if fault.kind == "stockout" and wanted and fault.matches(fault.method, zone):
                fault.fired += 1
                return fault
        return None
