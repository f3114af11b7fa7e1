"""What becomes of machines that the catalog does not know, by a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gce_backend.cli.comparison import look
from gce_backend.clients.config_source import ConfigBundle
from gce_backend.settings.settings import MachineProviderSettings, Settings
from support.fleet_harness import World, manager, template, world

WAIT = Settings(
    machine_provider=MachineProviderSettings(
        sweep_per_minute=600, lost_seconds=10.0, lost_machines="wait"
    )
)


async def _forgotten(w: World) -> str:
    """A machine whose entry somebody took out of the catalog."""
    await w.until_states(cataloged=1)
    [name] = await w.vms()
    await w.broker("catalog.delete_machine", {"dimensions": {"hostname": name}})
    await w.until(lambda: _says(w, name, f"`gce-backend drain {name}`"))
    return name


async def _says(w: World, name: str, words: str) -> bool:
    problems = (await w.get("/api/status"))["problems"]
    return any(
        p["reason"] == "AwaitsDrain" and name in p["examples"] and words in p["message"]
        for p in problems
    )


async def _planned(w: World, lost_machines: Literal["delete", "wait"]) -> str:
    """What `plan` notes under this setting."""
    broker = MachineProviderSettings(lost_machines=lost_machines)
    async with w.fleet() as fleet:
        bundle = ConfigBundle("r", template(), manager(minimum=1), {})
        found = look(Settings(machine_provider=broker), fleet, bundle, {})
    return " ".join(found.notes)


async def test_hole_11_an_unknown_machine_waits_for_an_operator_where_the_settings_say_so(
    tmp_path: Path,
) -> None:
    """Its conditions, its page and its state say what to do; one command has it deleted."""
    async with world(tmp_path, managers=manager(minimum=1), settings=WAIT) as w:
        name = await _forgotten(w)
        await w.pass_time(3600)
        assert name in await w.vms()
        explained = await w.get(f"/api/explain?name={name}")
        assert f"`gce-backend drain {name}`" in str(explained)
        problems = (await w.get("/api/status"))["problems"]
        assert not any("It is deleted" in p["message"] for p in problems)
        kept, deleted = await _planned(w, "wait"), await _planned(w, "delete")
        assert "1 in all, are kept until each is drained" in kept
        assert "1 in all, are deleted within the cap" in deleted
        assert await w.act("/api/drain", {"name": name}) == 200
        await w.until(lambda: w.lacks(name))
        await w.until_states(cataloged=1)
        assert not await _says(w, name, "")


async def test_hole_11_an_unknown_machine_that_drains_waits_for_an_operator_too(
    tmp_path: Path,
) -> None:
    """A change of the configuration is not an operator's word about that machine."""
    async with world(tmp_path, managers=manager(minimum=1), settings=WAIT) as w:
        name = await _forgotten(w)
        w.write_config(template(machine_type="e2-medium"), manager(minimum=1))
        await w.until_states(cataloged=1, draining=1)
        await w.pass_time(1800)
        assert name in await w.vms()
        assert await _says(w, name, "drain")
        assert await w.act("/api/drain", {"name": name}) == 200
        await w.until(lambda: w.lacks(name))


async def test_hole_11_an_unknown_machine_that_the_catalog_holds_again_waits_for_nobody(
    tmp_path: Path,
) -> None:
    """The Machine Provider was restored, and brought up to date."""
    async with world(tmp_path, managers=manager(minimum=1), settings=WAIT) as w:
        await w.until_states(cataloged=1)
        [name] = await w.vms()
        await w.inject("machine_provider.catalog.get", status=404, reason="notFound", times=None)
        await w.until(lambda: _says(w, name, "drain"))
        await w.clear_faults()
        await w.until_states(cataloged=1)
        await w.pass_time(61)
        assert not await _says(w, name, "")
        assert name in await w.vms()
