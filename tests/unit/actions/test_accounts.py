"""actions.accounts: the Machine Provider and the VM are told an address, never `default`."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute.vm_views import default_account
from support.broker_messages import metadata, one_machine, publish, settled, subscribed
from support.fleet_harness import PROJECT, World, world

SELDOM = {"import-config": "* * * * *"}
GET = "compute.instances.get"


async def _account(w: World, name: str) -> str:
    entry = await w.broker("catalog.get", {"backend": "GCE", "hostname": name})
    account: str = entry["policies"]["machine_service_account"]
    return account


async def test_line_13_the_default_account_is_sent_by_its_address(tmp_path: Path) -> None:
    """The Machine Provider lets a machine's agent in by that; Compute is asked once a project."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        machine = await one_machine(w)
        address = default_account(PROJECT)
        assert address.endswith("-compute@developer.gserviceaccount.com")
        for found in await w.machines():
            assert await _account(w, found["name"]) == address
            assert (await metadata(w, found))["pubsub_service_account"] == address
        assert (await w.vms())[machine["name"]]


async def test_line_13_messages_do_not_wait_for_compute_to_say_who_default_is(
    tmp_path: Path,
) -> None:
    """On the VM itself the word means the same account."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        machine = await one_machine(w)
        await w.restart_daemon()
        await w.until_states(cataloged=3)
        await w.inject(GET, status=503, times=None)
        await publish(w, subscribed(machine, "another"))
        await w.pass_time(60)
        await w.clear_faults()
        await settled(w)
        found = await metadata(w, machine)
        assert found["pubsub_subscription"] == "another"
        assert found["pubsub_service_account"] == "default"
