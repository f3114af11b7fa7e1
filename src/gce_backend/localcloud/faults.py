"""Faults that a test or a person injects into the embedded cloud, each counted as it fires."""

from __future__ import annotations

from typing import Literal

import msgspec


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One injected fault.

    Attributes:
        method: `service.resource.method`, or a prefix ending in `*`: `compute.*`, `*`.
        kind: `status` answers with `status` and `reason`; `latency` holds the answer for `seconds`;
            `drop` cuts the connection; `truncate` sends half of the body; `html` sends a page with
            200; `operation` lets the operation that the call starts end in error `reason`;
            `stockout` makes VM creation in `zone` (and of `machine_type`) fail while it lasts.
        when: whether `status` and `drop` strike before the call takes effect, or after it.
        status: HTTP status of a `status` fault.
        reason: the error's reason (Compute), status word (Datastore, Pub/Sub) or operation code.
        message: the error's text.
        retry_after: seconds for a Retry-After header.
        seconds: how long `latency` lasts.
        zone: restricts the fault to calls whose path names this zone.
        machine_type: restricts a `stockout` to one machine type.
        skip: matching calls that pass unharmed before the first one is struck.
        times: how often it strikes; None until it is cleared.
        fired: how often it has struck.
    """

    method: str = "*"
    kind: Literal["status", "latency", "drop", "truncate", "html", "operation", "stockout"] = (
        "status"
    )
    when: Literal["before", "after"] = "before"
    status: int = 503
    reason: str = "backendError"
    message: str = "injected fault"
    retry_after: float | None = None
    seconds: float = 0.0
    zone: str | None = None
    machine_type: str | None = None
    skip: int = 0
    times: int | None = 1
    fired: int = 0

    def matches(self, method: str, zone: str | None) -> bool:
        """Whether this fault strikes a call of `method` in `zone`."""
        if self.times is not None and self.fired >= self.times:
            return False
        if self.zone is not None and self.zone != zone:
            return False
        if self.method.endswith("*"):
            return method.startswith(self.method[:-1])
        return method == self.method


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

    def strike(self, method: str, zone: str | None, *kinds: str) -> list[Fault]:
        """The faults of these kinds that strike this call now; each is counted as fired."""
        met = [f for f in self.injected if f.kind in kinds and f.matches(method, zone)]
        struck = [fault for fault in met if fault.skip == 0]
        for fault in met:
            if fault.skip:
                fault.skip -= 1
            else:
                fault.fired += 1
        return struck

    def operation_error(self, method: str, zone: str | None) -> Fault | None:
        """The fault in which the operation started by this call must end, if any."""
        struck = self.strike(method, zone, "operation")
        return struck[0] if struck else None

    def stockout(self, zone: str, machine_type: str) -> Fault | None:
        """The stockout that a VM creation in this zone meets now, if any."""
        for fault in self.injected:
            wanted = fault.machine_type in {None, machine_type}
            if fault.kind == "stockout" and wanted and fault.matches(fault.method, zone):
                fault.fired += 1
                return fault
        return None
