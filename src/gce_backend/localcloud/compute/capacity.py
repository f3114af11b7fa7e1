"""What VMs use of quotas and zones, and why another one cannot be created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.compute import links
from gce_backend.localcloud.compute.rows import HALTED, Failure, VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.usage import (
    Demand,
    QuotaUsage,
    Shortage,
    resting_demand,
    vm_demand,
)
from gce_backend.localcloud.compute.vm_properties import Blueprints

STOCKOUT = "ZONE_RESOURCE_POOL_EXHAUSTED"


class Capacity:
    """Counts what all VMs use, and says why a VM cannot be created or started."""

    def __init__(
        self, cloud: Cloud, store: ComputeStore, blueprints: Blueprints, usage: QuotaUsage
    ) -> None:
        self._cloud = cloud
        self._store = store
        self._blueprints = blueprints
        self._usage = usage
        self._demands: dict[str, Demand] = {}

    def take(self, vm: VmRow) -> None:
        """Counts what a VM uses in its status; without a status, nothing."""
        if vm.status:
            self._usage.add(vm.project, vm.zone, self._used(vm))

    def give_back(self, vm: VmRow) -> None:
        """Takes back what `take` counted for the same row."""
        if vm.status:
            self._usage.remove(vm.project, vm.zone, self._used(vm))

    def obstacle(self, vm: VmRow) -> Failure | None:
        """Why the VM cannot be created or started now; None when nothing prevents it."""
        now = self._cloud.clock.now()
        shortage = self._usage.shortage(vm.project, vm.zone, self._missing(vm))
        if shortage is not None:
            return _quota_exceeded(shortage, now)
        machine_type = self._blueprints.properties(vm)["machineType"]
        name = links.parse(machine_type, "machineTypes", "machineType").name
        fault = self._cloud.faults.stockout(vm.zone, name)
        if fault is None:
            return None
        code = STOCKOUT if fault.reason == "backendError" else fault.reason
        message = fault.message
        if code.startswith(STOCKOUT):
            zone = links.zone_link(vm.project, vm.zone)[len(links.ROOT) :]
            message = (
                f"The zone '{zone}' does not have enough resources available to fulfill the "
                f"request. {message}"
            )
        return Failure(code, message, at=now)

    def _used(self, vm: VmRow) -> Demand:
        demand = self._demand(vm)
        return resting_demand(demand) if vm.status in HALTED else demand

    def _missing(self, vm: VmRow) -> Demand:
        """What a VM needs in addition to what it uses already."""
        demand = self._demand(vm)
        used: Mapping[str, int] = self._used(vm) if vm.status else {}
        more = {metric: amount - used.get(metric, 0) for metric, amount in demand.items()}
        return {metric: amount for metric, amount in more.items() if amount}

    def _demand(self, vm: VmRow) -> Demand:
        if vm.properties is not None:
            return vm_demand(vm.properties)
        template = self._store.templates.get(self._blueprints.template(vm))
        assert template is not None, "a template outlives its groups"  # noqa: S101 (checked on delete)
        if template.id not in self._demands:
            self._demands[template.id] = vm_demand(template.properties)
        return self._demands[template.id]


def _quota_exceeded(shortage: Shortage, now: UnixSeconds) -> Failure:
    metric, limit, region = shortage
    message = f"Quota '{metric}' exceeded.  Limit: {limit} in region {region}."
    info: dict[str, Any] = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": f"{metric.replace('_', '-')}-per-project-region",
        "dimensions": {"region": region},
        "limit": limit,
    }
    return Failure("QUOTA_EXCEEDED", message, 403, now, [{"quotaInfo": info}])
