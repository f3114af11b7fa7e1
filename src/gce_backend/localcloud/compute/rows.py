"""The stored rows of the embedded Compute Engine: a frozen struct for each kind of row."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from gce_backend.base.dates import UnixSeconds

Phase = Literal["CREATING", "READY", "DELETING"]
"""CREATING: its insert is in flight and nobody sees it; DELETING: its delete is in flight."""

Action = Literal["CREATING", "RECREATING", "NONE", "DELETING", "ABANDONING"]
"""A managed instance's `currentAction`."""

Status = Literal[
    "",
    "PROVISIONING",
    "STAGING",
    "RUNNING",
    "REPAIRING",
    "STOPPING",
    "TERMINATED",
    "SUSPENDING",
    "SUSPENDED",
]
"""A VM's `status`; "" while no VM exists."""

HALTED = frozenset({"TERMINATED", "SUSPENDED"})
"""Statuses of VMs that rest: they use disks, but neither CPUs nor addresses."""


class Failure(msgspec.Struct, frozen=True):
    """Why something asynchronous failed.

    Attributes:
        code: e.g. `ZONE_RESOURCE_POOL_EXHAUSTED`.
        message: for people.
        status: the HTTP status that goes with it.
        at: when, in Unix seconds.
        details: Google's `errorDetails`.
    """

    code: str
    message: str
    status: int = 503
    at: UnixSeconds = 0.0
    details: list[dict[str, Any]] | None = None


class GlobalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of no zone; `COLLECTION` is its kind in links."""

    COLLECTION: ClassVar[str]

    project: str
    name: str

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{self.project}/{self.name}"

    @property
    def path(self) -> str:
        """Its partial link."""
        return f"projects/{self.project}/global/{self.COLLECTION}/{self.name}"


class ZonalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A resource in a zone; `COLLECTION` is its kind in links."""

    COLLECTION: ClassVar[str]

    project: str
    zone: str
    name: str

    @property
    def scope(self) -> str:
        """Its project and zone (`p/z`)."""
        return f"{self.project}/{self.zone}"

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{self.scope}/{self.name}"

    @property
    def path(self) -> str:
        """Its partial link."""
        return f"projects/{self.project}/zones/{self.zone}/{self.COLLECTION}/{self.name}"


class ErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """A failed action in a group's history.

    Attributes:
        group: the key of the group.
        serial: its serial number among all events of the cloud.
        instance: the partial link of the managed instance.
        action: what the group was doing to it.
        template: the key of the template that it was to be made from.
    """

    group: str
    serial: int
    instance: str
    action: Action
    template: str
    failure: Failure

    @property
    def place(self) -> str:
        """Its place in the group's history: the order of the texts is that of the events."""
        return f"{self.serial:020}"

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{self.group}/{self.place}"


class TemplateRow(GlobalRow, frozen=True, kw_only=True):
    """An instance template; `properties` are those of its request, `created` is in Unix seconds."""

    COLLECTION: ClassVar = "instanceTemplates"

    id: str
    description: str | None
    properties: dict[str, Any]
    created: float
    phase: Phase


class GroupRow(ZonalRow, frozen=True, kw_only=True):
    """A managed instance group.

    Attributes:
        template: the key of its template.
        base_name: what its VMs' names begin with.
        target_size: how many VMs it should have.
        paginated: whether listManagedInstances answers in pages.
        repairs: whether a VM that vanishes or stops is created again.
        settings: the other fields of its request, echoed in answers.
    """

    COLLECTION: ClassVar = "instanceGroupManagers"

    id: str
    template: str
    base_name: str
    target_size: int
    paginated: bool
    repairs: bool
    settings: dict[str, Any]
    created: UnixSeconds
    phase: Phase


class VmRow(ZonalRow, frozen=True, kw_only=True):
    """A managed instance with its VM, which exists while there is a status; or a VM of no group.

    Attributes:
        group: the key of its group; "" for a VM of no group.
        serial: the serial number of its VM; its addresses derive from it.
        id: the VM's numeric id; "" before the first VM, kept when the VM vanished.
        created: when the VM was made.
        due: when its next step happens; None when there is none.
        attempts: creations that failed in a row.
        failure: the last failure, kept after a success.
        metadata: its items, if they differ from those of template and group.
        properties: its properties, if they differ from those of the group's template.
        template: the key of the template it was made from; "" means the group's.
        labels: its labels, if they differ from those of template and group.
        preserved: the metadata of its per-instance configuration; None when it has none.
        ends: the state after STOPPING of a VM without a group: at rest, or gone.
        started: when it was last started, in Unix seconds; 0 means when it was made.
        stopped: when it last stopped, in Unix seconds; 0 means never.
        suspended: when it was last suspended, in Unix seconds; 0 means never.
        preempted: whether Compute has taken it back since it was last started.
    """

    COLLECTION: ClassVar = "instances"

    group: str
    serial: int = 0
    action: Action = "CREATING"
    status: Status = ""
    id: str = ""
    created: UnixSeconds = 0.0
    due: float | None = None
    attempts: int = 0
    failure: Failure | None = None
    metadata: list[dict[str, str]] | None = None
    properties: dict[str, Any] | None = None
    template: str = ""
    labels: dict[str, str] | None = None
    preserved: dict[str, str] | None = None
    ends: Literal["", "TERMINATED", "GONE"] = ""
    started: UnixSeconds = 0.0
    stopped: UnixSeconds = 0.0
    suspended: UnixSeconds = 0.0
    preempted: bool = False

    @property
    def is_leaving(self) -> bool:
        """Whether its group no longer counts it in its target size."""
        return self.action in {"DELETING", "ABANDONING"}


class DiskRow(ZonalRow, frozen=True, kw_only=True):
    """A boot disk that outlived its VM.

    Attributes:
        kind: its type, e.g. `pd-ssd`.
        created: when it was made, with its VM.
        id: its numeric id.
        labels: its labels.
    """

    COLLECTION: ClassVar = "disks"

    size_gb: str
    kind: str = "pd-standard"
    created: UnixSeconds = 0.0
    id: str = "1"
    labels: dict[str, str] = {}


class SnapshotRow(GlobalRow, frozen=True, kw_only=True):
    """A disk snapshot that was created; others exist on demand.

    Attributes:
        properties: what it was made with.
        created: when, in Unix seconds.
        id: its numeric id.
        status: CREATING or READY.
    """

    COLLECTION: ClassVar = "snapshots"

    id: str
    created: UnixSeconds
    properties: dict[str, Any]
    status: str = "CREATING"


class OperationRow(msgspec.Struct, frozen=True, kw_only=True):
    """An operation.

    Attributes:
        zone: None of a global operation.
        method: the method that started it, which determines its effect; "" of Compute's own.
        kind: its `operationType`.
        target: the partial link of what it acts on.
        target_id: the target's numeric id; "" when it has none yet.
        due: when it ends, in Unix seconds.
        done: whether it has ended.
        failure: the error in which it ends or has ended.
        payload: the data of its effect; None when there is none.
        request_id: the requestId of the call that started it; None when it had none.
    """

    project: str
    zone: str | None
    name: str
    id: str
    method: str
    kind: str
    target: str
    target_id: str
    inserted: UnixSeconds
    due: UnixSeconds
    done: bool = False
    failure: Failure | None = None
    payload: dict[str, Any] | None = None
    request_id: str | None = None

    @property
    def target_key(self) -> str:
        """What it acts on, as a key in the store."""
        name = self.target.rpartition("/")[2]
        return f"{self.project}/{self.zone}/{name}" if self.zone else f"{self.project}/{name}"

    @property
    def scope(self) -> str:
        """The key of the collection that it is listed in."""
        return f"{self.project}/{self.zone or 'global'}"

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{self.scope}/{self.name}"

    @property
    def path(self) -> str:
        """Its partial link."""
        scope = f"zones/{self.zone}" if self.zone else "global"
        return f"projects/{self.project}/{scope}/operations/{self.name}"


class RequestRow(msgspec.Struct, frozen=True):
    """A used requestId: its request, its operation, and when it was used (Unix seconds)."""

    digest: str
    operation: str
    at: float
