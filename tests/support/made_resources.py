"""A template and a group at Compute Engine that no entity knows.

Use it for commands that look at what Compute Engine has besides the store.
"""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from gce_backend.base.clock import SystemClock
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.configuration import parsing, types
from gce_backend.configuration.types import AdditionalDisk
from gce_backend.daemon.clients import Clients
from gce_backend.model.keys import manager_key
from gce_backend.rules.compute_bodies import group_body, template_body
from gce_backend.rules.ownership import Mark
from support.fleet_harness import ZONE, manager, template
from support.patience import PATIENCE
from support.served_cloud import PROJECT, ServedCloud

WANTED = parsing.parse(template(), manager(), {}).templates[0]
GROUP = manager_key("linux", types.checksum(WANTED), ZONE)


def make(served: ServedCloud, mark: Mark, size: int, *, kept_disks: bool = False) -> None:
    """Makes `WANTED` and a group of it, with this mark.

    Args:
        mark: of the store that is said to have made it.
        size: of the group.
        kept_disks: whether the VMs' disks, boot disk and an additional one, stay when these are
            deleted.
    """

    async def insert(clients: Clients) -> None:
        compute = clients.compute(CallBudget(SystemClock(), dict.fromkeys(QuotaGroup, 10_000)))
        wanted = WANTED
        if kept_disks:
            wanted = replace(WANTED, additional_disks=(AdditionalDisk(10, auto_delete=False),))
        body = template_body(mark, GROUP.revision, wanted)
        body["properties"]["disks"][0]["autoDelete"] = not kept_disks
        asked = await compute.insert_instance_template(PROJECT, body, request_id=str(uuid.uuid4()))
        await compute.await_operation(asked, timeout=PATIENCE)
        group = group_body(mark, GROUP, PROJECT, size, body["name"])
        asked = await compute.insert_group(PROJECT, ZONE, group, request_id=str(uuid.uuid4()))
        await compute.await_operation(asked, timeout=PATIENCE)

    served.ask(insert)
