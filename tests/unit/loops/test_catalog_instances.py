"""catalog-instances: what is added, with what, and what is never taken for added."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import JobSettings, MachineProviderSettings, Settings
from support.broker_messages import key_of
from support.deletions import (
    TWO_TEMPLATES,
    metric,
    two_templates,
)
from support.every_field import (
    EVERY_FIELD,
    ONE_OF_EACH,
    write_script,
)
from support.fleet_harness import PROJECT, ZONE, World, manager, template, world
from support.two_templates import LINUX_AND_WIN, linux_and_win

ADD = "machine_provider.catalog.add_machines"
RUNS = 'gce_backend_job_runs_total{job_name="catalog-instances",outcome="ok"}'


async def entry_of(w: World, base_name: str) -> dict[str, Any]:
    """The catalog's entry of a template's only machine."""
    [machine] = await w.machines(base_name)
    found: dict[str, Any] = await w.broker(
        "catalog.get", {"backend": "GCE", "hostname": machine["name"]}
    )
    return found


async def nothing_of(w: World, base_name: str) -> bool:
    """Whether no VM of a template is left."""
    return not any(name.startswith(base_name) for name in await w.vms())


async def test_catalog_instances(tmp_path: Path) -> None:
    """What the spec says of catalog-instances.

    "Any instance not cataloged and not pending deletion is added to the
    catalog."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert set(await w.catalog()) == set(await w.vms())
        leased = await w.lease()
        await w.inject("compute.instanceGroupManagers.deleteInstances", status=503, times=None)
        await w.release()
        await w.until(lambda: w.is_in(leased, "pending-deletion", "deleting"))
        await w.reset_calls()
        await w.pass_time(300)
        assert leased in await w.vms()
        assert leased not in await w.catalog()
        assert (await w.calls())["machine_provider.catalog.add_machines"] == 0
        assert await w.fired() > 0


async def test_catalog_entries_have_the_dimensions_of_the_machine(tmp_path: Path) -> None:
    """Custom machine types are computed, others read from Compute; disk sizes likewise."""
    write_script(tmp_path)
    async with world(tmp_path, templates=EVERY_FIELD, managers=ONE_OF_EACH) as w:
        await w.until_states(cataloged=3)
        common = {"backend": "GCE", "os_family": "LINUX", "project": PROJECT}
        names = {m["template"]: m["name"] for m in await w.machines()}
        assert (await entry_of(w, "whole"))["dimensions"] == {
            **common,
            "hostname": names["whole"],
            "linux_flavor": "DEBIAN",
            "os_version": "12",
            "num_cpus": "8",
            "memory_gb": 16.0,
            "disk_gb": "25",
            "disk_type": "SSD",
        }
        # Without a size of its own the disk has the snapshot's or the image's: 10 GB here.
        assert (await entry_of(w, "snapped"))["dimensions"] == {
            **common,
            "hostname": names["snapped"],
            "num_cpus": "4",
            "memory_gb": 16.0,
            "disk_gb": "10",
            "disk_type": "SSD",
            "snapshot": "checkout",
            "snapshot_labels": ["contents:checkout", "age:new"],
        }
        assert (await entry_of(w, "bare"))["dimensions"] == {
            **common,
            "hostname": names["bare"],
            "num_cpus": "2",
            "memory_gb": 2.0,
            "disk_gb": "10",
            "disk_type": "HDD",
        }


async def test_catalog_entries_have_our_policies(tmp_path: Path) -> None:
    """Topic, project, the instance's key, the first service account, and DELETE."""
    write_script(tmp_path)
    async with world(tmp_path, templates=EVERY_FIELD, managers=ONE_OF_EACH) as w:
        await w.until_states(cataloged=3)
        [machine] = await w.machines("whole")
        policies = (await entry_of(w, "whole"))["policies"]
        attributes = {pair["key"]: pair["value"] for pair in policies.pop("backend_attributes")}
        assert policies == {
            "backend_project": PROJECT,
            "backend_topic": "machine-provider",
            "machine_service_account": "first@local-project.iam.gserviceaccount.com",
            "on_reclamation": "DELETE",
        }
        path = (PROJECT, "whole", machine["revision"], ZONE, machine["name"])
        assert attributes["key"] == "/".join(path)


async def test_machines_are_cataloged_in_batches_and_only_once_they_run(tmp_path: Path) -> None:
    """No add_machine while the VMs boot; then a batch instead of a call for each machine."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=60.0)
    async with world(tmp_path, managers=manager(minimum=40), options=options) as w:

        async def all_made() -> bool:
            return len(await w.vms()) == 40

        await w.until(all_made)
        assert not (await w.calls())["machine_provider.catalog.add_machines"]
        await w.until_states(cataloged=40)
        calls = await w.calls()
        assert calls["machine_provider.catalog.add_machine"] == 0
        assert calls["machine_provider.catalog.add_machines"] <= 3


async def test_a_host_name_held_by_somebody_else_is_set_aside(tmp_path: Path) -> None:
    """HOSTNAME_REUSE is success only when the entry carries our key: this one does not."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=30.0)
    async with world(tmp_path, options=options) as w:

        async def all_made() -> bool:
            return len(await w.vms()) == 3

        await w.until(all_made)
        taken = min(await w.vms())
        theirs = {"backend": "GCE", "hostname": taken, "os_family": "LINUX"}
        answer = await w.broker("catalog.add_machine", {"dimensions": theirs, "policies": {}})
        assert "error" not in answer
        await w.until_states(cataloged=2, set_aside=1)
        [aside] = [m for m in await w.machines() if m["state"] == "set-aside"]
        assert aside["name"] == taken
        assert "another key" in aside["reason"]
        calls = await w.calls()
        await w.pass_time(600)
        assert (await w.states()) == {"cataloged": 2, "set-aside": 1}
        assert taken in await w.vms()
        later = await w.calls()
        assert later["machine_provider.catalog.get"] > calls["machine_provider.catalog.get"]
        assert later[ADD] == calls[ADD], "what is another's is only looked at"


async def test_hole_16_the_entry_of_an_earlier_vm_is_not_taken_for_this_one_s(
    tmp_path: Path,
) -> None:
    """Key and host name are ours, the numeric id is not: that entry leaves, this VM's comes."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=30.0)
    async with world(tmp_path, options=options) as w:
        await w.until_states(starting=3)
        machine = min(await w.machines(), key=lambda it: str(it["name"]))
        theirs = {"backend": "GCE", "hostname": machine["name"], "os_family": "LINUX"}
        attributes = [{"key": "key", "value": key_of(machine)}, {"key": "gce_id", "value": "1"}]
        phantom = {"dimensions": theirs, "policies": {"backend_attributes": attributes}}
        assert "error" not in await w.broker("catalog.add_machine", phantom)
        await w.until_states(cataloged=3)
        assert (await w.calls())["machine_provider.catalog.delete_machine"] == 1
        events = (await w.get("/api/events?limit=1000"))["events"]
        states = [it["after"] for it in events if it["name"] == machine["name"]]
        assert "lost" not in states, "it was never taken to be in the catalog by that entry"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lost_answer_of_add_machines_leaves_each_machine_cataloged_once(
    tmp_path: Path, when: Literal["before", "after"]
) -> None:
    """HOSTNAME_REUSE by our own entry counts as done: the answer, not the call, was lost."""
    async with world(tmp_path, managers=manager(minimum=5), start=False) as w:
        await w.inject("machine_provider.catalog.add_machines", kind="drop", when=when, times=2)
        await w.start_daemon()
        await w.until_states(cataloged=5)
        assert await w.fired() == 2
        assert set(await w.catalog()) == {m["name"] for m in await w.machines()}
        assert len(await w.vms()) == 5


async def test_addition_that_lands_late_finds_its_machine_alive(tmp_path: Path) -> None:
    """A machine whose addition has no answer yet is not taken for absent at once."""
    async with world(tmp_path, templates=LINUX_AND_WIN, managers=linux_and_win(), start=False) as w:
        await w.inject(ADD, status=503, times=None)
        await w.start_daemon()
        await w.until_states(running=5)
        w.write_config(template("win"), manager("win", minimum=3))
        await w.pass_time(60)
        machines = [m for m in await w.machines("linux") if m["catalog"] == "adding"]
        assert len(machines) == 2
        assert {m["name"] for m in machines} <= set(await w.vms())
        await w.clear_faults()
        await w.until(lambda: nothing_of(w, "linux"), within=900)


async def test_answers_to_many_additions_are_judged_side_by_side(tmp_path: Path) -> None:
    """The answer to one batch is lost, and each look at the catalog takes five seconds."""
    async with world(tmp_path, managers=manager(minimum=30), start=False) as w:
        await w.inject(ADD, kind="drop", when="after", times=1)
        get = "machine_provider.catalog.get"
        await w.inject(get, kind="latency", seconds=5.0, times=None)
        await w.start_daemon()
        await w.until_states(cataloged=30, within=120)
        assert await w.fired() > 1


async def test_machine_that_was_set_aside_is_tried_again_and_goes_when_it_drains(
    tmp_path: Path,
) -> None:
    """Its host name is another's in the catalog: it is neither given up nor kept for ever."""
    async with world(
        tmp_path, templates=LINUX_AND_WIN, managers=linux_and_win(2, 2), start=False
    ) as w:
        await w.inject(ADD, status=503, times=4)
        await w.start_daemon()
        await w.until_states(running=4)
        victims = sorted(name for name in await w.vms() if name.startswith("linux"))
        for name in victims:
            attributes = [{"key": "key", "value": "somebody/else/x/y/z"}]
            topic = {"backend_project": PROJECT, "backend_topic": "machine-provider"}
            policies = {**topic, "backend_attributes": attributes}
            dimensions = {"backend": "GCE", "hostname": name, "os_family": "LINUX"}
            body = {"dimensions": dimensions, "policies": policies}
            await w.broker("catalog.add_machine", body)
        await w.until_states(set_aside=2, cataloged=2)
        conditions = {c["reason"] for c in (await w.get("/api/fleet"))["conditions"]}
        assert "HostnameReuse" in conditions
        gone = {"dimensions": {"backend": "GCE", "hostname": victims[0]}}
        await w.broker("catalog.delete_machine", gone)
        await w.until_states(set_aside=1, cataloged=3, within=1800)
        w.write_config(template("win"), manager("win", minimum=2))
        await w.pass_time(900)
        assert set(victims) & set(await w.vms()) == {victims[1]}
        (shown,) = [m for m in await w.machines("linux") if m["name"] == victims[1]]
        assert "remove it from the catalog" in shown["reason"]
        gone = {"dimensions": {"backend": "GCE", "hostname": victims[1]}}
        await w.broker("catalog.delete_machine", gone)
        await w.until(lambda: nothing_of(w, "linux"), within=1800)


async def test_entry_that_somebody_else_put_in_place_of_ours_stays_theirs(tmp_path: Path) -> None:
    """Our entry is gone, and another has the host name: the sweep sees whose it is."""
    async with world(tmp_path, templates=LINUX_AND_WIN, managers=linux_and_win(2, 2)) as w:
        await w.until_states(cataloged=4)
        victim = min(name for name in await w.vms() if name.startswith("linux"))
        gone = {"dimensions": {"backend": "GCE", "hostname": victim}}
        await w.broker("catalog.delete_machine", gone)
        await w.pass_time(1)
        topic = {"backend_project": PROJECT, "backend_topic": "machine-provider"}
        policies = {**topic, "backend_attributes": [{"key": "key", "value": "a/b/c/d/e"}]}
        dimensions = {"backend": "GCE", "hostname": victim, "os_family": "LINUX"}
        await w.broker("catalog.add_machine", {"dimensions": dimensions, "policies": policies})
        await w.until_states(set_aside=1, cataloged=3, within=1800)
        w.write_config(template("win"), manager("win", minimum=2))
        await w.pass_time(1200)
        assert victim in await w.vms()
        assert victim in await w.catalog()


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
        await w.until(lambda: w.has_vms(4))
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


async def test_a_machine_provider_slower_than_the_deadline_gets_further_in_every_run(
    tmp_path: Path,
) -> None:
    """What a batch achieved is stored before the next one begins, and its size follows the pace."""
    settings = Settings(
        machine_provider=MachineProviderSettings(batch_size=2),
        jobs={"catalog-instances": JobSettings(timeout=20.0)},
    )
    async with world(tmp_path, managers=manager(minimum=8), settings=settings, start=False) as w:
        await w.inject(ADD, kind="latency", seconds=15, times=None)
        await w.start_daemon()
        await w.until_states(cataloged=8, within=1200)
        assert await w.fired() >= 4


async def test_very_many_machines_are_cataloged_in_several_runs_and_no_deadline_ends_one(
    tmp_path: Path,
) -> None:
    """All batches together take longer than the deadline of a run: that is no failure."""
    settings = Settings(
        machine_provider=MachineProviderSettings(batch_size=2),
        jobs={"catalog-instances": JobSettings(timeout=60.0)},
    )
    async with world(tmp_path, managers=manager(minimum=12), settings=settings, start=False) as w:
        await w.inject(ADD, kind="latency", seconds=12, times=None)
        await w.start_daemon()
        took = await w.until_states(cataloged=12, within=600)
        assert took > 60
        runs = 'gce_backend_job_runs_total{job_name="catalog-instances",outcome="timeout"}'
        assert await metric(w, runs) == 0


async def test_next_batch_is_stored_while_one_is_sent_and_not_sent_after_a_failure(
    tmp_path: Path,
) -> None:
    """One call is under way at a time; the intents of two batches are stored, and no more."""
    settings = Settings(machine_provider=MachineProviderSettings(batch_size=2))
    async with world(tmp_path, managers=manager(minimum=6), settings=settings, start=False) as w:
        await w.inject(ADD, kind="latency", seconds=15, times=2)
        await w.inject(ADD, status=503, when="after", times=1)
        await w.start_daemon()

        async def adding(number: int) -> bool:
            return [m["catalog"] for m in await w.machines()].count("adding") == number

        await w.until(lambda: adding(4))
        await w.pass_time(10)
        assert await adding(4)
        assert (await w.calls())[ADD] == 1

        async def failed() -> bool:
            return bool((await w.get("/api/fleet"))["conditions"])

        await w.until(failed)
        assert (await w.calls())[ADD] == 1
        await w.until_states(cataloged=6, within=900)


async def test_a_machine_that_the_machine_provider_refuses_stands_alone(tmp_path: Path) -> None:
    """400 to the whole batch: it is divided, and all others are cataloged."""
    async with world(tmp_path, managers=manager(minimum=8), start=False) as w:
        # The batch, its first half, that half's first half, and the first machine of all.
        await w.inject(ADD, status=400, reason="badRequest", message="bad FEDORA", times=4)
        await w.start_daemon()
        await w.until(lambda: _is_refused(w))
        assert (await w.states())["cataloged"] == 7
        (told,) = [c["message"] for m in await w.machines() for c in m["conditions"]]
        assert "template linux" in told
        assert "bad FEDORA" in told
        await w.until_states(cataloged=8)


async def _is_refused(w: World) -> bool:
    reasons = [c["reason"] for m in await w.machines() for c in m["conditions"]]
    return "Refused" in reasons and (await w.states())["cataloged"] >= 7
