"""Races and wrecks: each of these once destroyed a held machine, or left something for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from gce_backend.settings.settings import ComputeSettings, Settings
from support.fleet_harness import PROJECT, ZONE, World, manager, template, world

TWO_TEMPLATES = template("linux") + template("win")
RESIZE = "compute.instanceGroupManagers.resize"
DELETE_GROUP = "compute.instanceGroupManagers.delete"
ADD = "machine_provider.catalog.add_machines"


def both(linux: int = 2, win: int = 3) -> str:
    """managers.cfg with two templates."""
    return manager("linux", minimum=linux) + manager("win", minimum=win)


async def has_fired(w: World) -> bool:
    """Whether an injected fault has struck."""
    return await w.fired() >= 1


async def job(w: World, name: str) -> dict[str, Any]:
    """A job's status."""
    jobs = (await w.get("/api/jobs"))["jobs"]
    found: dict[str, Any] = next(shown for shown in jobs if shown["name"] == name)
    return found


async def nothing_of(w: World, base_name: str) -> bool:
    """Whether no VM of a template is left."""
    return not any(name.startswith(base_name) for name in await w.vms())


async def test_group_that_is_named_again_while_its_deletion_is_refused_keeps_its_machines(
    tmp_path: Path,
) -> None:
    """A deletion that is repeated is decided anew: by then its machines are held."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=both()) as w:
        await w.until_states(cataloged=5)
        await w.inject(DELETE_GROUP, status=503, retry_after=9, times=3)
        w.write_config(template("win"), manager("win", minimum=3))
        await w.until(lambda: has_fired(w), every=0.2)
        w.write_config(TWO_TEMPLATES, both())
        await w.until_states(cataloged=5, within=60)
        held = [await w.lease(f"r{index}", duration=100_000) for index in range(5)]
        await w.pass_time(120)
        assert set(held) <= set(await w.vms())
        await w.clear_faults()
        await w.pass_time(120)
        assert set(held) <= set(await w.vms())


async def test_hazard_02_resize_that_is_repeated_does_not_lower_what_others_raised(
    tmp_path: Path,
) -> None:
    """Between two tries somebody raises the group further, and machines are leased."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject(RESIZE, status=503, retry_after=9, times=1)
        w.write_config(template(), manager(minimum=5))
        await w.until(lambda: has_fired(w), every=0.1)
        (group,) = [name.partition("/")[2] for name in await w.groups()]
        request = "11111111-1111-4111-8111-111111111111"
        path = f"zones/{ZONE}/instanceGroupManagers/{group}/resize?size=12&requestId={request}"
        await w.compute("POST", path)
        await w.pass_time(1)
        held = [await w.lease(f"r{index}", duration=100_000) for index in range(3)]
        await w.pass_time(120)
        vms = await w.vms()
        assert len(vms) == 12
        assert set(held) <= set(vms)


async def test_addition_that_lands_late_finds_its_machine_alive(tmp_path: Path) -> None:
    """A machine whose addition has no answer yet is not taken for absent at once."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=both(), start=False) as w:
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


async def test_roll_out_goes_on_past_old_machines_that_were_never_added(tmp_path: Path) -> None:
    """No room, and the Machine Provider failed while the old revision was added."""
    managers = manager(minimum=3, maximum=3)
    async with world(tmp_path, managers=managers, start=False) as w:
        await w.inject(ADD, status=503, times=None)
        await w.start_daemon()
        await w.until_states(running=3)
        old = set(await w.vms())
        w.write_config(template(machine_type="e2-medium"), managers)
        await w.pass_time(10)
        await w.clear_faults()
        await w.until_states(cataloged=3, within=1800)
        assert not old & set(await w.vms())


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
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=both(2, 2), start=False) as w:
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
        assert "take it out of the catalog" in shown["reason"]
        gone = {"dimensions": {"backend": "GCE", "hostname": victims[1]}}
        await w.broker("catalog.delete_machine", gone)
        await w.until(lambda: nothing_of(w, "linux"), within=1800)


async def test_entry_that_somebody_else_put_in_place_of_ours_stays_theirs(tmp_path: Path) -> None:
    """Our entry is gone, and another has the host name: the sweep sees whose it is."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=both(2, 2)) as w:
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


async def test_entity_of_another_release_spoils_only_itself(tmp_path: Path) -> None:
    """A state that this release does not know: its machine is left alone, the others go on."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        shown = (await w.machines())[0]
        path = [
            {"kind": "InstanceTemplate", "name": shown["template"]},
            {"kind": "InstanceTemplateRevision", "name": shown["revision"]},
            {"kind": "InstanceGroupManager", "name": shown["zone"]},
            {"kind": "Instance", "name": shown["name"]},
        ]
        key = {"partitionId": {"projectId": PROJECT}, "path": path}
        properties = {"catalog": {"stringValue": "a-state-of-the-next-release"}}
        mutation = {"upsert": {"key": key, "properties": properties}}
        body = {"mode": "NON_TRANSACTIONAL", "mutations": [mutation]}
        await w.call("POST", f"/v1/projects/{PROJECT}:commit", body)
        await w.restart_daemon()
        await w.until_states(cataloged=2)
        await w.pass_time(120)
        assert shown["name"] in await w.vms()
        assert shown["name"] in str((await w.get("/api/fleet"))["corrupt"])
        async with w.session.get(w.daemon.url + "/readyz") as response:
            assert response.status == 200
        w.write_config(template(), manager(minimum=4))
        await w.until_states(cataloged=3)


async def test_machine_provider_that_hangs_does_not_keep_messages_waiting(tmp_path: Path) -> None:
    """The sweep waits for it; what the messages say is done all the same."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        get = "machine_provider.catalog.get"
        await w.inject(get, kind="latency", seconds=1000.0, times=None)
        await w.pass_time(130)
        await w.release()

        async def is_over() -> bool:
            return not await w.is_in(name, "leased")

        assert await w.until(is_over, within=60) <= 15
        assert (await job(w, "process-pubsub-messages"))["consecutive_failures"] == 0
        assert await w.fired() >= 1


async def test_configuration_that_does_not_fit_the_store_is_refused_with_its_size(
    tmp_path: Path,
) -> None:
    """The last good one stays in force, and the reason is shown."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        texts = []
        for index in range(6):
            (w.config_dir / f"f{index}.sh").write_text("x" * 200_000)
            field = f'  metadata_from_file: "k:f{index}.sh"\n}}\n'
            texts.append(template(f"t{index}").rstrip().removesuffix("}") + field)
        w.write_config("".join(texts), manager("t0"))
        await w.pass_time(30)
        (condition,) = (await w.get("/api/fleet"))["configuration"]["conditions"]
        assert condition["reason"] == "InvalidConfiguration"
        assert "bytes" in condition["message"]
        assert await w.states() == {"cataloged": 3}


async def test_one_trouble_of_many_machines_is_one_line(tmp_path: Path) -> None:
    """300 machines, 20 calls a minute: the log stays readable."""
    settings = Settings(compute=ComputeSettings(calls_per_minute=20))
    with capture_logs() as logs:
        async with world(tmp_path, managers=manager(minimum=300), settings=settings) as w:
            await w.until_states(cataloged=300)
            logs.clear()
            await w.pass_time(300)
            warnings = [line for line in logs if line["log_level"] in {"warning", "error"}]
    assert len(warnings) < 150
    assert max(len(str(line)) for line in warnings) < 4000
