"""remove-cataloged-instances: what drains leaves the catalog, and no lease is ended."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.fleet.picture import Change
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.model.orders import Drain
from gce_backend.settings.settings import MachineProviderSettings
from support.deletions import (
    DELETE_INSTANCES,
    DELETE_MACHINE,
    GET_MACHINE,
    TWO_TEMPLATES,
    add_late,
    removals,
    settings,
    two_templates,
)
from support.fleet_harness import World, manager, template, world
from support.two_templates import (
    BOTH,
    LINUX_AND_WIN,
    MANAGERS,
    SHORT,
    drop,
    gone,
    up,
    vms_are,
)

SELDOM = {"import-config": "*/20 * * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)
GROUPS = "compute.instanceGroupManagers"
HASTY = MachineProviderSettings(sweep_per_minute=600, lost_seconds=10.0)


async def _templates(w: World, *names: str) -> bool:
    return {name.partition("-")[0] for name in await w.vms()} == set(names)


async def test_remove_cataloged_instances(tmp_path: Path) -> None:
    """What the spec says of remove-cataloged-instances.

    "Removes each models.Instance from the Machine Provider catalog
    that wasn't created from an instance template currently referenced in the config."
    """
    managers = manager("linux") + manager("win", minimum=4)
    async with world(tmp_path, templates=LINUX_AND_WIN, managers=managers) as w:
        await w.until_states(cataloged=7)
        w.write_config(template("win"), manager("win", minimum=4))

        async def only_win() -> bool:
            return all(name.startswith("win") for name in await w.catalog())

        await w.until(only_win, within=60)
        assert len(await w.catalog()) == 4


async def test_leased_machine_is_waited_for_and_asked_about_seldom(tmp_path: Path) -> None:
    """A quarter of an hour long: nothing of it is touched; after its lease all of it goes."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0, duration=7200)
        vm = (await w.vms())[held]
        drop(w)
        await w.until(vms_are(w, {held}))
        await w.reset_calls()
        await w.pass_time(900)
        calls = await w.calls()
        assert (await w.vms())[held] == vm
        assert (await w.catalog())[held] == "LEASED"
        assert calls[DELETE_MACHINE] == 0
        assert calls[f"{GROUPS}.delete"] == calls["compute.instanceTemplates.delete"] == 0
        await w.release()
        await w.until(gone(w))


async def test_hazard_21_answer_leased_is_not_asked_for_again_every_minute(tmp_path: Path) -> None:
    """The lease's message is lost: the Machine Provider's word is enough, and asked ever less."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.inject("machine_provider.catalog.get", status=503, times=None)
        await w.restart_daemon()  # the pull that was under way ends with it
        request = {
            "request_id": "r1",
            "duration": 7200,
            "dimensions": {"os_family": "LINUX", "num_cpus": 2, "memory_gb": 2.0},
        }
        await w.broker("machine_provider.lease", request)

        async def leased() -> bool:
            return "LEASED" in (await w.catalog()).values()

        await w.until(leased)
        held = next(name for name, state in (await w.catalog()).items() if state == "LEASED")
        drop(w)
        await w.until(vms_are(w, {held}))
        await w.reset_calls()
        await w.pass_time(900)
        assert await w.fired()
        assert 2 <= (await w.calls())[DELETE_MACHINE] <= 12
        assert held in await w.vms()
        await w.clear_faults()
        await w.release()
        await w.until(gone(w), within=1800)


async def test_hole_16_the_lease_for_which_a_removal_is_refused_is_stored_with_its_end(
    tmp_path: Path,
) -> None:
    """The lease's message is lost, and the sweep backs off: delete_machine is the first to know."""
    settings = msgspec.structs.replace(
        SHORT, machine_provider=MachineProviderSettings(batch_size=1)
    )
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=settings, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.restart_daemon()  # the pull that was under way ends with it
        await w.until(w.is_loaded)
        assert w.daemon.context is not None
        sweep = w.daemon.context.conditions.of_job("sweep")
        sweep.back_off("machine-provider", "Unavailable", "", retry_after=7200)
        request = {
            "request_id": "r1",
            "duration": 7200,
            "dimensions": {"os_family": "LINUX", "num_cpus": 2, "memory_gb": 2.0},
        }
        await w.broker("machine_provider.lease", request)
        await w.pass_time(600)
        held = next(name for name, state in (await w.catalog()).items() if state == "LEASED")
        await w.reset_calls()
        drop(w)
        await w.until(vms_are(w, {held}), within=100)
        machine = next(m for m in await w.machines() if m["name"] == held)
        assert machine["state"] == "leased"
        assert 6000 < machine["lease_expiration"] - w.clock.now() < 7200
        await w.pass_time(900)
        # Once for it; of each of the two others when it leaves, and just before its deletion.
        assert await removals(w) == 1 + 2 * 2
        assert held in await w.vms()


async def test_catalog_that_forgot_a_leased_machine_does_not_end_its_lease(tmp_path: Path) -> None:
    """ENTRY_NOT_FOUND while a known lease runs means wait: the VM lives to the lease's end."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        held = await w.lease(num_cpus=2, memory_gb=2.0, duration=700)
        await w.inject("machine_provider.catalog.get", kind="empty", times=None)
        await w.inject(DELETE_MACHINE, kind="status", status=404, reason="notFound", times=None)
        drop(w)
        await w.pass_time(500)
        assert await w.fired()
        assert held in await w.vms()
        await w.clear_faults()
        await w.until(gone(w), within=3600)


async def test_while_the_machine_provider_is_down_nothing_drains(tmp_path: Path) -> None:
    """Fault 29: it is asked seldom, and not for every machine; all VMs stay until it answers."""
    managers = manager(minimum=30) + manager("other", minimum=40)
    async with world(
        tmp_path, templates=BOTH, managers=managers, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w, 70)
        vms, catalog = await w.vms(), await w.catalog()
        await w.inject("machine_provider.*", times=None)
        await w.reset_calls()
        w.write_config(template("other", machine_type="e2-medium"), manager("other", minimum=40))
        await w.pass_time(600)
        assert await w.fired()
        assert (await w.vms(), await w.catalog()) == (vms, catalog)
        assert 3 <= (await w.calls())[DELETE_MACHINE] <= 60
        await w.clear_faults()
        await w.until(gone(w), within=1800)


async def test_an_addition_without_an_answer_takes_out_no_entry_of_another(tmp_path: Path) -> None:
    """It may have been refused: what has the machine's name is a stranger's, and free."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        assert w.daemon.context is not None
        [key] = w.daemon.context.fleet.instances
        machine = {"dimensions": {"hostname": key.name, "backend": "GCE"}}
        await w.broker("catalog.delete_machine", machine)
        await add_late(w, key.name, key="another")
        drain = Drain("", w.clock.now())

        def unanswered(instance: Instance | None) -> Instance | None:
            assert instance is not None
            return msgspec.structs.replace(instance, catalog=CatalogState.ADDING, drain=drain)

        await w.daemon.context.fleet.change([Change(key, unanswered)])
        await w.pass_time(120)
        assert (await w.catalog())[key.name] in {"NEW", "AVAILABLE"}
        assert key.name in await w.vms()
        shown = next(m for m in await w.machines() if m["name"] == key.name)
        assert [c["reason"] for c in shown["conditions"]] == ["Refused"]
        await w.broker("catalog.delete_machine", machine)
        await w.until(lambda: w.lacks(key.name), within=900)


async def test_hazard_01_404s_of_a_broker_delete_nothing(tmp_path: Path) -> None:
    """A broker that answers 404 to everything: no machine goes, drained or not."""
    given = settings(broker=HASTY)
    managers = two_templates()
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers, settings=given) as w:
        await w.until_states(cataloged=6)
        before = set(await w.vms())
        await w.inject("machine_provider.*", status=404, reason="notFound", times=None)
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.pass_time(900)
        assert await w.fired() >= 6
        assert set(await w.vms()) == before
        await w.clear_faults()
        await w.until(lambda: _templates(w, "linux"), within=1500)
        await w.until(lambda: w.has_vms(3), within=1500)


async def test_hazard_04_a_clock_slightly_behind_is_no_day(tmp_path: Path) -> None:
    """The wall clock goes back five seconds at every turn: nothing is asked for again at once."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        held = await w.lease("held")
        name = await w.lease("ended")
        await w.reset_calls()
        await w.inject(DELETE_INSTANCES, kind="operation", reason="INTERNAL_ERROR", times=1)
        await w.release("ended")
        await w.until(lambda: w.is_in(name, "deleting"))
        for _ in range(20):
            w.clock.epoch -= 5
            await w.pass_time(5)
        assert held in await w.vms()
        assert (await w.calls())[DELETE_INSTANCES] <= 3
        await w.until(lambda: w.has_vms(3))
        await w.until_states(cataloged=2, leased=1)


async def test_hazard_21_a_leased_answer_is_not_asked_for_every_minute(tmp_path: Path) -> None:
    """Fault 32: LEASED means wait, longer each time; the machine stays as long as it is held."""
    managers = two_templates()
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers) as w:
        await w.until_states(cataloged=6)
        # Nobody tells the daemon of the leases.
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.inject(GET_MACHINE, times=None)
        names = set()
        for index in range(6):
            body = {
                "request_id": f"r{index}",
                "duration": 7200,
                "dimensions": {"os_family": "LINUX"},
            }
            await w.broker("machine_provider.lease", body)
            await w.pass_time(2)
            names.add((await w.broker("machine_provider.lease", body))["hostname"])
        await w.reset_calls()
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.pass_time(1800)
        assert await w.fired() >= 1
        assert names == set(await w.vms())
        assert 3 <= (await w.calls())[DELETE_MACHINE] <= 3 * 13
