"""Races and wrecks: each of these once destroyed a held machine, or left something for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from gce_backend.settings.settings import ComputeSettings, Settings
from support.fleet_harness import PROJECT, World, manager, template, world

ADD = "machine_provider.catalog.add_machines"


async def job(w: World, name: str) -> dict[str, Any]:
    """A job's status."""
    jobs = (await w.get("/api/jobs"))["jobs"]
    found: dict[str, Any] = next(shown for shown in jobs if shown["name"] == name)
    return found


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


async def test_many_machines_that_wait_for_their_turn_are_no_trouble(tmp_path: Path) -> None:
    """300 machines, 20 calls a minute: the log says nothing of those that wait."""
    settings = Settings(compute=ComputeSettings(calls_per_minute=20))
    with capture_logs() as logs:
        async with world(tmp_path, managers=manager(minimum=300), settings=settings) as w:
            await w.until_states(cataloged=300)
            logs.clear()
            await w.pass_time(300)
            warnings = [line for line in logs if line["log_level"] in {"warning", "error"}]
    assert not warnings
