"""Regions, with their quotas and what is used of them."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from gce_backend.localcloud.cloud import Call, Cloud, CloudControl
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import constant_id, not_found
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.usage import QuotaUsage, problems_of


class Regions:
    """regions."""

    def __init__(self, cloud: Cloud, usage: QuotaUsage) -> None:
        self._usage = usage
        path = "/_localcloud/quotas"
        cloud.add_controls(
            CloudControl("GET", path, self._get_limits), CloudControl("PUT", path, self._put_limits)
        )

    def get(self, call: Call) -> dict[str, Any]:
        """The get method."""
        return self._body(*_region_of(call))

    def list_page(self, call: Call) -> dict[str, Any]:
        """The list method."""
        project = call.path["project"]
        names = Names(inventory.REGIONS)
        found = listing.page(call, names.after, lambda region: self._body(project, region))
        return listing.resource_list("compute#regionList", f"projects/{project}/regions", found)

    def list_disks(self, call: Call) -> dict[str, Any]:
        """regionDisks.list: there are none."""
        project, region = _region_of(call)
        found = listing.page(call, Names().after, lambda _: None)
        path = f"projects/{project}/regions/{region}/disks"
        return listing.resource_list("compute#diskList", path, found)

    async def _get_limits(self, _: web.Request) -> web.Response:
        return web.json_response(self._usage.limits)

    async def _put_limits(self, request: web.Request) -> web.Response:
        try:
            limits = msgspec.json.decode(await request.read(), type=dict[str, float])
        except msgspec.DecodeError as error:
            return web.json_response({"error": f"not limits by metric: {error}"}, status=400)
        problems = problems_of(limits)
        if problems:
            return web.json_response({"error": "; ".join(problems)}, status=400)
        self._usage.limits = limits
        return web.json_response(limits)

    def _body(self, project: str, region: str) -> dict[str, Any]:
        return {
            "kind": "compute#region",
            "id": constant_id(region),
            "creationTimestamp": inventory.CREATED,
            "name": region,
            "description": region,
            "status": "UP",
            "zones": [
                links.zone_link(project, zone)
                for zone, its_region in inventory.ZONES.items()
                if its_region == region
            ],
            "quotas": self._usage.quotas(project, region),
            "selfLink": f"{links.ROOT}projects/{project}/regions/{region}",
        }


def _region_of(call: Call) -> tuple[str, str]:
    project, region = call.path["project"], call.path["region"]
    if region not in inventory.REGIONS:
        raise not_found(f"projects/{project}/regions/{region}")
    return project, region
