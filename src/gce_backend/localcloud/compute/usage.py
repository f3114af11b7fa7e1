"""What VMs and disks use of their region's quotas."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from gce_backend.localcloud.compute import inventory, links, vm_disks
from gce_backend.localcloud.compute.rows import DiskRow

Demand = Mapping[str, int]
"""The needed amount of each metric."""

_CPU_METRICS = {
    **dict.fromkeys(("n1", "e2", "f1", "g1", "custom"), "CPUS"),
    **{family: f"{family.upper()}_CPUS" for family in ("n2", "n2d", "c2", "c2d", "c3")},
}
"""Metrics by machine family. Google does not count newer families among a region's quotas."""

METRICS = (
    *sorted(set(_CPU_METRICS.values())),
    *("DISKS_TOTAL_GB", "INSTANCES", "IN_USE_ADDRESSES", "SSD_TOTAL_GB"),
)
"""The metrics that are counted."""

_WHILE_RESTING = ("INSTANCES", "DISKS_TOTAL_GB", "SSD_TOTAL_GB")

UNLIMITED = 1_000_000.0
"""The limit of a metric without a limit of its own."""


class Shortage(NamedTuple):
    """A quota that is too small."""

    metric: str
    limit: float
    region: str


class QuotaUsage:
    """The use of quotas, by project and region.

    Attributes:
        limits: by metric, or by `region/metric`, which takes precedence.
    """

    def __init__(self) -> None:
        self.limits: dict[str, float] = {}
        self._used: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def add(self, project: str, zone: str, demand: Demand) -> None:
        """Adds a demand to the use."""
        self._used[project, inventory.ZONES[zone]].update(demand)

    def remove(self, project: str, zone: str, demand: Demand) -> None:
        """Removes a demand from the use."""
        self._used[project, inventory.ZONES[zone]].subtract(demand)

    def shortage(self, project: str, zone: str, demand: Demand) -> Shortage | None:
        """The first quota that is too small for a further demand; None when there is room."""
        if not self.limits:
            return None
        region = inventory.ZONES[zone]
        used = self._used[project, region]
        for metric, amount in demand.items():
            limit = self._limit(region, metric)
            if used[metric] + amount > limit:
                return Shortage(metric, limit, region)
        return None

    def quotas(self, project: str, region: str) -> list[dict[str, Any]]:
        """A region's quotas as Compute shows them."""
        used = self._used[project, region]
        return [
            {"metric": metric, "limit": self._limit(region, metric), "usage": float(used[metric])}
            for metric in METRICS
        ]

    def _limit(self, region: str, metric: str) -> float:
        return self.limits.get(f"{region}/{metric}", self.limits.get(metric, UNLIMITED))


def problems_of(limits: Mapping[str, float]) -> list[str]:
    """The problems of requested limits; empty when there are none."""
    regions = {f"{region}/" for region in inventory.ZONES.values()} | {""}
    known = {f"{region}{metric}" for region in regions for metric in METRICS}
    form = f"not METRIC or REGION/METRIC; the metrics are {', '.join(METRICS)}"
    wrong = [f"{name}: {form}" for name in limits if name not in known]
    return wrong + [f"{name}: below 0" for name, limit in limits.items() if limit < 0]


def vm_demand(properties: Mapping[str, Any]) -> Counter[str]:
    """What a VM with these template properties needs, its disks included."""
    name = links.parse(properties["machineType"], "machineTypes", "machineType").name
    size = inventory.machine_size(name)
    demand: Counter[str] = Counter(INSTANCES=1)
    family = _CPU_METRICS.get(name.partition("-")[0])
    if family is not None and size is not None:
        demand[family] += size.cpus
    for interface in properties["networkInterfaces"]:
        demand["IN_USE_ADDRESSES"] += len(interface.get("accessConfigs", ()))
    for disk in properties["disks"]:
        demand.update(_disk_demand(vm_disks.kind(disk), vm_disks.size_gb(disk)))
    return demand


def resting_demand(demand: Demand) -> Demand:
    """What remains of a VM's demand while it is stopped or suspended: the VM and its disks."""
    return {metric: demand[metric] for metric in _WHILE_RESTING if metric in demand}


def disk_demand(disk: DiskRow) -> Demand:
    """What a disk needs."""
    return _disk_demand(disk.kind, disk.size_gb)


def _disk_demand(kind: str, size_gb: str) -> Demand:
    return {"DISKS_TOTAL_GB" if kind == vm_disks.STANDARD else "SSD_TOTAL_GB": int(size_gb)}
