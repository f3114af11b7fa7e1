"""The durable rows of the embedded Compute Engine, and the indexes that keep requests cheap."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator

import msgspec

from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.rows import (
    DiskRow,
    GroupRow,
    OperationRow,
    RequestRow,
    TemplateRow,
    VmRow,
)
from gce_backend.localcloud.tables import Tables

OPERATION_LIFE = 14 * 24 * 3600.0
"""Seconds for which an operation can be looked at."""

REQUEST_LIFE = 3600.0
"""Seconds for which a requestId is remembered."""

_FIRST_ID = 10**18
_ODD = 0x9E3779B97F4A7C15


class _Serial(msgspec.Struct, frozen=True):
    last: int


class Store:
    """All rows of all projects. Rows are frozen: a changed one is put in again.

    Attributes:
        group_names: by project and zone (`p/z`).
        template_names: by project.
        vm_names: names of VMs that exist, by project and zone.
        members: names of managed instances, by group key.
        actions: how many members have each `currentAction`, by group key.
        statuses: how many members have each status, by group key.
        users: keys of the groups that use a template, by template key.
        operation_names: by scope (`p/z` or `p/global`).
    """

    def __init__(self, tables: Tables) -> None:
        self._serials = tables.table("compute.serial", _Serial)
        self._templates = tables.table("compute.templates", TemplateRow)
        self._groups = tables.table("compute.groups", GroupRow)
        self._vms = tables.table("compute.vms", VmRow)
        self._disks = tables.table("compute.disks", DiskRow)
        self._operations = tables.table("compute.operations", OperationRow)
        self._requests = tables.table("compute.requests", RequestRow)
        self.group_names: defaultdict[str, Names] = defaultdict(Names)
        self.template_names: defaultdict[str, Names] = defaultdict(Names)
        self.vm_names: defaultdict[str, Names] = defaultdict(Names)
        self.members: defaultdict[str, Names] = defaultdict(Names)
        self.actions: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.users: defaultdict[str, set[str]] = defaultdict(set)
        self.operation_names: defaultdict[str, Names] = defaultdict(Names)
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
        for key, request in self._requests.items():
            self._old_requests.append((request.at, key))

    def serial(self) -> int:
        """A number that was never given before, counting from 1."""
        serial = self._serials["all"].last + 1 if "all" in self._serials else 1
        self._serials["all"] = _Serial(serial)
        return serial

    @staticmethod
    def numeric_id(serial: int) -> str:
        """The numeric id that belongs to a serial number: unique, and without visible order."""
        return str(_FIRST_ID + serial * _ODD % 2**62)

    # Templates

    def template(self, key: str) -> TemplateRow | None:
        """The template with this key."""
        return self._templates.get(key)

    def put_template(self, row: TemplateRow) -> None:
        """Keeps a new or changed template."""
        self._templates[row.key] = row
        self.template_names[row.project].add(row.name)

    def drop_template(self, row: TemplateRow) -> None:
        """Forgets a template."""
        del self._templates[row.key]
        self.template_names[row.project].discard(row.name)

    # Groups

    def group(self, key: str) -> GroupRow | None:
        """The group with this key."""
        return self._groups.get(key)

    def groups(self) -> Iterator[GroupRow]:
        """All groups of all projects."""
        return iter(self._groups.values())

    def put_group(self, row: GroupRow) -> None:
        """Keeps a new or changed group."""
        self._groups[row.key] = row
        self._index_group(row)

    def _index_group(self, row: GroupRow) -> None:
        self.group_names[f"{row.project}/{row.zone}"].add(row.name)
        self.users[row.template].add(row.key)

    def drop_group(self, row: GroupRow) -> None:
        """Forgets a group, which must have no members."""
        del self._groups[row.key]
        self.group_names[f"{row.project}/{row.zone}"].discard(row.name)
        self.users[row.template].discard(row.key)
        for index in (self.members, self.actions, self.statuses):
            index.pop(row.key, None)

    # Managed instances and their VMs

    def vm(self, key: str) -> VmRow | None:
        """The managed instance with this key."""
        return self._vms.get(key)

    def vms(self) -> Iterator[VmRow]:
        """All managed instances of all projects."""
        return iter(self._vms.values())

    def members_of(self, group: GroupRow) -> Iterator[VmRow]:
        """The managed instances of a group, in order of name."""
        scope = f"{group.project}/{group.zone}"
        for name in self.members[group.key]:
            yield self._vms[f"{scope}/{name}"]

    def put_vm(self, row: VmRow) -> None:
        """Keeps a new or changed managed instance."""
        self._count(self._vms.get(row.key), -1)
        self._vms[row.key] = row
        self._index_vm(row)

    def _index_vm(self, row: VmRow) -> None:
        self.members[row.group].add(row.name)
        self._count(row, 1)
        names = self.vm_names[f"{row.project}/{row.zone}"]
        if row.status:
            names.add(row.name)
        else:
            names.discard(row.name)

    def _count(self, row: VmRow | None, change: int) -> None:
        if row is not None:
            self.actions[row.group][row.action] += change
            self.statuses[row.group][row.status] += change

    def drop_vm(self, row: VmRow) -> None:
        """Forgets a managed instance."""
        self._count(self._vms.get(row.key), -1)
        del self._vms[row.key]
        self.members[row.group].discard(row.name)
        self.vm_names[f"{row.project}/{row.zone}"].discard(row.name)

    # Disks that outlived their VMs

    def disks(self) -> Iterator[DiskRow]:
        """All of them."""
        return iter(self._disks.values())

    def put_disk(self, row: DiskRow) -> None:
        """Keeps a disk."""
        self._disks[f"{row.project}/{row.zone}/{row.name}"] = row

    def drop_disk(self, key: str) -> None:
        """Forgets a disk, if it is there."""
        self._disks.pop(key, None)

    # Operations and requests

    def operation(self, key: str) -> OperationRow | None:
        """The operation with this key."""
        return self._operations.get(key)

    def operations(self) -> Iterator[OperationRow]:
        """All operations of all projects."""
        return iter(self._operations.values())

    def put_operation(self, row: OperationRow) -> None:
        """Keeps a new or changed operation."""
        is_new = row.key not in self._operations
        self._operations[row.key] = row
        if is_new:
            self._index_operation(row)

    def _index_operation(self, row: OperationRow) -> None:
        self.operation_names[row.scope].add(row.name)
        self._old_operations.append((row.inserted, row.key))

    def request(self, key: str) -> RequestRow | None:
        """The use of a requestId (`project/id`)."""
        return self._requests.get(key)

    def put_request(self, key: str, row: RequestRow) -> None:
        """Remembers the use of a requestId."""
        self._requests[key] = row
        self._old_requests.append((row.at, key))

    def forget_old(self, now: float) -> None:
        """Drops operations and requestIds whose time is over (Unix seconds)."""
        while self._old_operations and self._old_operations[0][0] + OPERATION_LIFE <= now:
            row = self._operations.pop(self._old_operations.popleft()[1])
            self.operation_names[row.scope].discard(row.name)
        while self._old_requests and self._old_requests[0][0] + REQUEST_LIFE <= now:
            self._requests.pop(self._old_requests.popleft()[1], None)
