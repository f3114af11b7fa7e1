"""The durable rows of the embedded Compute Engine, and the indexes that keep requests cheap."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.rows import (
    DiskRow,
    ErrorRow,
    GroupRow,
    OperationRow,
    RequestRow,
    SnapshotRow,
    TemplateRow,
    VmRow,
)
from gce_backend.localcloud.tables import Tables

OPERATION_LIFE = 14 * 24 * 3600.0
"""Seconds for which an operation can be read."""

ERROR_LIFE = 3600.0
"""Seconds for which a group's history keeps an error."""

ERRORS_KEPT = 500
"""Most errors in a group's history; the oldest are dropped first."""

REQUEST_LIFE = 3600.0
"""Seconds for which a requestId is remembered."""

_FIRST_ID = 10**18
_ODD = 0x9E3779B97F4A7C15


class _Serial(msgspec.Struct, frozen=True):
    last: int


class ComputeStore:
    """All rows of all projects. Rows are frozen: a changed one is stored again.

    Attributes:
        templates: all templates, by key; likewise the next four.
        disks: those that outlived their VMs.
        requests: the uses of requestIds, by `project/id`.
        snapshots: the snapshots that were created, by key.
        newest_images: names of the newest images of families that got newer ones, by
            `project/family`.
        group_names: by project and zone (`p/z`).
        template_names: by project.
        vm_names: names of VMs that exist, by project and zone.
        members: names of managed instances, by group key.
        actions: how many members have each `currentAction`, by group key.
        statuses: how many members have each status, by group key.
        outdated: how many members were made from another template, by group key.
        stateful: how many members have a per-instance configuration, by group key.
        users: keys of the groups that use a template, by template key.
        operation_names: by scope (`p/z` or `p/global`).
        disk_names: names of disks that outlived their VMs, by project and zone.
        errors: places in a group's history, by group key.
    """

    def __init__(self, tables: Tables) -> None:
        self._serials = tables.table("compute.serial", _Serial)
        self._templates = tables.table("compute.templates", TemplateRow)
        self.templates: Mapping[str, TemplateRow] = self._templates
        self._groups = tables.table("compute.groups", GroupRow)
        self.groups: Mapping[str, GroupRow] = self._groups
        self._vms = tables.table("compute.vms", VmRow)
        self.vms: Mapping[str, VmRow] = self._vms
        self._disks = tables.table("compute.disks", DiskRow)
        self.disks: Mapping[str, DiskRow] = self._disks
        self.snapshots = tables.table("compute.snapshots", SnapshotRow)
        self.newest_images = tables.table("compute.newest_images", str)
        self._operations = tables.table("compute.operations", OperationRow)
        self.operations: Mapping[str, OperationRow] = self._operations
        self._errors = tables.table("compute.errors", ErrorRow)
        self._requests = tables.table("compute.requests", RequestRow)
        self.requests: Mapping[str, RequestRow] = self._requests
        self.group_names: defaultdict[str, Names] = defaultdict(Names)
        self.template_names: defaultdict[str, Names] = defaultdict(Names)
        self.vm_names: defaultdict[str, Names] = defaultdict(Names)
        self.members: defaultdict[str, Names] = defaultdict(Names)
        self.actions: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.outdated: Counter[str] = Counter()
        self.stateful: Counter[str] = Counter()
        self.users: defaultdict[str, set[str]] = defaultdict(set)
        self.operation_names: defaultdict[str, Names] = defaultdict(Names)
        self.disk_names: defaultdict[str, Names] = defaultdict(Names)
        self.errors: defaultdict[str, deque[str]] = defaultdict(deque)
        self._old_operations: deque[tuple[float, str]] = deque()
        self._old_requests: deque[tuple[float, str]] = deque()
        self._index()

    def _index(self) -> None:
        for template in self._templates.values():
            self.template_names[template.project].add(template.name)
        for group in self._groups.values():
            self._index_group(group)
        for vm in self._vms.values():
            self._index_vm(vm)
        for operation in self._operations.values():
            self._index_operation(operation)
        for disk in self._disks.values():
            self.disk_names[disk.scope].add(disk.name)
        for error in self._errors.values():
            self.errors[error.group].append(error.place)
        for key, request in self._requests.items():
            self._old_requests.append((request.at, key))

    def serial(self) -> int:
        """The next serial number, counting from 1."""
        serial = self._serials["all"].last + 1 if "all" in self._serials else 1
        self._serials["all"] = _Serial(serial)
        return serial

    @staticmethod
    def numeric_id(serial: int) -> str:
        """The numeric id for a serial number: unique, and without visible order."""
        return str(_FIRST_ID + serial * _ODD % 2**62)

    # Templates

    def put_template(self, row: TemplateRow) -> None:
        """Keeps a new or changed template."""
        self._templates[row.key] = row
        self.template_names[row.project].add(row.name)

    def drop_template(self, row: TemplateRow) -> None:
        """Forgets a template."""
        del self._templates[row.key]
        self.template_names[row.project].discard(row.name)

    # Groups

    def put_group(self, row: GroupRow) -> None:
        """Keeps a new or changed group."""
        before = self._groups.get(row.key)
        if before is not None and before.template != row.template:
            self.users[before.template].discard(row.key)
        self._groups[row.key] = row
        self._index_group(row)

    def _index_group(self, row: GroupRow) -> None:
        self.group_names[row.scope].add(row.name)
        self.users[row.template].add(row.key)

    def drop_group(self, row: GroupRow) -> None:
        """Forgets a group, which must have no members."""
        del self._groups[row.key]
        self.group_names[row.scope].discard(row.name)
        self.users[row.template].discard(row.key)
        for place in self.errors.pop(row.key, ()):
            del self._errors[f"{row.key}/{place}"]
        for index in (self.members, self.actions, self.statuses, self.outdated, self.stateful):
            index.pop(row.key, None)

    # What went wrong in groups

    def error(self, group: str, place: str) -> ErrorRow:
        """The error at a place in a group's history."""
        return self._errors[f"{group}/{place}"]

    def put_error(self, row: ErrorRow) -> None:
        """Adds an error to its group's history."""
        self._errors[row.key] = row
        self.errors[row.group].append(row.place)
        if len(self.errors[row.group]) > ERRORS_KEPT:
            del self._errors[f"{row.group}/{self.errors[row.group].popleft()}"]

    def errors_after(self, group: str, place: str, now: UnixSeconds) -> list[str]:
        """The places after this one in a group's history, without errors that are too old."""
        places = self.errors[group]
        while places and self.error(group, places[0]).failure.at + ERROR_LIFE < now:
            del self._errors[f"{group}/{places.popleft()}"]
        return [found for found in places if found > place]

    # Managed instances and their VMs

    def members_of(self, group: GroupRow) -> Iterator[VmRow]:
        """The managed instances of a group, in order of name."""
        scope = group.scope
        for name in self.members[group.key]:
            yield self._vms[f"{scope}/{name}"]

    def put_vm(self, row: VmRow) -> None:
        """Keeps a new or changed managed instance, or VM."""
        before = self._vms.get(row.key)
        if before is not None and before.group:
            self._count(before, -1)
            if before.group != row.group:
                self.members[before.group].discard(row.name)
        self._vms[row.key] = row
        self._index_vm(row)

    def _index_vm(self, row: VmRow) -> None:
        if row.group:
            self.members[row.group].add(row.name)
            self._count(row, 1)
        names = self.vm_names[row.scope]
        if row.status:
            names.add(row.name)
        else:
            names.discard(row.name)

    def _count(self, member: VmRow, change: int) -> None:
        self.actions[member.group][member.action] += change
        self.statuses[member.group][member.status] += change
        self.outdated[member.group] += change if member.template else 0
        self.stateful[member.group] += change if member.preserved else 0

    def drop_vm(self, row: VmRow) -> None:
        """Forgets a managed instance, or VM."""
        before = self._vms.pop(row.key)
        if before.group:
            self._count(before, -1)
            self.members[before.group].discard(row.name)
        self.vm_names[row.scope].discard(row.name)

    # Disks that outlived their VMs

    def put_disk(self, row: DiskRow) -> None:
        """Keeps a disk."""
        self._disks[row.key] = row
        self.disk_names[row.scope].add(row.name)

    def drop_disk(self, row: DiskRow) -> None:
        """Forgets a disk."""
        del self._disks[row.key]
        self.disk_names[row.scope].discard(row.name)

    # Operations and requests

    def put_operation(self, row: OperationRow) -> None:
        """Keeps a new or changed operation."""
        is_new = row.key not in self._operations
        self._operations[row.key] = row
        if is_new:
            self._index_operation(row)

    def _index_operation(self, row: OperationRow) -> None:
        self.operation_names[row.scope].add(row.name)
        self._old_operations.append((row.inserted, row.key))

    def put_request(self, key: str, row: RequestRow) -> None:
        """Remembers the use of a requestId."""
        self._requests[key] = row
        self._old_requests.append((row.at, key))

    def forget_old(self, now: UnixSeconds) -> None:
        """Drops operations and requestIds whose time is over (Unix seconds)."""
        while self._old_operations and self._old_operations[0][0] + OPERATION_LIFE <= now:
            row = self._operations.pop(self._old_operations.popleft()[1])
            self.operation_names[row.scope].discard(row.name)
        while self._old_requests and self._old_requests[0][0] + REQUEST_LIFE <= now:
            self._requests.pop(self._old_requests.popleft()[1], None)
