"""Leases: noted, ended, and made good when messages are lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gce_backend.model.entities import CatalogState
from gce_backend.model.machine_token import instance_token
from gce_backend.settings.settings import FetchSettings, MachineProviderSettings, Settings
from support.broker_messages import SUBSCRIPTION, about, key_of, one_machine, publish, settled
from support.deletions import NOT_CATALOGED, delete_outside, entity
from support.fleet_harness import PROJECT, World, manager, template, world

GET = "machine_provider.catalog.get"


async def _shown(w: World, name: str) -> dict[str, Any]:
    return next(machine for machine in await w.machines() if machine["name"] == name)


async def test_a_lease_is_noted_with_its_end_and_its_end_marks_pending_deletion(
    tmp_path: Path,
) -> None:
    """The paragraph "Leases": LEASED with its expiry; RECLAIMED ends it, with reason and time."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        started = w.clock.now()
        name = await w.lease(duration=120)
        expiration = (await _shown(w, name))["lease_expiration"]
        assert started + 119 <= expiration <= w.clock.now() + 120
        await w.inject("compute.instanceGroupManagers.deleteInstances", times=None)

        async def pending() -> bool:
            return await w.is_in(name, "pending-deletion", "deleting")

        await w.until(pending, within=1000)
        assert 0 <= w.clock.now() - expiration < 5
        assert w.daemon.context is not None
        entity = next(i for k, i in w.daemon.context.fleet.instances.items() if k.name == name)
        assert entity.lease is None
        assert entity.pending_deletion is not None
        assert "reclaimed" in entity.pending_deletion.reason
        assert 0 <= entity.pending_deletion.since - expiration < 5
        await w.clear_faults()
        await w.until_states(cataloged=3, within=1000)
        assert name not in await w.vms()


async def test_hole_22_a_sweep_that_is_too_slow_comes_to_every_machine(tmp_path: Path) -> None:
    """Two answers fit into its patience; who was not asked about comes first the next time."""
    broker = MachineProviderSettings(sweep_per_minute=600, lost_seconds=9999.0)
    settings = Settings(machine_provider=broker)
    async with world(tmp_path, managers=manager(minimum=6), settings=settings) as w:
        await w.until_states(cataloged=6)
        await w.inject(GET, kind="latency", seconds=4.0, times=None)
        await w.inject(GET, times=None, **NOT_CATALOGED)

        async def all_missed() -> bool:
            return (await w.states())["lost"] == 6

        await w.until(all_missed, within=300)


async def test_a_lease_whose_end_is_not_said_is_held_until_it_is(tmp_path: Path) -> None:
    """LEASED without an expiry, then LEASED with one, then a late one with an earlier end."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        for ends, shown in ((None, None), ("9999999999", 9999999999), ("5000000000", 9999999999)):
            attributes = {"lease_expiration_ts": ends} if ends else {}
            await publish(w, about(machine, "LEASED", **attributes))
            await settled(w)
            found = await _shown(w, machine["name"])
            assert (found["state"], found["lease_expiration"]) == ("leased", shown)


async def test_with_every_message_lost_the_sweep_alone_keeps_the_fleet_at_its_size(
    tmp_path: Path,
) -> None:
    """Fault 10, L1: no subscription at all; leases and their ends are seen in the catalog."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.call("DELETE", SUBSCRIPTION)
        name = await w.lease(duration=300)
        held = await _shown(w, name)
        assert held["lease_expiration"] is not None

        async def replaced() -> bool:
            return name not in await w.vms() and (await w.states())["cataloged"] == 3

        took = await w.until(replaced, within=1800)
        assert took > 300  # it was not destroyed while it was held
        assert w.clock.now() > held["lease_expiration"]
        assert len(await w.vms()) == 3


async def test_the_sweep_sees_a_reclaim_whose_message_was_lost(tmp_path: Path) -> None:
    """The lease is given back early, the message lost: the machine waits for its known end."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease(duration=500)
        await w.call("DELETE", SUBSCRIPTION)
        await w.release()
        await w.pass_time(450)
        assert name in await w.vms()

        async def gone() -> bool:
            return name not in await w.vms()

        assert await w.until(gone, within=900) > 0
        await w.until_states(cataloged=3)


async def test_a_catalog_that_knows_nothing_destroys_no_machine_that_is_held(
    tmp_path: Path,
) -> None:
    """Fault 30: `catalog.get` answers 404 for everything; alone that never deletes, and is told."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease(duration=7200)
        message = "no machine of that name is in the catalog"
        await w.inject(GET, status=404, reason="notFound", message=message, times=None)
        await w.pass_time(600)
        assert await w.fired() > 10
        assert name in await w.vms()
        assert await w.is_in(name, "leased")
        assert len(await w.vms()) == 3
        [told] = await _contradictions(w)
        assert "does not hold it" in told
        assert "it is kept until it ends" in told


async def test_a_catalog_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Fault 29: the sweep backs off, says so, and goes on when the Machine Provider is back."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject(GET, status=503, times=None)
        await w.pass_time(400)
        assert await w.fired() > 2
        assert await w.states() == {"cataloged": 3}
        subjects = {c["subject"] for c in (await w.get("/api/fleet"))["conditions"]}
        assert "machine-provider" in subjects
        await w.clear_faults()
        await w.reset_calls()
        await w.pass_time(400)
        assert (await w.calls())[GET] > 0
        assert (await w.get("/api/fleet"))["conditions"] == []


async def test_the_sweep_asks_in_turn_and_keeps_to_its_pace(tmp_path: Path) -> None:
    """Ten machines, five questions a minute: never more, and each machine gets its turn."""
    settings = Settings(machine_provider=MachineProviderSettings(sweep_per_minute=5))
    async with world(tmp_path, settings=settings, managers=manager(minimum=10)) as w:
        await w.until_states(cataloged=10)
        await w.call("DELETE", SUBSCRIPTION)
        held = set()
        for number in range(10):
            request = {"request_id": f"r{number}", "duration": 7200}
            dimensions = {"dimensions": {"os_family": "LINUX"}}
            held.add((await w.broker("machine_provider.lease", {**request, **dimensions}))["state"])
        await w.pass_time(60)
        for _ in range(3):
            await w.reset_calls()
            await w.pass_time(60)
            assert (await w.calls())[GET] <= 5
        await w.until_states(leased=10, within=120)


@pytest.mark.parametrize("end", [1795449587123456, -1795449587123456, "1" * 400])
async def test_a_lease_with_an_end_that_makes_no_sense_is_held_and_shown(
    tmp_path: Path, end: int | str
) -> None:
    """Microseconds for seconds: the machine is kept, and no page breaks on the date."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        assert w.daemon.context is not None
        (key,) = w.daemon.context.fleet.instances
        name = key.name
        entry = {
            "dimensions": {"hostname": name, "backend": "GCE"},
            "policies": {
                "backend_attributes": [
                    {"key": "key", "value": instance_token(PROJECT, key)},
                ]
            },
            "state": "LEASED",
            "lease_expiration_ts": end,
        }
        await w.inject(GET, kind="answer", body=entry, times=None)
        await w.until(lambda: w.is_in(name, "leased"))
        for path in ("/", "/machines", f"/machines/{name}", "/events"):
            async with w.session.get(w.daemon.url + path) as page:
                assert page.status == 200, path
        w.write_config(template(machine_type="e2-medium"), manager(minimum=1))
        await w.pass_time(600)
        assert await w.is_in(name, "leased")
        assert name in await w.vms()


async def _available(w: World, name: str) -> dict[str, Any]:
    """From now on the catalog calls a machine available; returns its entry."""
    return await _called(w, name, "AVAILABLE")


async def _called(w: World, name: str, state: str) -> dict[str, Any]:
    """From now on the catalog says this state of a machine, and no end; returns its entry."""
    machine = await _shown(w, name)
    await w.clear_faults()
    attributes = {"key": key_of(machine), "gce_id": machine["id"]}
    body = {
        "dimensions": {"backend": "GCE", "hostname": name},
        "policies": {"backend_attributes": [{"key": k, "value": v} for k, v in attributes.items()]},
        "state": state,
    }
    await w.inject(GET, kind="answer", body=body, times=None)
    return body


async def _contradictions(w: World) -> list[str]:
    conditions = [c for machine in await w.machines() for c in machine["conditions"]]
    return [c["message"] for c in conditions if c["reason"] == "LeaseContradicted"]


async def _leased_without_end(w: World) -> str:
    """A machine of which LEASED came without an end; the catalog agrees, by a fault in force."""
    await w.until_states(cataloged=1)
    await w.pass_time(5)
    (machine,) = await w.machines()
    await _called(w, machine["name"], "LEASED")
    await publish(w, about(machine, "LEASED"))
    await w.until(lambda: w.is_in(machine["name"], "leased"))
    return str(machine["name"])


HASTY = Settings(machine_provider=MachineProviderSettings(sweep_per_minute=60))


async def test_hole_05_a_lease_without_an_end_survives_a_restored_catalog_for_ten_minutes(
    tmp_path: Path,
) -> None:
    """One AVAILABLE is told, and ends nothing; many of them, for ten minutes, are believed."""
    async with world(tmp_path, managers=manager(minimum=1), settings=HASTY) as w:
        name = await _leased_without_end(w)
        await _available(w, name)
        await w.until(w.has_fired)
        await w.pass_time(590)
        assert await w.fired() > 3
        assert await w.is_in(name, "leased")
        assert len(await _contradictions(w)) == 1
        await w.until(lambda: w.is_in(name, "cataloged"), within=130)
        await w.pass_time(61)
        assert await _contradictions(w) == []


async def test_hole_11_a_lease_without_an_end_that_the_catalog_denies_for_minutes_holds_no_vm(
    tmp_path: Path,
) -> None:
    """Its RECLAIMED was lost, and its entry is gone: it is kept for ten minutes, and says so."""
    async with world(tmp_path, managers=manager(minimum=1), settings=HASTY) as w:
        name = await _leased_without_end(w)
        await w.broker("catalog.delete_machine", {"dimensions": {"hostname": name}})
        await w.clear_faults()
        await w.until(lambda: _is_contradicted(w))
        [told] = await _contradictions(w)
        assert "does not hold it" in told
        assert "deleted within the cap on unconfirmed deletions" in told
        await w.pass_time(580)
        assert await w.is_in(name, "leased")
        await w.until(lambda: w.lacks(name), within=300)
        await w.until_states(cataloged=1)
        assert await _contradictions(w) == []


WAIT = Settings(machine_provider=MachineProviderSettings(sweep_per_minute=60, lost_machines="wait"))


async def test_hole_11_a_denied_lease_without_an_end_waits_for_an_operator_by_a_setting(
    tmp_path: Path,
) -> None:
    """The condition says which command; it gives the machine up once the catalog has denied it."""
    async with world(tmp_path, managers=manager(minimum=1), settings=WAIT) as w:
        name = await _leased_without_end(w)
        await w.broker("catalog.delete_machine", {"dimensions": {"hostname": name}})
        await w.clear_faults()
        await w.until(lambda: _is_contradicted(w))
        await w.pass_time(3600)
        assert await w.is_in(name, "leased")
        [told] = await _contradictions(w)
        assert f"`gce-backend drain {name}`" in told
        assert await w.act("/api/drain", {"name": name}) == 200
        await w.until(lambda: w.lacks(name), within=300)
        await w.until_states(cataloged=1)


@pytest.mark.parametrize("entry", ["another's", "its own", "none"])
async def test_hole_11_a_machine_set_aside_with_a_lease_without_an_end_is_asked_about(
    tmp_path: Path, entry: str
) -> None:
    """What the catalog says of its lease holds; another's entry is as good as none."""
    async with world(tmp_path, managers=manager(minimum=1), settings=HASTY) as w:
        name = await _leased_without_end(w)
        body = await _available(w, name)
        foreign = {"policies": {"backend_attributes": [{"key": "key", "value": "x"}]}}
        await w.clear_faults()
        await w.inject(GET, kind="answer", body={**body, **foreign, "state": "LEASED"}, times=None)

        async def set_aside() -> bool:
            found = entity(w, name)
            return found is not None and found.catalog is CatalogState.REFUSED

        await w.until(set_aside)
        if entry != "another's":
            await w.clear_faults()
        if entry == "its own":
            end = int(w.clock.now()) + 3000
            leased = {**body, "state": "LEASED", "lease_expiration_ts": end}
            await w.inject(GET, kind="answer", body=leased, times=None)
            await w.pass_time(1200)
            found = entity(w, name)
            assert found is not None
            assert found.catalog is CatalogState.CATALOGED
            assert found.lease is not None
            assert found.lease.expiration is not None
            return
        if entry == "none":
            await w.inject(GET, times=None, **NOT_CATALOGED)
        await w.until(lambda: _is_contradicted(w))
        await w.pass_time(580)
        assert await w.is_in(name, "leased")

        async def free() -> bool:
            return not await w.is_in(name, "leased")

        await w.until(free, within=300)


async def _is_contradicted(w: World) -> bool:
    return bool(await _contradictions(w))


async def test_hole_05_a_restart_begins_the_ten_minutes_anew(tmp_path: Path) -> None:
    """What a process has not seen itself does not end a lease."""
    async with world(tmp_path, managers=manager(minimum=1), settings=HASTY) as w:
        name = await _leased_without_end(w)
        await _available(w, name)
        await w.until(w.has_fired)
        await w.pass_time(500)
        await w.restart_daemon()
        await w.pass_time(400)
        assert await w.is_in(name, "leased")


async def test_hole_05_a_contradiction_ends_when_the_catalog_says_leased_again(
    tmp_path: Path,
) -> None:
    """It was restored, and then brought up to date: the condition ends, the lease does not."""
    async with world(tmp_path, managers=manager(minimum=1), settings=HASTY) as w:
        await w.until_states(cataloged=1)
        name = await w.lease(duration=7200)
        await w.until(lambda: w.is_in(name, "leased"))
        await _available(w, name)

        await w.until(lambda: _is_contradicted(w))
        await w.pass_time(1200)
        assert await w.is_in(name, "leased"), "its end is known and has not come"
        await w.clear_faults()
        await w.pass_time(70)
        assert not await _is_contradicted(w)
        assert await w.is_in(name, "leased")


@pytest.mark.parametrize("is_known", [True, False])
async def test_nobody_holds_a_vm_that_is_gone_though_the_lease_known_here_runs(
    tmp_path: Path, *, is_known: bool
) -> None:
    """The Machine Provider was restored: it offers the machine, or no longer holds it."""
    broker = MachineProviderSettings(sweep_per_minute=60, lost_seconds=60.0)
    settings = Settings(machine_provider=broker, fetch=FetchSettings(resync_seconds=30.0))
    async with world(tmp_path, managers=manager(minimum=1), settings=settings) as w:
        await w.until_states(cataloged=1)
        (machine,) = await w.machines()
        name = machine["name"]
        ends = str(int(w.clock.now()) + 6 * 3600)
        await publish(w, about(machine, "LEASED", lease_expiration_ts=ends))
        await w.until(lambda: w.is_in(name, "leased"))
        if not is_known:
            await w.broker("catalog.delete_machine", {"dimensions": {"hostname": name}})
        await w.pass_time(130)
        assert await w.is_in(name, "leased"), "its VM is there"
        await delete_outside(w, name)

        async def is_replaced() -> bool:
            catalog = await w.catalog()
            return name not in await w.vms() and catalog.get(name) in {None, "DELETED"}

        await w.until(is_replaced, within=600)
        await w.until_states(cataloged=1)
