"""rules.compute_bodies: what is sent to Compute, with the mark that says whose it is."""

from __future__ import annotations

from typing import Any

import pytest

from gce_backend.configuration.types import AdditionalDisk, TemplateConfig
from gce_backend.model.keys import manager_key, revision_key
from gce_backend.rules.compute_bodies import (
    group_body,
    group_name_of,
    template_body,
    template_name_of,
)
from gce_backend.rules.ownership import Mark

ME = Mark("me", "0123456789ab")
CHECKSUM = "0123456789abcdef" * 2 + "01234567"
REVISION = revision_key("linux", CHECKSUM)
MANAGER = manager_key("linux", CHECKSUM, "us-central1-a")
PLAIN: dict[str, Any] = {
    "base_name": "linux",
    "project": "p",
    "machine_type": "e2-small",
    "image_name": "debian-12",
}


def properties(found_snapshot: str | None = None, **fields: Any) -> dict[str, Any]:
    """What the VMs of a template are like."""
    template = TemplateConfig(**{**PLAIN, **fields})
    found: dict[str, Any] = template_body(ME, REVISION, template, found_snapshot)["properties"]
    return found


def test_everything_says_whose_it_is() -> None:
    """Names follow from the key; the mark holds owner, store, template, the whole checksum."""
    mark = f"gce-backend owner=me template=linux revision={CHECKSUM} store=0123456789ab"
    template = template_body(ME, REVISION, TemplateConfig(**PLAIN))
    group = group_body(ME, MANAGER, "p", 3, template["name"])
    assert template["description"] == group["description"] == mark
    assert (template["name"], group["name"]) == (
        template_name_of(REVISION, 0),
        group_name_of(MANAGER, 0),
    )
    assert template["properties"]["labels"] == {
        "gce-backend-owner": "me",
        "gce-backend-store": "0123456789ab",
        "gce-backend-template": "linux",
        "gce-backend-revision": CHECKSUM[:8],
    }


def test_fault_34_a_group_never_repairs_and_is_listed_in_pages() -> None:
    """What it would recreate may be leased."""
    group = group_body(ME, MANAGER, "p", 3, "linux-01234567")
    assert group["instanceLifecyclePolicy"] == {"defaultActionOnFailure": "DO_NOTHING"}
    assert group["listManagedInstancesResults"] == "PAGINATED"
    assert group["targetSize"] == 3
    assert group["instanceTemplate"] == "projects/p/global/instanceTemplates/linux-01234567"
    assert "autoHealingPolicies" not in group


@pytest.mark.parametrize(
    ("fields", "found", "sources"),
    [
        ({}, None, ["projects/p/global/images/debian-12"]),
        (
            {"image_project": "debian-cloud"},
            None,
            ["projects/debian-cloud/global/images/debian-12"],
        ),
        (
            {"snapshot_name": "checkout"},
            None,
            ["projects/p/global/images/debian-12", "projects/p/global/snapshots/checkout"],
        ),
        (
            {"snapshot_labels": (("age", "new"),)},
            "newest",
            ["projects/p/global/images/debian-12", "projects/p/global/snapshots/newest"],
        ),
        (
            {"image_name": "", "boot_snapshot_name": "system"},
            None,
            ["projects/p/global/snapshots/system"],
        ),
    ],
)
def test_hazard_06_every_disk_is_deleted_with_its_vm(
    fields: dict[str, Any], found: str | None, sources: list[str]
) -> None:
    """The boot disk is the first; a second one is made from a snapshot."""
    disks = properties(found, **fields)["disks"]
    parameters = [disk["initializeParams"] for disk in disks]
    assert [one.get("sourceImage") or one.get("sourceSnapshot") for one in parameters] == sources
    assert [disk["boot"] for disk in disks] == [True, False][: len(disks)]
    assert all(disk["autoDelete"] for disk in disks)


@pytest.mark.parametrize(
    ("url", "interface"),
    [
        ("", {"network": "projects/p/global/networks/default"}),
        ("global/networks/inner", {"network": "projects/p/global/networks/inner"}),
        ("projects/q/global/networks/n", {"network": "projects/q/global/networks/n"}),
        (
            "regions/us-central1/subnetworks/s",
            {"subnetwork": "projects/p/regions/us-central1/subnetworks/s"},
        ),
    ],
)
def test_a_network_is_in_the_templates_project_unless_it_names_another(
    url: str, interface: dict[str, str]
) -> None:
    """And a subnetwork is said to be one."""
    assert properties(network_url=url)["networkInterfaces"] == [interface]


def test_only_what_is_given_is_sent() -> None:
    """Sizes are strings, as Compute Engine's JSON has 64-bit numbers; what is unset is left out."""
    bare = properties()
    assert "minCpuPlatform" not in bare
    assert "tags" not in bare
    assert "accessConfigs" not in bare["networkInterfaces"][0]
    full = properties(
        disk_size_gb=25,
        disk_type="pd-ssd",
        tags=("one", "two"),
        min_cpu_platform="Intel Ice Lake",
        auto_assign_external_ip=True,
        metadata=(("colour", "blue"),),
        labels=(("team", "infra"),),
        local_ssds=2,
        guest_accelerators=(("nvidia-tesla-t4", "2"),),
        secure_boot=True,
        confidential_type="SEV",
        reservation="held",
        resource_policies=("near",),
    )
    assert full["labels"]["team"] == full["disks"][0]["initializeParams"]["labels"]["team"]
    assert [disk["type"] for disk in full["disks"]] == ["PERSISTENT", "SCRATCH", "SCRATCH"]
    accelerators = [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 2}]
    assert full["guestAccelerators"] == accelerators
    assert full["scheduling"] == {"onHostMaintenance": "TERMINATE"}
    assert full["shieldedInstanceConfig"] == {"enableSecureBoot": True}
    assert full["confidentialInstanceConfig"] == {"confidentialInstanceType": "SEV"}
    assert full["reservationAffinity"]["values"] == ["held"]
    assert full["resourcePolicies"] == ["near"]
    disks = (
        AdditionalDisk(200, "pd-ssd", (("contents", "cache"), ("team", "build"))),
        AdditionalDisk(10, auto_delete=False),
    )
    made = properties(labels=(("team", "infra"),), additional_disks=disks, local_ssds=1)["disks"]
    cache, kept = made[1:3]
    labels = cache["initializeParams"].pop("labels")
    assert labels.keys() - full["labels"].keys() == {"contents"}
    assert (labels["contents"], labels["team"]) == ("cache", "build")
    assert cache == {
        "boot": False,
        "autoDelete": True,
        "type": "PERSISTENT",
        "initializeParams": {"diskSizeGb": "200", "diskType": "pd-ssd"},
    }
    assert (kept["autoDelete"], kept["initializeParams"]["diskSizeGb"]) == (False, "10")
    assert made[3]["type"] == "SCRATCH"
    spot = properties(provisioning_model="SPOT")["scheduling"]
    assert (spot["provisioningModel"], spot["instanceTerminationAction"]) == ("SPOT", "DELETE")
    assert full["disks"][0]["initializeParams"]["diskSizeGb"] == "25"
    assert full["disks"][0]["initializeParams"]["diskType"] == "pd-ssd"
    assert full["tags"] == {"items": ["one", "two"]}
    assert full["minCpuPlatform"] == "Intel Ice Lake"
    assert full["metadata"] == {"items": [{"key": "colour", "value": "blue"}]}
    assert full["networkInterfaces"][0]["accessConfigs"] == [
        {"type": "ONE_TO_ONE_NAT", "name": "External NAT"}
    ]
