"""A test for each job, with the sentence of the spec that it proves in its docstring.

The metadata jobs are in `test_metadata.py`, process-pubsub-messages in `test_messages.py`, the two
jobs that delete instances in `test_deleting.py`, cleanup-entities in `test_cleanup.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world

TWO = template("linux") + template("win")


async def shown(w: World, base_name: str) -> dict[str, Any]:
    """What `/api/fleet` says of a template; {} when it does not know it."""
    templates = (await w.get("/api/fleet")).get("templates", [])
    found: list[dict[str, Any]] = [t for t in templates if t["base_name"] == base_name]
    return found[0] if found else {}


async def compute_templates(w: World) -> list[str]:
    """The instance templates that exist at Compute."""
    answer = await w.compute("GET", "global/instanceTemplates")
    return sorted(item["name"] for item in answer.get("items", ()))


async def test_import_config(tmp_path: Path) -> None:
    """What the spec says of import-config.

    "When a new config is detected, the local copy of the config in the datastore
    is updated."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = (await w.get("/api/fleet"))["configuration"]["revision"]
        w.write_config(template() + "# nothing but a comment\n", manager())

        async def is_new() -> bool:
            return bool((await w.get("/api/fleet"))["configuration"]["revision"] != before)

        await w.until(is_new, within=60)
        path = [{"kind": "Configuration", "name": "singleton"}]
        key = {"partitionId": {"projectId": PROJECT}, "path": path}
        answer = await w.call("POST", f"/v1/projects/{PROJECT}:lookup", {"keys": [key]})
        stored = answer["found"][0]["entity"]["properties"]["template_config"]["stringValue"]
        assert stored == (w.config_dir / "templates.cfg").read_text()


async def test_process_config(tmp_path: Path) -> None:
    """What the spec says of process-config.

    "Each time a template in templates.cfg with the same name has its other
    fields changed a new models.InstanceTemplateRevision is created for it." "At most one instance
    group manager in each zone may exist for each template."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        (first,) = (await shown(w, "linux"))["revisions"]
        w.write_config(template(disk_size_gb=30), manager() + manager(zone=OTHER_ZONE, minimum=1))

        async def has_two() -> bool:
            return len((await shown(w, "linux"))["revisions"]) == 2

        await w.until(has_two, within=60, every=0.1)
        revisions = {r["revision"]: r for r in (await shown(w, "linux"))["revisions"]}
        assert revisions[first["revision"]]["state"] == "draining"
        (new,) = [r for name, r in revisions.items() if name != first["revision"]]
        assert [group["zone"] for group in new["managers"]] == [OTHER_ZONE, ZONE]


async def test_create_instance_templates(tmp_path: Path) -> None:
    """What the spec says of create-instance-templates.

    "Ensures a GCE instance template exists for each template in the
    config. Updates models.InstanceTemplateRevisions with the URL of the created instance template."
    """
    async with world(tmp_path, templates=TWO, managers=manager("linux") + manager("win")) as w:
        await w.until_states(cataloged=6)
        names = await compute_templates(w)
        assert len(names) == 2
        urls = [(await shown(w, base))["revisions"][0]["url"] for base in ("linux", "win")]
        assert [url.rpartition("/")[2] for url in urls] == names


async def test_create_instance_group_managers(tmp_path: Path) -> None:
    """What the spec says of create-instance-group-managers.

    "Waits for an instance template to exist for the template the
    manager is configured to use before attempting to create the instance group manager."
    """
    insert = "compute.instanceTemplates.insert"
    async with world(tmp_path, start=False) as w:
        await w.inject(insert, status=503, times=None)
        await w.start_daemon()
        await w.pass_time(120)
        assert await w.fired() > 1
        assert (await w.calls())["compute.instanceGroupManagers.insert"] == 0
        await w.clear_faults()
        await w.until_states(cataloged=3)
        (group,) = (await shown(w, "linux"))["revisions"][0]["managers"]
        assert f"{ZONE}/{group['group']}" in await w.groups()
        assert group["url"].endswith(f"/zones/{ZONE}/instanceGroupManagers/{group['group']}")


async def test_fetch_instances(tmp_path: Path) -> None:
    """What the spec says of fetch-instances.

    "Fetches the list of instances created by each instance group manager,
    creating a models.Instance for each one."
    """
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=both) as w:
        await w.until_states(cataloged=5)
        entities = {(machine["name"], machine["id"]) for machine in await w.machines()}
        assert entities == {(name, str(vm["id"])) for name, vm in (await w.vms()).items()}


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


async def test_resize_instance_groups(tmp_path: Path) -> None:
    """What the spec says of resize-instance-groups.

    "Embiggens a GCE managed instance group whose size has fallen below
    the minimum configured size."
    """
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        (group,) = [name.partition("/")[2] for name in await w.groups()]
        request = "11111111-1111-4111-8111-111111111111"
        path = f"zones/{ZONE}/instanceGroupManagers/{group}/resize?size=1&requestId={request}"
        await w.compute("POST", path)

        async def is_full() -> bool:
            sizes = [found["targetSize"] for found in (await w.groups()).values()]
            return sizes == [3] and (await w.states())["cataloged"] == 3

        await w.until(is_full, within=900)


async def test_remove_cataloged_instances(tmp_path: Path) -> None:
    """What the spec says of remove-cataloged-instances.

    "Removes each models.Instance from the Machine Provider catalog
    that wasn't created from an instance template currently referenced in the config."
    """
    managers = manager("linux") + manager("win", minimum=4)
    async with world(tmp_path, templates=TWO, managers=managers) as w:
        await w.until_states(cataloged=7)
        w.write_config(template("win"), manager("win", minimum=4))

        async def only_win() -> bool:
            return all(name.startswith("win") for name in await w.catalog())

        await w.until(only_win, within=60)
        assert len(await w.catalog()) == 4


async def test_delete_instance_group_managers(tmp_path: Path) -> None:
    """What the spec says of delete-instance-group-managers.

    "Deletes GCE instance group managers that aren't found in the
    config and have no instances created from them."
    """
    templates = template("linux", disk_size_gb=30) + template("win")
    managers = manager("linux") + manager("win", minimum=4)
    async with world(tmp_path, templates=templates, managers=managers) as w:
        await w.until_states(cataloged=7)
        await w.lease(disk_gb=30)
        w.write_config(template("win"), manager("win", minimum=4))
        await w.pass_time(300)
        assert sorted(name.partition("/")[2][:3] for name in await w.groups()) == ["lin", "win"]
        await w.release()

        async def one_group() -> bool:
            return [name.partition("/")[2][:3] for name in await w.groups()] == ["win"]

        await w.until(one_group)


async def test_delete_instance_templates(tmp_path: Path) -> None:
    """What the spec says of delete-instance-templates.

    "Deletes GCE instance templates that aren't found in the config
    and have no instance group managers configured to use them."
    """
    managers = manager("linux") + manager("win", minimum=4)
    async with world(tmp_path, templates=TWO, managers=managers) as w:
        await w.until_states(cataloged=7)
        await w.inject("compute.instanceGroupManagers.delete", status=503, times=None)
        w.write_config(template("win"), manager("win", minimum=4))
        await w.pass_time(300)
        assert await w.fired() > 0
        assert len(await compute_templates(w)) == 2  # a group uses it still
        await w.clear_faults()

        async def one_template() -> bool:
            return [name.startswith("win") for name in await compute_templates(w)] == [True]

        await w.until(one_template, within=900)
