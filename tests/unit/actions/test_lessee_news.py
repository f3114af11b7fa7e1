"""actions.lessee_news: who holds a machine learns at once that its VM has stopped or is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import ZONE, World, world
from support.outside import cataloged, whole

SELDOM = {"import-config": "*/10 * * * * *"}
BACKUP = "/_localcloud/machine-provider/backup"
TROUBLE = "machine_provider.machines.trouble"


async def only_lease(w: World) -> dict[str, Any]:
    """The only lease that is listed."""
    [lease] = (await w.call("GET", "/api/v1/leases"))["leases"]
    found: dict[str, Any] = lease
    return found


async def troubles(w: World) -> list[dict[str, Any]]:
    """What the only lease says of its machines."""
    found: list[dict[str, Any]] = (await only_lease(w)).get("troubles", [])
    return found


async def test_a_lessee_is_told_of_a_stopped_vm_and_that_it_runs_again(tmp_path: Path) -> None:
    """Once each; the lease goes on. A Machine Provider that is restored is told again."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await cataloged(w, 3)
        name = await w.lease()
        backup = await w.call("GET", BACKUP)
        await w.call("POST", f"/_localcloud/vms/{name}/power-off")

        async def told() -> bool:
            return bool(await troubles(w))

        await w.until(told, every=2)
        [trouble] = await troubles(w)
        assert (trouble["machine"], trouble["gone"]) == (name, False)
        assert trouble["message"].startswith("The VM does not run")
        await w.pass_time(300)
        assert (await w.calls())[TROUBLE] == 1
        await w.call("PUT", BACKUP, backup)
        assert not await told()
        await w.until(told, every=2)
        assert (await w.calls())[TROUBLE] == 2
        await w.compute("POST", f"zones/{ZONE}/instances/{name}/start")

        async def well() -> bool:
            return not await troubles(w)

        await w.until(well, every=5)
        assert (await w.catalog())[name] == "LEASED"


async def test_the_lease_of_a_vm_that_is_gone_ends_after_an_outage(tmp_path: Path) -> None:
    """What got no answer is said again; the lease says why it ended, and the fleet is whole."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await cataloged(w, 3)
        name = await w.lease()
        await w.inject(TROUBLE, status=503, times=2)
        await w.call("POST", f"/_localcloud/vms/{name}/delete")

        async def lost() -> bool:
            return bool((await only_lease(w))["state"] == "ended")

        await w.until(lost, within=900, every=5)
        lease = await only_lease(w)
        assert lease["ended"] == "LOST"
        assert lease["message"] == f"{name}: The VM no longer exists."
        assert (await w.calls())[TROUBLE] == 3
        await w.until(whole(w, 3, without={name}), every=5)


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
