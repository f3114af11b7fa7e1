"""From an empty store to cataloged: what is created, what the catalog says, and how soon."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import ConfigSettings, FetchSettings, Settings
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
EXAMPLE = Path(__file__).parents[2] / "config"

EVERY_FIELD = """
templates {
  base_name: "whole"
  project: "local-project"
  dimensions: "os_family:LINUX"
  dimensions: "linux_flavor:DEBIAN"
  dimensions: "os_version:12"
  image_name: "debian-12"
  image_project: "debian-cloud"
  disk_size_gb: 25
  disk_type: "pd-ssd"
  service_accounts {
    name: "first@local-project.iam.gserviceaccount.com"
    scopes: "https://www.googleapis.com/auth/cloud-platform"
  }
  service_accounts {
    name: "second@local-project.iam.gserviceaccount.com"
    scopes: "https://www.googleapis.com/auth/pubsub"
  }
  tags: "one"
  tags: "two"
  metadata: "colour:blue:green"
  metadata_from_file: "startup-script:scripts/start.sh"
  machine_type: "n2-custom-8-16384"
  min_cpu_platform: "Intel Ice Lake"
  network_url: "regions/us-central1/subnetworks/inner"
  auto_assign_external_ip: true
}
templates {
  base_name: "snapped"
  project: "local-project"
  dimensions: "os_family:LINUX"
  boot_snapshot_name: "system"
  snapshot_name: "checkout"
  snapshot_labels: "contents:checkout"
  snapshot_labels: "age:new"
  disk_type: "pd-balanced"
  service_accounts { name: "default" scopes: "https://www.googleapis.com/auth/pubsub" }
  machine_type: "e2-standard-4"
}
templates {
  base_name: "bare"
  project: "local-project"
  dimensions: "os_family:LINUX"
  image_name: "debian-12"
  service_accounts { name: "default" scopes: "https://www.googleapis.com/auth/pubsub" }
  machine_type: "e2-small"
}
"""
ONE_OF_EACH = "".join(manager(name, minimum=1) for name in ("whole", "snapped", "bare"))


def write_script(tmp_path: Path) -> None:
    """The file that the template's metadata come from."""
    scripts = tmp_path / "config" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "start.sh").write_text("#!/bin/sh\necho hello\n")


async def shown(w: World, base_name: str) -> dict[str, Any]:
    """A template's active revision as the daemon shows it."""
    fleet = await w.get("/api/fleet")
    found = next(t for t in fleet["templates"] if t["base_name"] == base_name)
    revision: dict[str, Any] = next(r for r in found["revisions"] if r["state"] == "active")
    return revision


async def instance_template(w: World, base_name: str) -> dict[str, Any]:
    """A template's instance template at Compute."""
    name = (await shown(w, base_name))["instance_template"]
    found: dict[str, Any] = await w.compute("GET", f"global/instanceTemplates/{name}")
    return found


async def entry_of(w: World, base_name: str) -> dict[str, Any]:
    """The catalog's entry of a template's only machine."""
    [machine] = await w.machines(base_name)
    found: dict[str, Any] = await w.broker(
        "catalog.get", {"backend": "GCE", "hostname": machine["name"]}
    )
    return found


async def test_every_field_of_a_template_reaches_the_instance_template(tmp_path: Path) -> None:
    """The fields of protocols.md, the later ones too, are in what is created at Compute."""
    write_script(tmp_path)
    async with world(tmp_path, templates=EVERY_FIELD, managers=ONE_OF_EACH) as w:
        await w.until_states(cataloged=3)
        made = (await instance_template(w, "whole"))["properties"]
        assert made["machineType"] == "n2-custom-8-16384"
        assert made["minCpuPlatform"] == "Intel Ice Lake"
        assert [(a["email"].split("@")[0], a["scopes"]) for a in made["serviceAccounts"]] == [
            ("first", [SCOPE]),
            ("second", ["https://www.googleapis.com/auth/pubsub"]),
        ]
        assert made["tags"]["items"] == ["one", "two"]
        assert {item["key"]: item["value"] for item in made["metadata"]["items"]} == {
            "colour": "blue:green",
            "startup-script": "#!/bin/sh\necho hello\n",
        }
        [interface] = made["networkInterfaces"]
        assert interface["subnetwork"].endswith(
            f"projects/{PROJECT}/regions/us-central1/subnetworks/inner"
        )
        assert interface["accessConfigs"][0]["type"] == "ONE_TO_ONE_NAT"
        [disk] = made["disks"]
        assert disk["boot"]
        assert disk["autoDelete"]
        parameters = disk["initializeParams"]
        assert parameters["sourceImage"].endswith("projects/debian-cloud/global/images/debian-12")
        assert parameters["diskSizeGb"] == "25"
        assert parameters["diskType"] == "pd-ssd"


async def test_snapshots_become_the_boot_disk_and_a_second_one(tmp_path: Path) -> None:
    """A template that boots from one names no image; one with neither network nor address has none.

    The other disk is made from snapshot_name, and like the first it is deleted with its VM.
    """
    write_script(tmp_path)
    async with world(tmp_path, templates=EVERY_FIELD, managers=ONE_OF_EACH) as w:
        await w.until_states(cataloged=3)
        snapped = (await instance_template(w, "snapped"))["properties"]
        parameters = [disk["initializeParams"] for disk in snapped["disks"]]
        assert [disk["sourceSnapshot"].rpartition("/global/")[2] for disk in parameters] == [
            "snapshots/system",
            "snapshots/checkout",
        ]
        assert not any("sourceImage" in disk for disk in parameters)
        assert [(disk["boot"], disk["autoDelete"]) for disk in snapped["disks"]] == [
            (True, True),
            (False, True),
        ]
        bare = (await instance_template(w, "bare"))["properties"]
        assert "minCpuPlatform" not in bare
        assert "accessConfigs" not in bare["networkInterfaces"][0]
        assert bare["networkInterfaces"][0]["network"].endswith("global/networks/default")


async def test_everything_created_says_whose_it_is(tmp_path: Path) -> None:
    """Labels on VMs and templates, descriptions on templates and groups: owner and revision."""
    settings = Settings(owner="fleet-of-tests")
    async with world(tmp_path, settings=settings) as w:
        await w.until_states(cataloged=3)
        revision = await shown(w, "linux")
        made = await instance_template(w, "linux")
        description = (
            f"gce-backend owner=fleet-of-tests template=linux revision={revision['revision']}"
        )
        labels = {
            "gce-backend-owner": "fleet-of-tests",
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


async def test_groups_are_paginated_and_never_repair_by_themselves(tmp_path: Path) -> None:
    """A group that repairs would recreate a leased VM; one without pages would not list it."""
    async with world(tmp_path, managers=manager() + manager(zone=OTHER_ZONE, minimum=1)) as w:
        await w.until_states(cataloged=4)
        groups = await w.groups()
        assert {place.partition("/")[0]: g["targetSize"] for place, g in groups.items()} == {
            ZONE: 3,
            OTHER_ZONE: 1,
        }
        for place in groups:
            zone, _, name = place.partition("/")
            found = await w.compute("GET", f"zones/{zone}/instanceGroupManagers/{name}")
            assert found["listManagedInstancesResults"] == "PAGINATED"
            assert found["instanceLifecyclePolicy"]["defaultActionOnFailure"] == "DO_NOTHING"
            assert not found.get("autoHealingPolicies")
            assert found["baseInstanceName"] == name


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
            "num_cpus": 8,
            "memory_gb": 16.0,
            "disk_gb": 25,
            "disk_type": "SSD",
        }
        # Without a size of its own the disk has the snapshot's or the image's: 10 GB here.
        assert (await entry_of(w, "snapped"))["dimensions"] == {
            **common,
            "hostname": names["snapped"],
            "num_cpus": 4,
            "memory_gb": 16.0,
            "disk_gb": 10,
            "disk_type": "SSD",
            "snapshot": "checkout",
            "snapshot_labels": ["contents:checkout", "age:new"],
        }
        assert (await entry_of(w, "bare"))["dimensions"] == {
            **common,
            "hostname": names["bare"],
            "num_cpus": 2,
            "memory_gb": 2.0,
            "disk_gb": 10,
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
        assert "not ours" in aside["reason"]
        await w.pass_time(600)
        assert (await w.states()) == {"cataloged": 2, "set-aside": 1}
        assert taken in await w.vms()


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


@pytest.mark.parametrize("source", ["luci-v1", "luci-v2"])
async def test_the_configuration_can_come_from_a_luci_config_service(
    tmp_path: Path, source: Literal["luci-v1", "luci-v2"]
) -> None:
    """Files, script included, arrive over the protocol that the settings name; changes follow."""
    write_script(tmp_path)
    settings = Settings(fetch=FetchSettings(poll_seconds=0.2))
    async with world(
        tmp_path, templates=EVERY_FIELD, managers=ONE_OF_EACH, settings=settings, start=False
    ) as w:
        w.settings = msgspec.structs.replace(w.settings, config=ConfigSettings(source=source))
        await w.start_daemon()
        await w.until_states(cataloged=3)
        calls = await w.calls()
        v1 = calls["luci_config.config.get_config"] + calls["luci_config.config.get_config_by_hash"]
        v2 = calls["luci_config.Configs.GetConfig"]
        assert (v1 > 0, v2 > 0) == (source == "luci-v1", source == "luci-v2")
        items = (await instance_template(w, "whole"))["properties"]["metadata"]["items"]
        assert {"key": "startup-script", "value": "#!/bin/sh\necho hello\n"} in items
        w.write_config(EVERY_FIELD, ONE_OF_EACH.replace("minimum_size: 1", "minimum_size: 2", 1))
        await w.until_states(cataloged=4, within=70.0)


async def test_an_unchanged_luci_config_costs_one_small_call_per_look(tmp_path: Path) -> None:
    """A quiet minute transfers no file again."""
    async with world(tmp_path, start=False) as w:
        w.settings = msgspec.structs.replace(w.settings, config=ConfigSettings(source="luci-v1"))
        await w.start_daemon()
        await w.until_states(cataloged=3)
        await w.reset_calls()
        await w.pass_time(60.0)
        calls = await w.calls()
        assert calls["luci_config.config.get_config"] > 0
        assert calls["luci_config.config.get_config_by_hash"] == 0


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
        assert revision["state"] == "creating"
        assert "missing-image" in revision["reason"]
