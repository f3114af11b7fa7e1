"""Hazards of this system's ancestor: what it did, and that it does not happen again."""

from __future__ import annotations

from pathlib import Path

from gce_backend.settings.settings import MachineProviderSettings
from support.deletions import (
    DELETE_INSTANCES,
    DELETE_MACHINE,
    GET_MACHINE,
    LIST_MEMBERS,
    TWO_TEMPLATES,
    metric,
    mutations,
    settings,
    two_templates,
)
from support.fleet_harness import World, manager, template, world

RUNS = 'gce_backend_job_runs_total{job_name="catalog-instances",outcome="ok"}'
HASTY = MachineProviderSettings(sweep_per_minute=600, lost_seconds=10.0)


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
        await w.until(lambda: _number(w, 3), within=1500)


async def _templates(w: World, *names: str) -> bool:
    return {name.partition("-")[0] for name in await w.vms()} == set(names)


async def _number(w: World, number: int) -> bool:
    return len(await w.vms()) == number


async def test_hazard_02_a_group_is_never_made_smaller_by_resize(tmp_path: Path) -> None:
    """Compute would pick the victims: a smaller minimum leaves all machines where they are."""
    async with world(tmp_path, managers=manager(minimum=4)) as w:
        await w.until_states(cataloged=4)
        before = set(await w.vms())
        await w.lease()
        await w.reset_calls()
        w.write_config(template(), manager(minimum=2, maximum=3))
        await w.pass_time(300)
        assert set(await w.vms()) == before
        assert await mutations(w) == {}


async def test_hazard_03_an_empty_list_deletes_no_group_and_no_machine(tmp_path: Path) -> None:
    """Fault 22: a drained group with a leased machine lists nothing, again and again."""
    given = settings(resync_seconds=5)
    managers = two_templates()
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers, settings=given) as w:
        await w.until_states(cataloged=6)
        leased: list[str] = []
        while not any(name.startswith("other") for name in leased):
            leased.append(await w.lease(f"r{len(leased)}"))
        held = set(leased)
        await w.inject(LIST_MEMBERS, kind="empty", times=20)
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.pass_time(400)
        assert await w.fired() == 20
        assert held <= set(await w.vms())
        assert len(await w.groups()) == 2


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
        await w.until(lambda: _number(w, 3))
        await w.until_states(cataloged=2, leased=1)


async def test_hazard_20_fault_31_a_host_name_of_somebody_else_s_is_set_aside(
    tmp_path: Path,
) -> None:
    """HOSTNAME_REUSE is no success, and no permit: the machine is shown, and never deleted."""
    managers = two_templates()
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers) as w:
        await w.inject("machine_provider.catalog.add_machines", times=None)
        await w.until_states(running=6)
        name = (await w.machines("other"))[0]["name"]
        assert await w.fired() >= 1
        await w.broker(
            "catalog.add_machine",
            {
                "dimensions": {"hostname": name, "backend": "GCE", "os_family": "WINDOWS"},
                "policies": {"on_reclamation": "DELETE"},
            },
        )
        await w.clear_faults()
        await w.until_states(cataloged=5, set_aside=1)
        assert await w.is_in(name, "set-aside")
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.until(lambda: _number(w, 4))
        await w.pass_time(600)
        assert name in await w.vms()


async def test_a_broker_that_failed_once_is_not_a_reason_to_run_without_end(
    tmp_path: Path,
) -> None:
    """When nothing is left to catalog, catalog-instances runs at its ticks only."""
    async with world(tmp_path) as w:
        await w.inject("machine_provider.catalog.add_machines", times=2)
        await w.until_states(cataloged=3)
        assert await w.fired() == 2
        await w.pass_time(60)
        before = await metric(w, RUNS)
        await w.pass_time(300)
        assert await metric(w, RUNS) - before <= 6


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


async def test_hazard_21_a_template_without_managers_and_a_group_that_is_not_there(
    tmp_path: Path,
) -> None:
    """Neither stops a job; what does not exist is not resized."""
    templates = TWO_TEMPLATES + template("third")
    async with world(tmp_path, templates=templates, managers=two_templates(2), start=False) as w:
        forbidden = {"status": 403, "reason": "forbidden", "times": None}
        await w.inject("compute.instanceGroupManagers.insert", **forbidden)
        await w.start_daemon()
        await w.pass_time(300)
        assert await w.fired() >= 2
        assert (await w.calls())["compute.instanceGroupManagers.resize"] == 0
        jobs = (await w.get("/api/jobs"))["jobs"]
        assert len(jobs) == 17
        assert all(job["runs"] > 0 and job["consecutive_failures"] == 0 for job in jobs)
        await w.clear_faults()
        await w.until_states(cataloged=4, within=900)
