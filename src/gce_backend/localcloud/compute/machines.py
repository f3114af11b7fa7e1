"""The life of VMs: creation, boot, stockouts, stops, repair, deletion."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable

import msgspec

from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.compute.capacity import Capacity
from gce_backend.localcloud.compute.rows import (
    HALTED,
    DiskRow,
    ErrorRow,
    Failure,
    GroupRow,
    VmRow,
)
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.timetable import Timetable
from gce_backend.localcloud.compute.usage import QuotaUsage, disk_demand
from gce_backend.localcloud.compute.vm_disks import disks_of
from gce_backend.localcloud.compute.vm_properties import Blueprints

RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 60.0
PREEMPTION_SECONDS = 30.0
"""Seconds that a preempted VM has to shut down."""

_SUFFIX = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH = 4

changed = msgspec.structs.replace


class Machines:
    """The life of all VMs. `at` and `due` are times in Unix seconds."""

    def __init__(
        self,
        cloud: Cloud,
        store: ComputeStore,
        timetable: Timetable,
        blueprints: Blueprints,
        usage: QuotaUsage,
    ) -> None:
        self._cloud = cloud
        self._store = store
        self._timetable = timetable
        self._blueprints = blueprints
        self._usage = usage
        self._capacity = Capacity(cloud, store, blueprints, usage)

    def resume(self) -> None:
        """Counts what exists, and schedules the next steps, after a start of the cloud."""
        for vm in self._store.vms.values():
            self._capacity.take(vm)
            if vm.due is not None:
                self._timetable.put(vm.due, self._step, vm.key)
        for disk in self._store.disks.values():
            self._usage.add(disk.project, disk.zone, disk_demand(disk))

    # Managed instances

    def create(self, group: GroupRow, count: int, at: float) -> None:
        """Adds managed instances to a group; their VMs are created one by one."""
        for _ in range(count):
            self.create_named(group, self._new_name(group), None, at)

    def create_named(
        self, group: GroupRow, name: str, preserved: dict[str, str] | None, at: float
    ) -> None:
        """Adds a managed instance of this name, with the metadata that it preserves."""
        vm = VmRow(
            project=group.project,
            zone=group.zone,
            name=name,
            group=group.key,
            preserved=preserved,
        )
        self._put(vm, at + self._cloud.options.boot_seconds / 2)

    def delete(self, vm: VmRow, at: float) -> None:
        """Deletes a member of a group; it is gone after the cloud's `delete_seconds`."""
        status = "STOPPING" if vm.status else ""
        deleting = changed(vm, action="DELETING", status=status)
        self._put(deleting, at + self._cloud.options.delete_seconds)

    def recreate(self, vm: VmRow, at: float) -> None:
        """Deletes a member's VM, and creates it again under its name."""
        if vm.status:
            stopping = changed(vm, action="RECREATING", status="STOPPING")
            self._put(stopping, at + self._cloud.options.delete_seconds)
        else:
            self._make_again(vm, at)

    def abandon(self, vm: VmRow, at: float) -> None:
        """Removes a member from its group after the cloud's `operation_seconds`; its VM stays."""
        self._put(changed(vm, action="ABANDONING"), at + self._cloud.options.operation_seconds)

    def shrink(self, group: GroupRow, count: int, at: float) -> None:
        """Deletes that many arbitrary members of a group."""
        kept = [vm for vm in self._store.members_of(group) if not vm.is_leaving]
        # Arbitrary, as at Google, but the same in every run.
        choice = random.Random(f"{group.key}/{self._store.serial()}")  # noqa: S311 (no secret)
        for vm in choice.sample(kept, count):
            self.delete(vm, at)

    def outdate(self, vms: Iterable[VmRow]) -> None:
        """The group of these members gets another template: VMs that exist stay as they are."""
        for vm in list(vms):
            if vm.status and not vm.template:
                template, made_from = self._blueprints.template(vm), self._blueprints.properties(vm)
                self.keep(changed(vm, template=template, properties=made_from))

    # VMs

    def obstacle(self, vm: VmRow) -> Failure | None:
        """Why the VM cannot be made, or start, now; None when nothing prevents it."""
        return self._capacity.obstacle(vm)

    def insert(self, vm: VmRow, at: float) -> None:
        """Creates a VM that belongs to no group, without delay or fault."""
        self._come_to_be(changed(vm, action="NONE"), at)

    def start(self, vm: VmRow, at: float) -> None:
        """Starts a stopped or suspended VM, for which there is room."""
        booting = changed(vm, status="PROVISIONING", started=at, preempted=False)
        self._put(booting, at + self._cloud.options.boot_seconds / 4)

    def stop(self, vm: VmRow, at: float, *, rests: bool = True) -> None:
        """Stops a VM; after the cloud's `delete_seconds` it rests or is gone."""
        stopping = changed(vm, status="STOPPING", ends="TERMINATED" if rests else "GONE")
        self._put(stopping, at + self._cloud.options.delete_seconds)

    def preempt(self, vm: VmRow, at: float, *, rests: bool) -> None:
        """Preempts a VM: it has 30 s to shut down, and then rests or is gone."""
        lead = PREEMPTION_SECONDS - self._cloud.options.delete_seconds
        self.stop(changed(vm, preempted=True), at + lead, rests=rests)

    def suspend(self, vm: VmRow, at: float) -> None:
        """Suspends a VM, after the cloud's `delete_seconds`."""
        self._put(changed(vm, status="SUSPENDING"), at + self._cloud.options.delete_seconds)

    def crash(self, vm: VmRow, at: float) -> None:
        """Lets a VM's host fail: the VM boots again if it restarts automatically, or stops."""
        self._put(changed(vm, status="REPAIRING"), at + self._cloud.options.boot_seconds / 2)

    def doom(self, vm: VmRow) -> None:
        """Marks a VM that somebody outside its group deletes; `lose` ends the deletion."""
        self.keep(changed(vm, status="STOPPING", ends="", due=None))

    def lose(self, vm: VmRow, at: float) -> None:
        """Removes a VM that was deleted without its group, which repairs it or does nothing."""
        self._leave_disks(vm)
        if not vm.group or vm.is_leaving:
            self._drop(vm)
        elif vm.action == "RECREATING" or self._blueprints.group(vm).repairs:
            self._make_again(vm, at)
        else:
            self.keep(changed(vm, action="NONE", status="", ends="", due=None))

    def remove(self, vm: VmRow) -> None:
        """Removes a member and its VM for good."""
        if vm.status:
            self._leave_disks(vm)
        self._drop(vm)

    def drop_disk(self, disk: DiskRow) -> None:
        """Deletes a disk that outlived its VM."""
        self._usage.remove(disk.project, disk.zone, disk_demand(disk))
        self._store.drop_disk(disk)

    # Steps

    def keep(self, vm: VmRow) -> None:
        """Stores a changed VM, and counts what it uses now."""
        before = self._store.vms.get(vm.key)
        uses_the_same = before is not None and _level(before) == _level(vm)
        if before is not None and not uses_the_same:
            self._capacity.give_back(before)
        self._store.put_vm(vm)
        if not uses_the_same:
            self._capacity.take(vm)

    def _drop(self, vm: VmRow) -> None:
        before = self._store.vms.get(vm.key)
        if before is not None:
            self._capacity.give_back(before)
        self._store.drop_vm(vm)

    def _put(self, vm: VmRow, due: float) -> None:
        self.keep(changed(vm, due=due))
        self._timetable.put(due, self._step, vm.key)

    def _step(self, key: str, due: float) -> None:
        vm = self._store.vms.get(key)
        if vm is None or vm.due != due:
            return  # something else has happened to it since this was scheduled
        if vm.action == "DELETING":
            self.remove(vm)
        elif vm.action == "ABANDONING":
            self._let_go(vm, due)
        elif vm.action == "RECREATING" and vm.status == "STOPPING":
            self._leave_disks(vm)
            self._make_again(vm, due)
        elif not vm.status:
            self._try_to_create(vm, due)
        elif vm.status == "STOPPING" and vm.ends == "GONE":
            self.lose(vm, due)
        elif vm.status in {"STOPPING", "SUSPENDING"}:
            self._rest(vm, due)
        elif vm.status == "REPAIRING" and not self._restarts(vm):
            self.stop(vm, due)
        elif vm.status in {"PROVISIONING", "REPAIRING"}:
            booted = due + self._cloud.options.boot_seconds / 4
            self._put(changed(vm, status="STAGING"), booted)
        else:
            self.keep(changed(vm, action="NONE", status="RUNNING", due=None))

    def _rest(self, vm: VmRow, at: float) -> None:
        """The VM has stopped or is suspended; a group that repairs its members makes it again."""
        if vm.group and self._blueprints.group(vm).repairs:
            self._leave_disks(vm)
            self._make_again(vm, at)
            return
        rests = changed(vm, action="NONE", ends="", due=None)
        if vm.status == "SUSPENDING":
            self.keep(changed(rests, status="SUSPENDED", suspended=at))
        else:
            self.keep(changed(rests, status="TERMINATED", stopped=at))

    def _restarts(self, vm: VmRow) -> bool:
        """Whether the VM restarts automatically after a failure of its host."""
        scheduling = self._blueprints.properties(vm).get("scheduling", {})
        is_spot = scheduling.get("preemptible") or scheduling.get("provisioningModel") == "SPOT"
        return bool(scheduling.get("automaticRestart", not is_spot))

    def _make_again(self, vm: VmRow, at: float) -> None:
        again = VmRow(
            project=vm.project,
            zone=vm.zone,
            name=vm.name,
            group=vm.group,
            serial=vm.serial,
            action="RECREATING",
            created=vm.created,
            attempts=vm.attempts,
            failure=vm.failure,
            preserved=vm.preserved,
        )
        self._put(again, at + self._cloud.options.boot_seconds / 2)

    def _let_go(self, vm: VmRow, at: float) -> None:
        if not vm.status:
            self._drop(vm)
            return
        free = changed(
            vm,
            group="",
            action="NONE",
            due=None,
            properties=self._blueprints.own(vm),
            metadata=self._blueprints.metadata(vm),
            template="",
            preserved=None,
        )
        if vm.status in {"PROVISIONING", "STAGING"}:
            self.keep(changed(free, status="RUNNING"))  # it has booted
        elif vm.status in {"SUSPENDING", "REPAIRING"} or vm.ends:
            self._put(free, at + self._cloud.options.delete_seconds)
        else:
            self.keep(free)

    def _try_to_create(self, vm: VmRow, due: float) -> None:
        failure = self._capacity.obstacle(vm)
        if failure is not None:
            self._note_failure(vm, failure)
            delay = min(RETRY_SECONDS * 1.5**vm.attempts, LONGEST_RETRY_SECONDS)
            again = changed(vm, attempts=vm.attempts + 1, failure=failure)
            self._put(again, failure.at + delay)
            return
        self._come_to_be(vm, due)

    def _come_to_be(self, vm: VmRow, at: float) -> None:
        serial = self._store.serial()
        self._replace_left_disks(vm)
        created = changed(
            vm,
            status="PROVISIONING",
            serial=serial,
            id=self._store.numeric_id(serial),
            created=at,
            attempts=0,
            preempted=False,
        )
        self._put(created, at + self._cloud.options.boot_seconds / 4)

    def _replace_left_disks(self, vm: VmRow) -> None:
        """Gives a VM that is created again new disks in place of those that were left."""
        if len(self._store.disk_names[vm.scope]):
            for disk, _ in disks_of(vm, self._blueprints.properties(vm)):
                left = self._store.disks.get(disk.key)
                if left is not None:
                    self.drop_disk(left)

    def _note_failure(self, vm: VmRow, failure: Failure) -> None:
        error = ErrorRow(
            group=vm.group,
            serial=self._store.serial(),
            instance=vm.path,
            action=vm.action,
            template=self._blueprints.template(vm),
            failure=failure,
        )
        self._store.put_error(error)

    def _leave_disks(self, vm: VmRow) -> None:
        """Keeps the disks of a VM that is gone, unless they are deleted with it."""
        for disk, properties in disks_of(vm, self._blueprints.properties(vm)):
            if not properties.get("autoDelete", False):
                self._store.put_disk(disk)
                self._usage.add(disk.project, disk.zone, disk_demand(disk))

    def _new_name(self, group: GroupRow) -> str:
        scope = group.scope
        while True:
            choice = random.Random(f"{group.id}/{self._store.serial()}")  # noqa: S311 (no secret)
            name = f"{group.base_name}-{''.join(choice.choices(_SUFFIX, k=_SUFFIX_LENGTH))}"
            if self._store.vms.get(f"{scope}/{name}") is None:
                return name


def _level(vm: VmRow) -> tuple[bool, bool]:
    """Two statuses of the same level use the same of all quotas."""
    return bool(vm.status), vm.status in HALTED
