"""The two lists of every zonal resource: of one zone, and of all zones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, listing
from gce_backend.localcloud.compute.listing import Names, Render


class ZonalLists:
    """The list and aggregatedList methods of a resource.

    Args:
        cloud: knows which zones cannot be reached now.
        resource: its name in `kind`, e.g. `instanceGroup`; the collection's name is its plural.
        of: of a project, the names by project and zone (`p/z`), and a function that returns the
            resource at `project/zone/name`; None when it is not visible.
    """

    def __init__(
        self,
        cloud: Cloud,
        resource: str,
        of: Callable[[str], tuple[Mapping[str, Names], Render]],
    ) -> None:
        self._cloud = cloud
        self._kind = f"compute#{resource}"
        self._collection = f"{resource}s"
        self._of = of

    def of_zone(self, call: Call) -> dict[str, Any]:
        """The list method."""
        project, zone = inventory.zone_of(call)
        names, visible = self._of(project)
        return listing.zonal_list(
            f"{self._kind}List",
            self._collection,
            call,
            names[f"{project}/{zone}"],
            lambda name: visible(f"{project}/{zone}/{name}"),
        )

    def of_all(self, call: Call) -> dict[str, Any]:
        """The aggregatedList method."""
        project = call.path["project"]
        names, visible = self._of(project)
        return listing.aggregated_list(
            f"{self._kind}AggregatedList",
            self._collection,
            call,
            {f"zones/{zone}": names[f"{project}/{zone}"] for zone in inventory.ZONES},
            lambda place: visible(f"{project}/{place.removeprefix('zones/')}"),
            [f"zones/{zone}" for zone in self._cloud.faults.outages(inventory.ZONES)],
        )
