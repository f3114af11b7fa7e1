"""create-instance-templates: what an instance template holds, and whose it may be."""

from __future__ import annotations

from pathlib import Path

from gce_backend.configuration.naming import template_name
from gce_backend.settings.settings import FetchSettings, Settings
from support.every_field import (
    EVERY_FIELD,
    ONE_OF_EACH,
    instance_template,
    write_script,
)
from support.fleet_harness import PROJECT, ZONE, manager, world
from support.fleet_views import compute_templates, plain_revision, shown
from support.outside import cataloged, make_template, whole
from support.two_templates import BOTH, LINUX_AND_WIN, MANAGERS, of_template

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SOON = Settings(fetch=FetchSettings(resync_seconds=30))
"""Looks at what did not change twice a minute, so that tests are short."""


async def test_create_instance_templates(tmp_path: Path) -> None:
    """What the spec says of create-instance-templates.

    "Ensures a GCE instance template exists for each template in the
    config. Updates models.InstanceTemplateRevisions with the URL of the created instance template."
    """
    async with world(
        tmp_path, templates=LINUX_AND_WIN, managers=manager("linux") + manager("win")
    ) as w:
        await w.until_states(cataloged=6)
        names = await compute_templates(w)
        assert len(names) == 2
        urls = [(await shown(w, base))["revisions"][0]["url"] for base in ("linux", "win")]
        assert [url.rpartition("/")[2] for url in urls] == names


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
        disk, cache, kept, local = made["disks"]
        assert cache["initializeParams"]["labels"].items() >= {("contents", "cache")}
        assert (cache["autoDelete"], kept["autoDelete"]) == (True, False)
        assert (local["type"], made["labels"]["team"]) == ("SCRATCH", "infra")
        assert made["guestAccelerators"][0]["acceleratorType"].endswith("nvidia-tesla-t4")
        assert made["shieldedInstanceConfig"]["enableSecureBoot"]
        assert made["confidentialInstanceConfig"]["confidentialInstanceType"] == "SEV"
        assert made["reservationAffinity"]["values"] == ["held"]
        assert made["resourcePolicies"] == ["near"]
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


async def test_hazard_18_template_deleted_outside_is_made_again(tmp_path: Path) -> None:
    """Compute refuses it while a group uses it: group and template go, both come again."""
    async with world(tmp_path, settings=SOON) as w:
        before = await cataloged(w, 3)
        templates = (await w.cloud_state())["compute"]["projects"][PROJECT]["instanceTemplates"]
        group = next(iter(await w.groups())).split("/")[1]
        await w.compute("DELETE", f"zones/{ZONE}/instanceGroupManagers/{group}")

        async def gone() -> bool:
            return not await w.groups()

        await w.until(gone, every=0.01)
        answer = await w.compute("DELETE", f"global/instanceTemplates/{templates[0]}")
        assert "error" not in answer
        await w.pass_time(1)
        await w.until(whole(w, 3, without=set(before)), within=900)
        state = (await w.cloud_state())["compute"]["projects"][PROJECT]
        assert state["instanceTemplates"] == [f"{templates[0]}-g1"]


async def test_a_template_of_our_name_that_is_not_ours_is_not_adopted(tmp_path: Path) -> None:
    """NameTaken is shown; theirs stays as it is; once they delete it, ours is made."""
    name = template_name("linux", plain_revision())
    async with world(tmp_path, start=False) as w:
        await make_template(w, name)
        await w.start_daemon()
        await w.pass_time(30.0)
        fleet = await w.get("/api/fleet")
        [shown] = fleet["templates"][0]["revisions"]
        assert [c["reason"] for c in shown["conditions"]] == ["NameTaken"]
        assert name in shown["reason"]
        assert not await w.groups()
        theirs = await w.compute("GET", f"global/instanceTemplates/{name}")
        assert not theirs.get("description")
        await w.compute("DELETE", f"global/instanceTemplates/{name}")
        await w.until_states(cataloged=3)


async def test_hazard_21_template_without_managers_is_made_and_stays_without_machines(
    tmp_path: Path,
) -> None:
    """It stops nothing and nobody; its first manager finds it ready."""
    async with world(tmp_path, templates=BOTH, managers=manager()) as w:
        await w.until_states(cataloged=3)
        assert [
            r["state"] for r in (await of_template(w, "other"))["entities"][0]["revisions"]
        ] == ["active"]
        jobs = (await w.get("/api/jobs"))["jobs"]
        assert all(job["consecutive_failures"] == 0 for job in jobs)
        w.write_config(BOTH, MANAGERS)
        await w.until_states(cataloged=7)
