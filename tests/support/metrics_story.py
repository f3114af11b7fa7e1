"""One story of a fleet, and what /metrics says at each of its turns.

Use it for a test of several metrics, or of alerts on them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import msgspec

from gce_backend.settings.settings import (
    ConfigSettings,
    FetchSettings,
    MachineProviderSettings,
    Settings,
)
from support.broker_messages import publish, wire
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.scraped import Scraped, scrape
from support.simulation import VirtualTimeLoop

TEMPLATES = template() + template("windows")
MANAGERS = manager(minimum=3, maximum=8) + manager("windows", OTHER_ZONE, minimum=2)
NOBODYS = {
    "name": "nobodys",
    "description": "gce-backend owner=gce-backend template=nobodys revision=0",
    "properties": {
        "machineType": "e2-small",
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {"sourceImage": "projects/p1/global/images/debian-12"},
            }
        ],
        "networkInterfaces": [{"network": "global/networks/default"}],
    },
}
"""An instance template that carries our mark, and that no entity stands for."""


class Story(NamedTuple):
    """What /metrics said.

    Attributes:
        healthy: the fleet is whole, and nothing has gone wrong.
        served: a machine was leased, released and replaced.
        troubled: a configuration is held, a template is paused, a message was not understood, the
            catalog has forgotten a machine, a template is nobody's, calls failed in passing, and
            the zone has no machines.
    """

    healthy: Scraped
    served: Scraped
    troubled: Scraped


def tell(tmp_path: Path) -> Story:
    """Lives through the story in simulated time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_live(tmp_path))


async def _live(tmp_path: Path) -> Story:
    settings = Settings(
        fetch=FetchSettings(resync_seconds=60.0),
        machine_provider=MachineProviderSettings(sweep_per_minute=600),
    )
    async with world(
        tmp_path, templates=TEMPLATES, managers=MANAGERS, settings=settings, start=False
    ) as w:
        w.settings = msgspec.structs.replace(w.settings, config=ConfigSettings(source="luci-v2"))
        await w.start_daemon()
        await w.until_states(cataloged=5)
        await w.pass_time(130.0)
        healthy = await scrape(w)
        await _serve(w)
        served = await scrape(w)
        await _fall_into_trouble(w)
        return Story(healthy, served, await scrape(w))


async def _serve(w: World) -> None:
    hostname = await w.lease()
    await w.release()
    await w.until(lambda: w.lacks(hostname))
    await w.until_states(cataloged=5)
    await w.pass_time(61.0)


async def _fall_into_trouble(w: World) -> None:
    for method in ("compute.instanceGroupManagers.aggregatedList", "datastore.projects.lookup"):
        await w.inject(method, status=503, times=1)
    await publish(w, wire("GARBAGE", {}))
    await w.inject("*", kind="stockout", zone=ZONE, times=None)
    w.write_config(TEMPLATES, MANAGERS.replace("minimum_size: 3", "minimum_size: 4"))
    paused = {"template": "windows", "zone": OTHER_ZONE, "reason": "a look"}
    assert await w.act("/api/pause", paused) == 200
    assert await w.act("/api/rollout-pause", {"template": "windows"}) == 200
    await w.compute("POST", "global/instanceTemplates", NOBODYS)
    dimensions = {"backend": "GCE", "hostname": next(iter(await w.catalog()))}
    await w.broker("catalog.delete_machine", {"dimensions": dimensions})
    await w.pass_time(200.0)
    w.write_config("", "")
    await w.pass_time(61.0)
