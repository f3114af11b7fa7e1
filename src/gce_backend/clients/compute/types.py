"""What Compute answers, decoded and frozen: resources, operations and lists.

Only the fields that this project uses are here; others are ignored. 64-bit numbers come as strings
(decoded with `strict=False`). Times are RFC 3339 texts and links are texts, as Compute sent them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, ClassVar, Generic, TypeAlias, TypeVar

import msgspec

from gce_backend.base.errors import OperationFailedError, RemoteError
from gce_backend.clients.compute.links import ResourceLink

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""How many of something: 32 bits wide, as Compute's description says."""

T = TypeVar("T")


class _Answer(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A JSON object of Compute's. `FIELDS`, where it has them, is the mask to ask for it with."""


# Resources


class ComputeTemplate(_Answer, frozen=True, gc=False):
    """An instance template, without its properties."""

    FIELDS: ClassVar[str] = "name,id,description,selfLink"

    name: str
    id: int = 0
    description: str = ""
    self_link: str = ""


class CurrentActions(_Answer, frozen=True, gc=False):
    """How many members of a group are being acted on; `none` counts the idle ones."""

    none: Count = 0
    creating: Count = 0
    creating_without_retries: Count = 0
    recreating: Count = 0
    deleting: Count = 0
    abandoning: Count = 0
    restarting: Count = 0
    refreshing: Count = 0
    verifying: Count = 0
    suspending: Count = 0
    resuming: Count = 0
    starting: Count = 0
    stopping: Count = 0


class GroupStatus(_Answer, frozen=True, gc=False):
    """`is_stable`: nothing is going on in the group; False also when Compute did not say."""

    is_stable: bool = False


class ComputeGroup(_Answer, frozen=True, gc=False):
    """A managed instance group."""

    FIELDS: ClassVar[str] = (
        "name,targetSize,zone,id,description,currentActions,status(isStable),selfLink"
    )

    name: str
    target_size: Count
    zone: str = ""
    id: int = 0
    description: str = ""
    current_actions: CurrentActions = CurrentActions()
    status: GroupStatus = GroupStatus()
    self_link: str = ""

    @property
    def zone_name(self) -> str:
        """The zone's name, without the rest of its link."""
        return self.zone.rpartition("/")[2]


class ErrorItem(_Answer, frozen=True, gc=False):
    """One error: Compute's code, e.g. `ZONE_RESOURCE_POOL_EXHAUSTED`, and words for people."""

    code: str = ""
    message: str = ""


class ErrorList(_Answer, frozen=True, gc=False):
    """The errors of an operation or of an attempt."""

    errors: tuple[ErrorItem, ...] = ()


class LastAttempt(_Answer, frozen=True, gc=False):
    """The last try to create or change a managed instance."""

    errors: ErrorList = ErrorList()


class ManagedInstance(_Answer, frozen=True, gc=False):
    """A member of a group: `id` and `instance_status` are absent while no VM exists for it."""

    FIELDS: ClassVar[str] = (
        "instance,id,instanceStatus,currentAction,lastAttempt(errors(errors(code,message)))"
    )

    instance: str
    id: int | None = None
    instance_status: str = ""
    current_action: str = ""
    last_attempt: LastAttempt = LastAttempt()

    def __post_init__(self) -> None:
        """Refuses what is not an id."""
        if not 0 <= (self.id or 0) < 2**64:
            raise ValueError("an id that does not fit 64 bits")

    @property
    def is_named(self) -> bool:
        """Whether its link says which VM it is; one member's odd link spoils no other."""
        try:
            return ResourceLink.parse(self.instance).collection == "instances"
        except ValueError:
            return False


class MetadataItem(_Answer, frozen=True, gc=False):
    """One metadata key and its value."""

    key: str
    value: str = ""


class InstanceMetadata(_Answer, frozen=True, gc=False):
    """A VM's metadata and the fingerprint that changing it needs; a VM may have no items."""

    fingerprint: str = ""
    items: tuple[MetadataItem, ...] = ()

    def as_dict(self) -> dict[str, str]:
        """Key to value."""
        return {item.key: item.value for item in self.items}


class InstanceAccount(_Answer, frozen=True, gc=False):
    """A VM's service account, by its address."""

    email: str


class ComputeInstance(_Answer, frozen=True, gc=False):
    """A VM."""

    FIELDS: ClassVar[str] = (
        "name,id,zone,status,metadata(fingerprint,items(key,value)),labels,serviceAccounts(email),"
        "machineType"
    )

    name: str
    id: int
    zone: str = ""
    status: str = ""
    metadata: InstanceMetadata = InstanceMetadata()
    labels: dict[str, str] = {}
    service_accounts: tuple[InstanceAccount, ...] = ()
    machine_type: str = ""

    def __post_init__(self) -> None:
        """Refuses what is not an id."""
        if not 0 <= self.id < 2**64:
            raise ValueError("an id that does not fit 64 bits")

    @property
    def zone_name(self) -> str:
        """The zone's name, without the rest of its link."""
        return self.zone.rpartition("/")[2]


class MachineType(_Answer, frozen=True, gc=False):
    """A machine type; memory in MiB."""

    FIELDS: ClassVar[str] = "name,guestCpus,memoryMb"

    name: str
    guest_cpus: Count
    memory_mb: Count


class Image(_Answer, frozen=True, gc=False):
    """An image; its size in GB is the least that a disk made from it can have."""

    FIELDS: ClassVar[str] = "name,diskSizeGb"

    name: str
    disk_size_gb: Count = 0


class Surrounding(_Answer, frozen=True, gc=False):
    """That something exists of which only the name is known here, e.g. a network."""

    FIELDS: ClassVar[str] = "name"

    name: str


class Snapshot(_Answer, frozen=True, gc=False):
    """A disk snapshot; its size in GB is that of the disk it was taken of."""

    FIELDS: ClassVar[str] = "name,status,diskSizeGb,creationTimestamp,labels"

    name: str
    status: str = ""
    disk_size_gb: Count = 0
    creation_timestamp: str = ""
    labels: dict[str, str] = {}


class Disk(_Answer, frozen=True, gc=False):
    """A disk; `users` are the VMs that it is attached to."""

    FIELDS: ClassVar[str] = "name,id,zone,sizeGb,type,labels,users"

    name: str
    id: int
    zone: str = ""
    size_gb: Count = 0
    type: str = ""
    labels: dict[str, str] = {}
    users: tuple[str, ...] = ()

    @property
    def zone_name(self) -> str:
        """The zone's name, without the rest of its link; "" of a regional disk."""
        return self.zone.rpartition("/")[2]


class Operation(_Answer, frozen=True, gc=False):
    """What became, or becomes, of a mutation. `zone` and the links are URLs."""

    FIELDS: ClassVar[str] = (
        "name,status,selfLink,operationType,targetId,error(errors(code,message)),"
        "httpErrorStatusCode,httpErrorMessage"
    )

    name: str
    status: str
    self_link: str
    operation_type: str = ""
    target_id: int = 0
    error: ErrorList = ErrorList()
    http_error_status_code: Count = 0
    http_error_message: str = ""

    def __post_init__(self) -> None:
        """Refuses one that could not be asked for again."""
        if self.link.collection != "operations":
            raise ValueError(f"not an operation: {self.self_link}")

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status == "DONE"

    @property
    def failed(self) -> bool:
        """Whether it has ended in an error."""
        return self.done and bool(self.error.errors or self.http_error_status_code >= 400)

    @property
    def link(self) -> ResourceLink:
        """Where to ask for it again."""
        return ResourceLink.parse(self.self_link)

    def failure(self) -> OperationFailedError | None:
        """The error that it ended in; None when it has not ended, or well."""
        if not self.failed:
            return None
        words = "; ".join(item.message for item in self.error.errors)
        return OperationFailedError(
            f"compute.operations.{self.operation_type or 'unknown'}",
            words or self.http_error_message or "no reason given",
            codes=[item.code for item in self.error.errors],
            status=self.http_error_status_code or None,
        )


# Lists


class CompleteListing(msgspec.Struct, Generic[T], frozen=True):
    """All that there is. Absence from it means absence."""

    items: tuple[T, ...]


class PartialListing(msgspec.Struct, Generic[T], frozen=True):
    """Some of what there is, and why not all. Absence from it means nothing."""

    items: tuple[T, ...]
    reasons: tuple[str, ...]


Listing: TypeAlias = CompleteListing[T] | PartialListing[T]


class Warning(_Answer, frozen=True, gc=False):  # noqa: A001  (Compute's word for it)
    """Something that a list wants known, e.g. `UNREACHABLE`."""

    code: str = ""
    message: str = ""

    def reasons(self, scope: str) -> Iterable[str]:
        """Why the list is incomplete, if it is."""
        if self.code not in {"", "NO_RESULTS_ON_PAGE"}:
            yield f"{scope}: {self.code} {self.message}".strip()


class Page(_Answer, Generic[T], frozen=True, gc=False):
    """One page of a list."""

    FIELDS: ClassVar[str]

    next_page_token: str = ""
    """Where the next page begins; empty on the last one."""

    def entries(self) -> Iterable[T]:
        """What is on it."""
        raise NotImplementedError

    def reasons(self) -> Iterable[str]:
        """Why it is incomplete; empty when it is not."""
        raise NotImplementedError


class _ScopePage(Page[T], Generic[T], frozen=True, gc=False):
    """A page of a list of one scope."""

    SCOPE: ClassVar[str] = "global"

    items: tuple[T, ...] = ()
    warning: Warning = Warning()

    def entries(self) -> Iterable[T]:
        return self.items

    def reasons(self) -> Iterable[str]:
        return self.warning.reasons(self.SCOPE)


class SnapshotPage(_ScopePage[Snapshot], frozen=True, gc=False):
    """Of snapshots.list."""

    FIELDS: ClassVar[str] = f"items({Snapshot.FIELDS}),nextPageToken,warning(code,message)"


class TemplatePage(_ScopePage[ComputeTemplate], frozen=True, gc=False):
    """Of instanceTemplates.list."""

    FIELDS: ClassVar[str] = f"items({ComputeTemplate.FIELDS}),nextPageToken,warning(code,message)"


class OperationPage(_ScopePage[Operation], frozen=True, gc=False):
    """Of zoneOperations.list."""

    FIELDS: ClassVar[str] = f"items({Operation.FIELDS}),nextPageToken,warning(code,message)"
    SCOPE: ClassVar[str] = "zone"


class ManagedInstancePage(Page[ManagedInstance], frozen=True, gc=False):
    """Of instanceGroupManagers.listManagedInstances."""

    FIELDS: ClassVar[str] = f"managedInstances({ManagedInstance.FIELDS}),nextPageToken"

    managed_instances: tuple[ManagedInstance, ...] = ()

    def entries(self) -> Iterable[ManagedInstance]:
        """The members on it whose links name a VM."""
        return (member for member in self.managed_instances if member.is_named)

    def reasons(self) -> Iterable[str]:
        """Which members cannot be identified from their links."""
        odd = (member for member in self.managed_instances if not member.is_named)
        return (f"not a link to a VM: {member.instance[:200]!r}" for member in odd)


class GroupScope(_Answer, frozen=True, gc=False):
    """One scope's part of an aggregated list of groups."""

    instance_group_managers: tuple[ComputeGroup, ...] = ()
    warning: Warning = Warning()


class InstanceScope(_Answer, frozen=True, gc=False):
    """One scope's part of an aggregated list of VMs."""

    instances: tuple[ComputeInstance, ...] = ()
    warning: Warning = Warning()


class _AggregatedPage(Page[T], Generic[T], frozen=True, gc=False):
    """What both aggregated lists have."""

    REST: ClassVar[str] = (
        "items/*/warning(code,message),nextPageToken,unreachables,warning(code,message)"
    )

    warning: Warning = Warning()
    unreachables: tuple[str, ...] = ()

    def _reasons(
        self, scopes: Mapping[str, GroupScope | InstanceScope | DiskScope]
    ) -> Iterable[str]:
        yield from self.warning.reasons("list")
        yield from (f"{scope}: unreachable" for scope in self.unreachables)
        for name, scope in scopes.items():
            yield from scope.warning.reasons(name)


class GroupPage(_AggregatedPage[ComputeGroup], frozen=True, gc=False):
    """Of instanceGroupManagers.aggregatedList."""

    FIELDS: ClassVar[str] = (
        f"items/*/instanceGroupManagers({ComputeGroup.FIELDS}),{_AggregatedPage.REST}"
    )

    items: dict[str, GroupScope] = {}

    def entries(self) -> Iterable[ComputeGroup]:
        """What is on it, over all scopes."""
        return (group for scope in self.items.values() for group in scope.instance_group_managers)

    def reasons(self) -> Iterable[str]:
        """Why it is incomplete."""
        return self._reasons(self.items)


class InstancePage(_AggregatedPage[ComputeInstance], frozen=True, gc=False):
    """Of instances.aggregatedList."""

    FIELDS: ClassVar[str] = f"items/*/instances(name,id,zone,status,labels),{_AggregatedPage.REST}"

    items: dict[str, InstanceScope] = {}

    def entries(self) -> Iterable[ComputeInstance]:
        """What is on it, over all scopes."""
        return (instance for scope in self.items.values() for instance in scope.instances)

    def reasons(self) -> Iterable[str]:
        """Why it is incomplete."""
        return self._reasons(self.items)


class WholeInstancePage(InstancePage, frozen=True, gc=False):
    """The same, with the VMs' metadata and accounts."""

    FIELDS: ClassVar[str] = f"items/*/instances({ComputeInstance.FIELDS}),{_AggregatedPage.REST}"


class DiskScope(_Answer, frozen=True, gc=False):
    """One scope's part of an aggregated list of disks."""

    disks: tuple[Disk, ...] = ()
    warning: Warning = Warning()


class DiskPage(_AggregatedPage[Disk], frozen=True, gc=False):
    """Of disks.aggregatedList."""

    FIELDS: ClassVar[str] = f"items/*/disks({Disk.FIELDS}),{_AggregatedPage.REST}"

    items: dict[str, DiskScope] = {}

    def entries(self) -> Iterable[Disk]:
        """What is on it, over all scopes."""
        return (disk for scope in self.items.values() for disk in scope.disks)

    def reasons(self) -> Iterable[str]:
        """Why it is incomplete."""
        return self._reasons(self.items)


MAX_PAGES = 10_000
"""Pages of a list that is followed to its end."""


async def gather_pages(
    fetch: Callable[[str], Awaitable[Page[T]]], most: int = MAX_PAGES
) -> Listing[T]:
    """Follows a list to its end.

    Args:
        fetch: gets the page that a token names; "" names the first.
        most: pages to get at most; a list that has more is partial.

    Raises:
        RemoteError: the first page could not be had. A page lost later makes the listing partial.
    """
    items: list[T] = []
    reasons: list[str] = []
    seen = {""}
    token = ""
    while True:
        try:
            page = await fetch(token)
        except RemoteError as error:
            if not token:
                raise
            reasons.append(f"page {len(seen)} is lost: {error}")
            break
        items.extend(page.entries())
        reasons.extend(page.reasons())
        token = page.next_page_token
        if not token:
            break
        if token in seen or len(seen) >= most:
            reasons.append(
                f"the list goes on behind page {len(seen)}, or a page token was repeated"
            )
            break
        seen.add(token)
    if reasons:
        return PartialListing(tuple(items), tuple(reasons))
    return CompleteListing(tuple(items))
