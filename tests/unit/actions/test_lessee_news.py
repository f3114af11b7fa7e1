"""actions.lessee_news: who holds a machine learns at once that its VM has stopped or is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import ZONE, World, world
from support.outside import cataloged

SELDOM = {"import-config": "*/10 * * * * *"}
TROUBLE = "machine_provider.machines.trouble"


async def troubles(w: World) -> list[dict[str, Any]]:
    """What the only lease says of its machines."""
    [lease] = (await w.call("GET", "/api/v1/leases"))["leases"]
    found: list[dict[str, Any]] = lease.get("troubles", [])
    return found


async def test_a_lessee_is_told_of_a_stopped_vm_and_that_it_runs_again(tmp_path: Path) -> None:
    """Once each; the lease goes on."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await cataloged(w, 3)
        name = await w.lease()
        await w.call("POST", f"/_localcloud/vms/{name}/power-off")

        async def told() -> bool:
            return bool(await troubles(w))

        await w.until(told)
        [trouble] = await troubles(w)
        assert (trouble["machine"], trouble["gone"]) == (name, False)
        assert trouble["message"].startswith("The VM does not run")
        await w.pass_time(300)
        assert (await w.calls())[TROUBLE] == 1
        await w.compute("POST", f"zones/{ZONE}/instances/{name}/start")

        async def well() -> bool:
            return not await troubles(w)

        await w.until(well)
        assert (await w.catalog())[name] == "LEASED"


async def test_a_lessee_is_told_of_a_vm_that_is_gone_after_an_outage(tmp_path: Path) -> None:
    """What got no answer is said again; the lease ends when the lessee ends it."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await cataloged(w, 3)
        name = await w.lease()
        await w.inject(TROUBLE, status=503, times=2)
        await w.call("POST", f"/_localcloud/vms/{name}/delete")

        async def told() -> bool:
            return bool(await troubles(w))

        await w.until(told, within=900)
        [trouble] = await troubles(w)
        assert (trouble["machine"], trouble["gone"]) == (name, True)
        assert (await w.calls())[TROUBLE] == 3
        assert (await w.catalog())[name] == "LEASED"


async def test_a_machine_provider_without_the_method_is_asked_once(tmp_path: Path) -> None:
    """An older one, or the original."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await cataloged(w, 3)
        name = await w.lease()
        await w.inject(TROUBLE, status=404, times=None)
        await w.call("POST", f"/_localcloud/vms/{name}/power-off")
        await w.until(lambda: w.is_in(name, "stopped"))
        await w.pass_time(600)
        assert (await w.calls())[TROUBLE] == 1
