"""What happens to managed instances by itself: creation, boot, stockouts, repair, deletion."""

from __future__ import annotations

import random
import string
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.compute import links
from gce_backend.localcloud.compute.rows import DiskRow, ErrorRow, Failure, GroupRow, Status, VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.timetable import Timetable
from gce_backend.localcloud.compute.usage import (
    Demand,
    QuotaUsage,
    Shortage,
    disk_demand,
    vm_demand,
)
from gce_backend.localcloud.compute.vm_disks import disks_of
from gce_backend.localcloud.compute.vm_properties import Blueprints

RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 60.0
PREEMPTION_SECONDS = 30.0
"""What a preempted VM has to shut down."""

_SUFFIX = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH = 4
_STOCKOUT = "ZONE_RESOURCE_POOL_EXHAUSTED"

_AT_REST: dict[Status, Status] = {"STOPPING": "TERMINATED", "SUSPENDING": "SUSPENDED"}
"""Where these end."""
_BOOTING = frozenset({"PROVISIONING", "STAGING"})

changed = msgspec.structs.replace


class Machines:
    """The life of the VMs of all groups. `at` and `due` are times in Unix seconds."""

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
        self._demands: dict[str, Demand] = {}

    def resume(self) -> None:
        """Counts what there is, and puts what is going on into the timetable; after a start."""
        for vm in self._store.vms():
            if vm.status:
                self._usage.add(vm.project, vm.zone, self._demand(vm))
            if vm.due is not None:
                self._timetable.put(vm.due, self._step, vm.key)
        for disk in self._store.disks():
            self._usage.add(disk.project, disk.zone, disk_demand(disk))

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

    def recreate(self, vm: VmRow, at: float) -> None:
        """Lets the group delete a member's VM and make it again under its name."""
        if vm.status:
            stopping = changed(vm, action="RECREATING", status="STOPPING")
            self._put(stopping, at + self._cloud.options.delete_seconds)
        else:
            self._make_again(vm, at)

    def abandon(self, vm: VmRow, at: float) -> None:
        """Lets a member leave its group, after the cloud's `operation_seconds`; its VM stays."""
        self._put(changed(vm, action="ABANDONING"), at + self._cloud.options.operation_seconds)

    def shrink(self, group: GroupRow, count: int, at: float) -> None:
        """Deletes that many members of a group, whichever."""
        kept = [vm for vm in self._store.members_of(group) if not vm.is_leaving]
        # Arbitrary, as at Google, but the same again when a run is repeated.
        choice = random.Random(f"{group.key}/{self._store.serial()}")  # noqa: S311 (no secret)
        for vm in choice.sample(kept, count):
            self.delete(vm, at)

    def doom(self, vm: VmRow) -> None:
        """Somebody outside the group has begun to delete the VM."""
        self._store.put_vm(changed(vm, status="STOPPING", due=None))

    def stop(self, vm: VmRow, seconds: float, at: float) -> None:
        """The VM stops, and is TERMINATED after these seconds; its group, if it repairs, heals it.

        Quotas go on counting it.
        """
        self._put(changed(vm, status="STOPPING"), at + seconds)

    def suspend(self, vm: VmRow, at: float) -> None:
        """The VM is suspended, after the cloud's `operation_seconds`."""
        self._put(changed(vm, status="SUSPENDING"), at + self._cloud.options.operation_seconds)

    def start(self, vm: VmRow, at: float) -> None:
        """A VM that stands still boots again: a stopped one, or a suspended one that resumes."""
        self._put(changed(vm, status="PROVISIONING"), at + self._cloud.options.boot_seconds / 4)

    def break_host(self, vm: VmRow, at: float) -> None:
        """The VM's host fails: it boots again on another one, unless its template says no."""
        restarts = (
            self._blueprints.properties(vm).get("scheduling", {}).get("automaticRestart", True)
        )
        if restarts:
            self.start(vm, at)
        else:
            self.stop(vm, 0.0, at)

    def preempt(self, vm: VmRow, at: float) -> None:
        """Compute takes a VM back: it stops within 30 s, and is deleted if its template says so."""
        action = self._blueprints.properties(vm).get("scheduling", {})
        if action.get("instanceTerminationAction") == "DELETE":
            self.lose(vm, at)
        else:
            self.stop(vm, PREEMPTION_SECONDS, at)

    def lose(self, vm: VmRow, at: float) -> None:
        """The VM was deleted by somebody outside the group, which repairs it or does nothing."""
        self._release(vm)
        if not vm.group or vm.is_leaving:
            self._store.drop_vm(vm)
        elif vm.action == "RECREATING" or self._blueprints.group(vm).repairs:
            self._make_again(vm, at)
        else:
            self._store.put_vm(changed(vm, action="NONE", status="", due=None))

    def remove(self, vm: VmRow) -> None:
        """The member is gone for good, and its VM with it."""
        if vm.status:
            self._release(vm)
        self._store.drop_vm(vm)

    def drop_disk(self, disk: DiskRow) -> None:
        """A disk that outlived its VM is deleted."""
        self._usage.remove(disk.project, disk.zone, disk_demand(disk))
        self._store.drop_disk(disk)

    def _put(self, vm: VmRow, due: float) -> None:
        self._store.put_vm(changed(vm, due=due))
        self._timetable.put(due, self._step, vm.key)

    def _step(self, key: str, due: float) -> None:
        vm = self._store.vm(key)
        if vm is None or vm.due != due:
            return  # something else has happened to it since this was put into the timetable
        if vm.action == "DELETING":
            self.remove(vm)
        elif vm.action == "ABANDONING":
            self._let_go(vm)
        elif vm.action == "RECREATING" and vm.status == "STOPPING":
            self._release(vm)
            self._make_again(vm, due)
        elif not vm.status:
            self._try_to_create(vm, due)
        elif vm.status in _AT_REST:
            self._come_to_rest(vm, due)
        elif vm.status == "PROVISIONING":
            booted = due + self._cloud.options.boot_seconds / 4
            self._put(changed(vm, status="STAGING"), booted)
        else:
            self._store.put_vm(changed(vm, action="NONE", status="RUNNING", due=None))

    def _come_to_rest(self, vm: VmRow, due: float) -> None:
        stopped = changed(vm, action="NONE", status=_AT_REST[vm.status], due=None)
        self._store.put_vm(stopped)
        if stopped.status == "TERMINATED" and vm.group and self._blueprints.group(vm).repairs:
            self.recreate(stopped, due)

    def _make_again(self, vm: VmRow, at: float) -> None:
        again = changed(vm, action="RECREATING", status="", id="", metadata=None)
        self._put(again, at + self._cloud.options.boot_seconds / 2)

    def _let_go(self, vm: VmRow) -> None:
        if not vm.status:
            self._store.drop_vm(vm)
            return
        properties, metadata = self._blueprints.own(vm), self._blueprints.metadata(vm)
        free = changed(vm, group="", action="NONE", due=None, properties=properties)
        # A VM that was still booting has booted by now: nothing looks at it any more.
        status: Status = "RUNNING" if vm.status in _BOOTING else _AT_REST.get(vm.status, vm.status)
        self._store.put_vm(changed(free, status=status, metadata=metadata))

    def _try_to_create(self, vm: VmRow, due: float) -> None:
        demand = self._demand(vm)
        failure = self._obstacle(vm, demand)
        if failure is not None:
            self._note_failure(vm, failure)
            delay = min(RETRY_SECONDS * 1.5**vm.attempts, LONGEST_RETRY_SECONDS)
            again = changed(vm, attempts=vm.attempts + 1, failure=failure)
            self._put(again, failure.at + delay)
            return
        serial = self._store.serial()
        self._replace_left_disks(vm)
        self._usage.add(vm.project, vm.zone, demand)
        created = changed(
            vm,
            status="PROVISIONING",
            serial=serial,
            id=self._store.numeric_id(serial),
            created=due,
            attempts=0,
        )
        self._put(created, due + self._cloud.options.boot_seconds / 4)

    def _replace_left_disks(self, vm: VmRow) -> None:
        """A VM that is made again under its name has new disks, where others were left."""
        if len(self._store.disk_names[f"{vm.project}/{vm.zone}"]):
            for disk, _ in disks_of(vm, self._blueprints.properties(vm)):
                left = self._store.disk(disk.key)
                if left is not None:
                    self.drop_disk(left)

    def _obstacle(self, vm: VmRow, demand: Demand) -> Failure | None:
        """Why the VM cannot come to be now."""
        now = self._cloud.clock.now()
        shortage = self._usage.shortage(vm.project, vm.zone, demand)
        if shortage is not None:
            return _quota_exceeded(shortage, now)
        machine_type = self._blueprints.properties(vm)["machineType"]
        name = links.parse(machine_type, "machineTypes", "machineType").name
        fault = self._cloud.faults.stockout(vm.zone, name)
        if fault is None:
            return None
        code = _STOCKOUT if fault.reason == "backendError" else fault.reason
        message = fault.message
        if code.startswith(_STOCKOUT):
            zone = links.zone_link(vm.project, vm.zone)[len(links.ROOT) :]
            message = (
                f"The zone '{zone}' does not have enough resources available to fulfill the "
                f"request. {message}"
            )
        return Failure(code, message, at=now)

    def _note_failure(self, vm: VmRow, failure: Failure) -> None:
        error = ErrorRow(
            group=vm.group,
            serial=self._store.serial(),
            instance=vm.path,
            action=vm.action,
            template=self._blueprints.group(vm).template,
            failure=failure,
        )
        self._store.put_error(error)

    def _release(self, vm: VmRow) -> None:
        """The VM is no more; its disks stay unless they go with it."""
        self._usage.remove(vm.project, vm.zone, self._demand(vm))
        for disk, properties in disks_of(vm, self._blueprints.properties(vm)):
            if not properties.get("autoDelete", False):
                self._store.put_disk(disk)
                self._usage.add(disk.project, disk.zone, disk_demand(disk))

    def _demand(self, vm: VmRow) -> Demand:
        if vm.properties is not None:
            return vm_demand(vm.properties)
        template = self._store.template(self._blueprints.group(vm).template)
        assert template is not None, "a template outlives its groups"  # noqa: S101 (checked on delete)
        if template.id not in self._demands:
            self._demands[template.id] = vm_demand(template.properties)
        return self._demands[template.id]

    def _new_name(self, group: GroupRow) -> str:
        scope = f"{group.project}/{group.zone}"
        while True:
            choice = random.Random(f"{group.id}/{self._store.serial()}")  # noqa: S311 (no secret)
            name = f"{group.base_name}-{''.join(choice.choices(_SUFFIX, k=_SUFFIX_LENGTH))}"
            if self._store.vm(f"{scope}/{name}") is None:
                return name


def _quota_exceeded(shortage: Shortage, now: float) -> Failure:
    metric, limit, region = shortage
    message = f"Quota '{metric}' exceeded.  Limit: {limit} in region {region}."
    info: dict[str, Any] = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": f"{metric.replace('_', '-')}-per-project-region",
        "dimensions": {"region": region},
        "limit": limit,
    }
    return Failure("QUOTA_EXCEEDED", message, 403, now, [{"quotaInfo": info}])
