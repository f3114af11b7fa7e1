"""actions.image_families: a new image of a family is a new revision, rolled out like any other."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import ZONE, World, manager, template, world
from support.outside import cataloged

METHOD = "compute.images.getFromFamily"
FAMILY = template(image_name="", image_family="tools")


async def publish(w: World, image: str) -> None:
    """Somebody makes a newer image of the family."""
    body = {"family": "tools", "image": image}
    async with w.session.put(f"{w.cloud.base_url}/_localcloud/images", json=body) as response:
        assert response.status == 200


async def images(w: World) -> set[str]:
    """The images that the machines' disks were made from."""
    disks = (await w.compute("GET", f"zones/{ZONE}/disks")).get("items", ())
    return {disk["sourceImage"].rpartition("/")[2] for disk in disks}


async def test_a_new_image_of_a_family_is_rolled_out_and_no_machine_gets_it_before(
    tmp_path: Path,
) -> None:
    """A released machine is made again from the old image; what cannot be looked up stays.

    While Compute does not answer, the rest of the configuration comes into force.
    """
    managers = manager(minimum=2)
    async with world(tmp_path, templates=FAMILY, managers=managers, options=CloudOptions()) as w:
        await publish(w, "tools-v1")
        before = await cataloged(w, 2)
        assert await images(w) == {"tools-v1"}
        await w.inject(METHOD, kind="latency", seconds=3600.0, times=None)
        await publish(w, "tools-v2")
        name = await w.lease()
        await w.release()
        await w.until(lambda: w.is_in(name, "deleted"))
        w.write_config(FAMILY, manager(minimum=3))
        await w.pass_time(700)
        assert len(await w.vms()) == 3
        assert await images(w) == {"tools-v1"}
        assert "newest of the family" in str((await w.get("/api/status"))["problems"])
        await w.restart_daemon()
        await w.until_states(cataloged=3)
        assert await images(w) == {"tools-v1"}
        await w.clear_faults()

        async def rolled_out() -> bool:
            return await images(w) == {"tools-v2"} and len(await w.vms()) == 3

        await w.until(rolled_out, within=900, every=5)
        assert not before.keys() & (await w.vms()).keys()
        [told] = (await w.get("/api/explain?name=linux"))["found"]
        assert (told["facts"]["image"], told["facts"]["image_family"]) == ("tools-v2", "tools")
        events = (await w.get("/api/events?kind=configuration"))["events"]
        assert "local-project/tools is tools-v2" in str(events)
        assert not (await w.get("/api/status"))["problems"]


async def test_a_family_without_an_image_holds_up_its_own_template_alone(tmp_path: Path) -> None:
    """Its machines are made once it has one."""
    templates = FAMILY.replace("tools", "missing") + template("other")
    managers = manager(minimum=1) + manager("other", minimum=1)
    async with world(tmp_path, templates=templates, managers=managers) as w:
        await w.until_states(cataloged=1)
        [problem] = (await w.get("/api/status"))["problems"]
        assert "missing" in str(problem)
        w.write_config(FAMILY + template("other"), managers)
        await w.until_states(cataloged=2)
