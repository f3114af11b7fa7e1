"""A machine is cordoned: it is not offered, and its VM stays whatever else happens."""

from __future__ import annotations

from pathlib import Path

from gce_backend.model.entities import CatalogState, Permit
from gce_backend.rules.orders import cordon
from gce_backend.settings.settings import DeletionSettings
from stories.test_drain_one import EACH_MINUTE, by_command, permit_of, replaced, shown
from stories.test_stopped_machines import stop
from support.deletions import entity, settings, two_templates
from support.fleet_harness import World, template, world

LONG = 1200.0


async def order(w: World, name: str, reason: str = "") -> None:
    """Cordons a machine."""
    assert await w.act("/api/cordon", {"name": name, "reason": reason}) == 200


async def release(w: World, name: str) -> None:
    """Ends the cordon."""
    assert await w.act("/api/uncordon", {"name": name}) == 200


async def test_an_idle_machine_leaves_the_catalog_and_its_vm_stays(tmp_path: Path) -> None:
    """Its group makes no other; it is offered again when the cordon ends. Nothing is forgotten."""
    async with world(tmp_path, crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        before = {name: vm["id"] for name, vm in (await w.vms()).items()}
        name = min(before)
        await order(w, name, "its disk rattles")

        async def out() -> bool:
            found = entity(w, name)
            return found is not None and found.catalog is CatalogState.REMOVED

        await w.until(out)
        await w.restart_daemon()
        await w.until_states(cataloged=2, cordoned=1)
        await w.pass_time(LONG)
        assert {name: vm["id"] for name, vm in (await w.vms()).items()} == before
        assert name not in await w.catalog()
        assert await shown(w, name) == ("cordoned", "Cordoned by operator: its disk rattles")
        problems = (await w.get("/api/status"))["problems"]
        assert [(one["reason"], one["severity"]) for one in problems] == [("Cordoned", "notice")]
        await release(w, name)
        await w.until_states(cataloged=3)
        assert {name: vm["id"] for name, vm in (await w.vms()).items()} == before
        events = (await w.get(f"/api/events?name={name}"))["events"]
        told = {(event["cause"], event["reason"]) for event in events}
        assert ("operator cordon", "Cordoned by operator: its disk rattles") in told
        assert ("operator uncordon", "An operator uncordoned it.") in told


async def test_a_leased_machine_is_kept_after_the_machine_provider_reclaims_it(
    tmp_path: Path,
) -> None:
    """The permit RECLAIMED waits for the end of the cordon."""
    async with world(tmp_path, crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        vm = (await w.vms())[name]["id"]
        await order(w, name)
        await w.pass_time(600)
        assert (await w.catalog())[name] == "LEASED"
        assert "It leaves the catalog after its lease ends" in (await shown(w, name))[1]
        await w.release()
        await w.until_states(cataloged=2, cordoned=1)
        await w.pass_time(LONG)
        assert (await w.vms())[name]["id"] == vm
        assert permit_of(w, name) is None
        await release(w, name)
        await w.until(replaced(w, name))
        assert permit_of(w, name) is Permit.RECLAIMED


async def test_what_the_configuration_drops_stays_while_it_is_cordoned(tmp_path: Path) -> None:
    """The others of its group go, its group and its template wait for it; then they go, too."""
    both = template() + template("other")
    async with world(tmp_path, templates=both, managers=two_templates()) as w:
        await w.until_states(cataloged=6)
        name = min(name for name in await w.vms() if name.startswith("other"))
        await order(w, name)
        await w.until_states(cataloged=5, cordoned=1)
        w.write_config(both, two_templates(other=False))
        await w.until_states(cataloged=3, cordoned=1, within=1200)
        await w.pass_time(LONG)
        assert name in await w.vms()
        assert len(await w.groups()) == 2
        await release(w, name)
        await w.until_states(cataloged=3, within=1200)
        assert name not in await w.vms()


async def test_a_drained_machine_can_still_be_kept_and_a_deleted_one_cannot(
    tmp_path: Path,
) -> None:
    """The cordon wins over a drain that has not come to the deletion."""
    no_deletions = DeletionSettings(permitted_count=0, permitted_share=0.0)
    async with world(tmp_path, settings=settings(no_deletions), crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        first, second = sorted(await w.vms())[:2]
        for name in (first, second):
            assert await w.act("/api/drain", {"name": name}) == 200
        await w.until_states(cataloged=1, draining=2)
        await by_command(w, first, lambda key, now: cordon(key, "a look", now))
        assert await w.act("/api/lift-cap", {"seconds": 600}) == 200
        await w.until(replaced(w, second, 2))
        await w.pass_time(600)
        assert first in await w.vms()
        found = entity(w, first)
        assert found is not None
        assert found.deletion is None
        assert await w.act("/api/cordon", {"name": second}) == 404


async def test_a_cordoned_machine_that_is_stopped_is_looked_at_in_peace(tmp_path: Path) -> None:
    """Whoever repairs a disk stops the VM: it is neither replaced nor told of as a loss."""
    async with world(tmp_path, crons=EACH_MINUTE) as w:
        await w.until_states(cataloged=3)
        before = await w.vms()
        name = min(before)
        await order(w, name, "repair")
        await w.until_states(cataloged=2, cordoned=1)
        await stop(w, name)
        await w.until_states(cataloged=2, stopped=1, within=1200)
        await w.pass_time(LONG)
        assert (await w.vms()).keys() == before.keys()
        told = {one["reason"] for one in (await w.get("/api/status"))["problems"]}
        assert "Stopped" not in told
