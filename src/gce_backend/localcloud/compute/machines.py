"""What happens to managed instances by itself: creation, boot, stockouts, repair, deletion."""

from __future__ import annotations

import random
import string
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.compute import links
from gce_backend.localcloud.compute.rows import DiskRow, Failure, GroupRow, VmRow
from gce_backend.localcloud.compute.store import Store
from gce_backend.localcloud.compute.timetable import Timetable

RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 60.0

_SUFFIX = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH = 4
_DEFAULT_DISK_GB = "10"

changed = msgspec.structs.replace


class Machines:
    """The life of the VMs of all groups. `at` and `due` are times in Unix seconds."""

    def __init__(self, cloud: Cloud, store: Store, timetable: Timetable) -> None:
        self._cloud = cloud
        self._store = store
        self._timetable = timetable

    def resume(self) -> None:
        """Puts what is going on into the timetable; after a start."""
        for vm in self._store.vms():
            if vm.due is not None:
                self._timetable.put(vm.due, self._step, vm.key)

    def create(self, group: GroupRow, count: int, at: float) -> None:
        """Adds managed instances to a group; their VMs come to be by and by."""
        for _ in range(count):
            vm = VmRow(
                project=group.project, zone=group.zone, name=self._new_name(group), group=group.key
            )
            self._put(vm, at + self._cloud.options.boot_seconds / 2)

    def delete(self, vm: VmRow, at: float) -> None:
        """Lets the group delete a member; it is gone after the cloud's `delete_seconds`."""
        status = "STOPPING" if vm.status else ""
        deleting = changed(vm, action="DELETING", status=status)
        self._put(deleting, at + self._cloud.options.delete_seconds)

    def shrink(self, group: GroupRow, count: int, at: float) -> None:
        """Deletes that many members of a group, whichever."""
        kept = [vm for vm in self._store.members_of(group) if vm.action != "DELETING"]
        # Arbitrary, as at Google, but the same again when a run is repeated.
        choice = random.Random(f"{group.key}/{self._store.serial()}")  # noqa: S311 (no secret)
        for vm in choice.sample(kept, count):
            self.delete(vm, at)

    def stop(self, vm: VmRow) -> None:
        """Somebody outside the group has begun to delete the VM."""
        self._store.put_vm(changed(vm, status="STOPPING", due=None))

    def lose(self, vm: VmRow, at: float) -> None:
        """The VM was deleted by somebody outside the group, which repairs it or does nothing."""
        self._release_disk(vm)
        group = self._group(vm)
        if vm.action == "DELETING":
            self._store.drop_vm(vm)
        elif group.repairs:
            again = changed(vm, action="RECREATING", status="", id="", metadata=None)
            self._put(again, at + self._cloud.options.boot_seconds / 2)
        else:
            self._store.put_vm(changed(vm, action="NONE", status="", due=None))

    def remove(self, vm: VmRow) -> None:
        """The member is gone for good, and its VM with it."""
        if vm.status:
            self._release_disk(vm)
        self._store.drop_vm(vm)

    def _put(self, vm: VmRow, due: float) -> None:
        self._store.put_vm(changed(vm, due=due))
        self._timetable.put(due, self._step, vm.key)

    def _step(self, key: str, due: float) -> None:
        vm = self._store.vm(key)
        if vm is None or vm.due != due:
            return  # something else has happened to it since this was put into the timetable
        if vm.action == "DELETING":
            self.remove(vm)
        elif not vm.status:
            self._try_to_create(vm, due)
        elif vm.status == "PROVISIONING":
            booted = due + self._cloud.options.boot_seconds / 4
            self._put(changed(vm, status="STAGING"), booted)
        else:
            self._store.put_vm(changed(vm, action="NONE", status="RUNNING", due=None))

    def _try_to_create(self, vm: VmRow, due: float) -> None:
        properties = self.properties(vm)
        machine_type = links.parse(properties["machineType"], "machineTypes", "machineType").name
        fault = self._cloud.faults.stockout(vm.zone, machine_type)
        if fault is not None:
            now = self._cloud.clock.now()
            message = (
                f"The zone '{links.zone_link(vm.project, vm.zone)[len(links.ROOT) :]}' does not "
                f"have enough resources available to fulfill the request. {fault.message}"
            )
            failure = Failure("ZONE_RESOURCE_POOL_EXHAUSTED", message, at=now)
            delay = min(RETRY_SECONDS * 1.5**vm.attempts, LONGEST_RETRY_SECONDS)
            self._put(changed(vm, attempts=vm.attempts + 1, failure=failure), now + delay)
            return
        serial = self._store.serial()
        self._store.drop_disk(vm.key)
        created = changed(
            vm,
            status="PROVISIONING",
            serial=serial,
            id=self._store.numeric_id(serial),
            created=due,
            attempts=0,
        )
        self._put(created, due + self._cloud.options.boot_seconds / 4)

    def _release_disk(self, vm: VmRow) -> None:
        boot = self.properties(vm)["disks"][0]
        if not boot.get("autoDelete", False):
            disk = DiskRow(
                project=vm.project, zone=vm.zone, name=vm.name, size_gb=disk_size_gb(boot)
            )
            self._store.put_disk(disk)

    def _group(self, vm: VmRow) -> GroupRow:
        group = self._store.group(vm.group)
        assert group is not None, "a group outlives its members"  # noqa: S101 (kept by drop_group)
        return group

    def properties(self, vm: VmRow) -> dict[str, Any]:
        """The properties of the template that the VM is made from."""
        template = self._store.template(self._group(vm).template)
        assert template is not None, "a template outlives its groups"  # noqa: S101 (checked on delete)
        return template.properties

    def _new_name(self, group: GroupRow) -> str:
        scope = f"{group.project}/{group.zone}"
        while True:
            choice = random.Random(f"{group.id}/{self._store.serial()}")  # noqa: S311 (no secret)
            name = f"{group.base_name}-{''.join(choice.choices(_SUFFIX, k=_SUFFIX_LENGTH))}"
            if self._store.vm(f"{scope}/{name}") is None:
                return name


def disk_size_gb(disk: dict[str, Any]) -> str:
    """The size of a template's disk in GB, as an int64 in JSON."""
    asked = disk.get("initializeParams", {}).get("diskSizeGb") or disk.get("diskSizeGb")
    return str(asked or _DEFAULT_DISK_GB)
