"""What was last seen at Compute and at the Machine Provider. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gce_backend.model.machine_token import Dimension

STOPPED = frozenset(
    {"PENDING_STOP", "STOPPING", "STOPPED", "TERMINATED", "SUSPENDING", "SUSPENDED"}
)
"""Statuses of a VM that does not run, or is about to stop."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """A managed instance, as a group lists it.

    Attributes:
        name: the VM's name.
        gce_id: Compute's numeric id; None before the VM exists.
        status: the VM's status, e.g. `RUNNING`; "" when there is no VM.
        action: what the group is doing to it: `NONE`, `CREATING`, `DELETING`, ...
        error: why the last try of that action failed; "" when it did not.
        error_code: the error's code, e.g. `ZONE_RESOURCE_POOL_EXHAUSTED`.
    """

    name: str
    gce_id: int | None
    status: str
    action: str
    error: str = ""
    error_code: str = ""

    @property
    def cannot_be_made(self) -> bool:
        """Whether the group tries to create the VM, and the last try failed."""
        creating = self.gce_id is None and not self.status and self.action.startswith("CREATING")
        return creating and bool(self.error_code)

    @property
    def is_stopped(self) -> bool:
        """Whether something other than its group stopped the VM."""
        return self.status in STOPPED and self.action in {"NONE", "VERIFYING"}

    @property
    def is_starting(self) -> bool:
        """Whether the VM is starting, without a reported failure."""
        made = self.action in {"CREATING", "RECREATING"}
        asleep = self.status in STOPPED or self.status == "RUNNING"
        return (made or bool(self.status)) and not asleep and not self.error_code

    @property
    def is_running(self) -> bool:
        """Whether the VM runs and its group leaves it alone."""
        return self.status == "RUNNING" and self.action in {"NONE", "VERIFYING"}


class RequestedMachines(msgspec.Struct, frozen=True):
    """Machines of one kind that requests at the Machine Provider wait for.

    Attributes:
        dimensions: the dimensions that they must have.
        count: how many.
    """

    dimensions: Mapping[str, Dimension]
    count: int


class Group(msgspec.Struct, frozen=True):
    """A managed instance group, as last seen.

    Attributes:
        target_size: VMs that Compute tries to have, those being created and deleted included.
        stable: whether the group has nothing left to do.
        signature: a value that changes whenever its membership may have changed.
        changed: when it or its members were last seen to change, monotonic seconds.
        members: its VMs by name, from the last complete listing.
        listed: when that was, monotonic seconds; None before the first one.
        complete: whether the newest listing was complete; if not, `members` may be old.
        running: whether all its members run, and the group leaves them alone.
    """

    target_size: int
    stable: bool
    signature: str
    changed: float
    members: Mapping[str, Member] = {}
    listed: float | None = None
    complete: bool = False
    running: bool = False
