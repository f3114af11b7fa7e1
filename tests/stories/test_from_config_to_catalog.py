"""From an empty store to cataloged: what is created, what the catalog says, and how soon."""

from __future__ import annotations

import shutil
from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import Settings
from support.every_field import (
    active_revision,
    instance_template,
)
from support.fleet_harness import ZONE, manager, template, world

EXAMPLE = Path(__file__).parents[2] / "config"


async def test_everything_created_says_whose_it_is(tmp_path: Path) -> None:
    """Labels on VMs and templates, descriptions on templates and groups."""
    settings = Settings(owner="fleet-of-tests")
    async with world(tmp_path, settings=settings) as w:
        await w.until_states(cataloged=3)
        revision = await active_revision(w, "linux")
        made = await instance_template(w, "linux")
        store_id = (await w.mark()).store
        description = (
            "gce-backend owner=fleet-of-tests template=linux "
            f"revision={revision['revision']} store={store_id}"
        )
        labels = {
            "gce-backend-owner": "fleet-of-tests",
            "gce-backend-store": store_id,
            "gce-backend-template": "linux",
            "gce-backend-revision": revision["revision"][:8],
        }
        assert made["description"] == description
        assert made["properties"]["labels"].items() >= labels.items()
        group = revision["managers"][0]["group"]
        found = await w.compute("GET", f"zones/{ZONE}/instanceGroupManagers/{group}")
        assert found["description"] == description
        for name in await w.vms():
            vm = await w.compute("GET", f"zones/{ZONE}/instances/{name}")
            assert vm["labels"].items() >= labels.items()


async def example(tmp_path: Path, options: CloudOptions) -> float:
    """Seconds from the daemon's start until the example fleet is cataloged."""
    config = tmp_path / "config"
    shutil.copytree(EXAMPLE, config)
    templates, managers = (EXAMPLE / name for name in ("templates.cfg", "managers.cfg"))
    async with world(
        tmp_path,
        templates=templates.read_text(),
        managers=managers.read_text(),
        options=options,
        start=False,
    ) as w:
        began = w.clock.monotonic()
        await w.start_daemon()

        async def all_cataloged() -> bool:
            return (await w.states()) == {"cataloged": 12}

        await w.until(all_cataloged, every=0.1)
        assert len(await w.groups()) == 4
        assert len(await w.vms()) == 12
        return w.clock.monotonic() - began


async def test_the_example_fleet_is_cataloged_within_thirty_seconds(tmp_path: Path) -> None:
    """With the embedded cloud's default latencies: no job waits for a minute to turn."""
    assert await example(tmp_path, CloudOptions()) <= 30.0


async def test_the_example_fleet_is_cataloged_within_three_seconds_without_latencies(
    tmp_path: Path,
) -> None:
    """What remains is the daemon's own waiting."""
    assert await example(tmp_path, CloudOptions().instant()) <= 3.0


async def test_templates_without_a_name_in_common_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    """What Compute refuses stays where it is, with its reason; the other one is cataloged."""
    two = template("good") + template("bad", image_name="missing-image")
    async with world(tmp_path, templates=two, managers=manager("good") + manager("bad")) as w:
        await w.until_states(cataloged=3)
        assert {m["template"] for m in await w.machines()} == {"good"}
        fleet = await w.get("/api/fleet")
        bad = next(t for t in fleet["templates"] if t["base_name"] == "bad")
        [revision] = bad["revisions"]
        assert revision["state"] == "failing"
        assert "missing-image" in revision["reason"]
