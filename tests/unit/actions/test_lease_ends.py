"""actions.lease_ends: LEASED does not say when the lease ends, and the catalog does."""

from __future__ import annotations

from pathlib import Path

from gce_backend.settings.settings import MachineProviderSettings, Settings
from support.broker_messages import about, key_of, one_machine, publish, settled
from support.deletions import GET_MACHINE
from support.fleet_harness import World, manager, world

LATER = "99999999999"


async def test_hole_11_the_end_that_leased_does_not_say_is_asked_for_once(tmp_path: Path) -> None:
    """The original never says it: the catalog does, long before the sweep comes to the machine."""
    seldom = Settings(machine_provider=MachineProviderSettings(sweep_per_minute=1))
    async with world(tmp_path, managers=manager(minimum=1), settings=seldom) as w:
        await w.until_states(cataloged=1)
        (machine,) = await w.machines()
        await settled(w)
        await w.reset_calls()
        await w.until(lambda: _has_asked(w))  # the sweep: it comes again in a minute
        attributes = {"key": key_of(machine), "gce_id": machine["id"]}
        body = {
            "dimensions": {"backend": "GCE", "hostname": machine["name"]},
            "policies": {
                "backend_attributes": [{"key": k, "value": v} for k, v in attributes.items()]
            },
            "state": "LEASED",
            "lease_expiration_ts": int(LATER),
        }
        await w.inject(GET_MACHINE, kind="answer", body=body, times=None)
        await w.reset_calls()
        await publish(w, about(machine, "LEASED"))
        await w.pass_time(5)
        (found,) = await w.machines()
        assert (found["state"], found["lease_expiration"]) == ("leased", int(LATER))
        assert (await w.calls())[GET_MACHINE] == 1


async def _has_asked(w: World) -> bool:
    return bool((await w.calls())[GET_MACHINE])


async def test_hole_11_messages_do_not_wait_for_a_catalog_that_does_not_say_when_leases_end(
    tmp_path: Path,
) -> None:
    """LEASED is stored and acknowledged although `get` fails; the machine is held."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.inject(GET_MACHINE, status=503, times=None)
        await publish(w, about(machine, "LEASED"))
        await settled(w, within=30)
        assert await w.is_in(machine["name"], "leased")
