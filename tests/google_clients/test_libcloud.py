"""Apache Libcloud's driver for Compute Engine lists and inspects what the embedded cloud holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from libcloud.common.google import ResourceInUseError, ResourceNotFoundError
from libcloud.compute.drivers.gce import GCENodeDriver
from libcloud.compute.types import NodeState

from gce_backend.localcloud.faults import Fault, Faults
from google_clients.compute import OTHER_ZONE, ZONE, Compute
from google_clients.credentials import issued_token
from support.served_cloud import PROJECT, ServedCloud


@pytest.fixture(scope="module")
def driver(
    served: ServedCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GCENodeDriver]:
    """The driver; it knows one host only, so that it finds the cloud as its HTTP proxy."""
    cached = tmp_path_factory.mktemp("libcloud") / "token.json"
    write_token(served.url, cached)
    made = GCENodeDriver(
        "default",
        "no key",
        project=PROJECT,
        auth_type="GCE",
        credential_file=str(cached),
        secure=False,
        proxy_url=served.url,
    )
    yield made
    connection: Any = made.connection
    connection.connection.session.close()


def write_token(url: str, cached: Path) -> None:
    """Keeps a token of the metadata server where the driver keeps its own."""
    token, seconds = issued_token(url)
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    kept = {"access_token": token, "expire_time": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
    cached.write_text(json.dumps(kept))


def reason_of(error: Any) -> str:
    """The reason that Compute gave, where the driver keeps it."""
    reason: str = error.value["reason"]
    return reason


def test_zones_are_listed(driver: GCENodeDriver) -> None:
    """The driver knows each zone's region and that it is up."""
    zones = {zone.name: zone for zone in driver.ex_list_zones()}
    assert zones[ZONE].status == "UP"
    assert zones[ZONE].extra["region"].endswith("/regions/us-central1")
    countries = {location.country for location in driver.list_locations()}
    assert {"africa", "asia", "europe", "us"} <= countries


def test_regions_are_listed_with_their_zones(driver: GCENodeDriver) -> None:
    """A region leads to its zones."""
    region = driver.ex_get_region("us-central1")
    assert ZONE in [zone.name for zone in region.zones]
    assert (region.status, bool(region.quotas)) == ("UP", True)
    assert "europe-west1" in [found.name for found in driver.ex_list_regions()]


def test_nodes_of_all_zones_are_listed_whole(driver: GCENodeDriver, compute: Compute) -> None:
    """A node has its size, image, addresses, state and boot disk: nothing could not be resolved."""
    compute.make_group("nodes-a", 2)
    compute.make_group("nodes-b", 1, zone=OTHER_ZONE)
    nodes = [node for node in driver.list_nodes(ex_zone="all") if node.name.startswith("nodes-")]
    assert sorted(node.extra["zone"].name for node in nodes) == [OTHER_ZONE, ZONE, ZONE]
    for node in nodes:
        assert (node.state, node.size) == (NodeState.RUNNING, "e2-small")
        assert node.image == "debian-12-v20261110"
        assert (node.extra["boot_disk"].name, node.extra["boot_disk"].size) == (node.name, "20")
        assert node.extra["boot_disk"].extra["users"] == [node.extra["selfLink"]]
        assert node.private_ips[0].startswith("10.")
        assert node.public_ips
        assert node.extra["tags"] == ["workers"]


def test_one_node_is_found_by_its_name(driver: GCENodeDriver, compute: Compute) -> None:
    """A node is found in its zone, and in any zone."""
    compute.make_group("needle", 1)
    [member] = compute.members("needle")
    name = member.instance.rpartition("/")[2]
    for zone in (ZONE, "all"):
        assert driver.ex_get_node(name, zone).id == str(member.id)


def test_volumes_are_those_of_the_nodes(driver: GCENodeDriver, compute: Compute) -> None:
    """A zone's volumes go with their VMs, if the template says so."""
    compute.make_group("volumes", 2)
    names = {member.instance.rpartition("/")[2] for member in compute.members("volumes")}
    assert names <= {volume.name for volume in driver.list_volumes(ZONE)}
    manager = driver.ex_get_instancegroupmanager("volumes", ZONE)
    assert manager.resize(0)
    assert not names & {volume.name for volume in driver.list_volumes(ZONE)}


def test_sizes_of_a_zone_are_listed(driver: GCENodeDriver) -> None:
    """The predefined machine types are there with their memory, CPUs and Libcloud's own prices."""
    sizes = {size.name: size for size in driver.list_sizes(ZONE)}
    size = sizes["n1-standard-4"]
    assert (size.ram, size.extra["guestCpus"]) == (15360, 4)
    assert size.price > 0
    assert driver.ex_get_size("n1-standard-4", ZONE).id == size.id
    assert {"e2-small", "n2-highmem-8", "c2-standard-60"} <= set(sizes)


def test_sizes_of_all_zones_are_listed(driver: GCENodeDriver) -> None:
    """Without a zone, the first page of all zones' machine types is given, as Libcloud asks."""
    zones = {size.extra["zone"].name for size in driver.list_sizes()}
    assert "africa-south1-a" in zones


def test_images_in_use_are_listed_and_found(driver: GCENodeDriver, compute: Compute) -> None:
    """An image that a template names is listed in its project, and found by family."""
    compute.make_template("pictured")
    images = {image.name: image for image in driver.list_images(ex_project="debian-cloud")}
    image = images["debian-12-v20261110"]
    assert image.extra["status"] == "READY"
    found = driver.ex_get_image_from_family("debian-12", ["debian-cloud"])
    assert (found.id, found.name) == (image.id, image.name)
    assert driver.ex_get_image("debian-12-v", "debian-cloud").id == image.id


def test_templates_are_listed_and_inspected(driver: GCENodeDriver, compute: Compute) -> None:
    """A template's properties are those it was made with."""
    compute.make_template("inspected")
    assert "inspected" in [template.name for template in driver.ex_list_instancetemplates()]
    template = driver.ex_get_instancetemplate("inspected")
    assert template.extra["properties"]["machineType"] == "e2-small"
    assert template.extra["description"] == "made here"


def test_group_managers_are_listed_and_inspected(driver: GCENodeDriver, compute: Compute) -> None:
    """A manager leads to its template, its instance group and its VMs."""
    compute.make_group("managed", 2)
    assert "managed" in [group.name for group in driver.ex_list_instancegroupmanagers("all")]
    manager = driver.ex_get_instancegroupmanager("managed", ZONE)
    assert (manager.size, manager.template.name) == (2, "managed")
    assert manager.extra["currentActions"]["none"] == 2
    members = manager.list_managed_instances()
    assert [member["currentAction"] for member in members] == ["NONE", "NONE"]
    listed = manager.instance_group.list_instances()
    assert [node.name for node in listed] == [member["name"] for member in members]
    assert "managed" in [group.name for group in driver.ex_list_instancegroups(ZONE)]


def test_group_manager_is_resized_and_destroyed(driver: GCENodeDriver, compute: Compute) -> None:
    """The driver waits for operations: what it says is done can be seen at once."""
    compute.make_group("driven", 1)
    manager = driver.ex_get_instancegroupmanager("driven", ZONE)
    assert manager.resize(3)
    assert len(manager.list_managed_instances()) == 3
    assert manager.destroy()
    with pytest.raises(ResourceNotFoundError) as raised:
        driver.ex_get_instancegroupmanager("driven", ZONE)
    assert (raised.value.http_code, reason_of(raised.value)) == (404, "notFound")
    assert driver.ex_get_instancetemplate("driven").destroy()


def test_node_metadata_are_set(driver: GCENodeDriver, compute: Compute) -> None:
    """The driver sends the fingerprint that it read."""
    compute.make_group("noted", 1)
    name = compute.members("noted")[0].instance.rpartition("/")[2]
    assert driver.ex_set_node_metadata(driver.ex_get_node(name, ZONE), {"lease": "noon"})
    kept = driver.ex_get_node(name, ZONE).extra["metadata"]
    assert kept["items"] == [{"key": "lease", "value": "noon"}]


def test_error_of_an_operation_is_raised(
    driver: GCENodeDriver, compute: Compute, faults: Faults
) -> None:
    """The driver reads the code of the error that an operation ended in."""
    compute.make_group("failing", 1)
    faults.add(
        Fault(
            method="compute.instanceGroupManagers.resize",
            kind="operation",
            status=400,
            reason="RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
            message="busy",
        )
    )
    with pytest.raises(ResourceInUseError) as raised:
        driver.ex_get_instancegroupmanager("failing", ZONE).resize(2)
    assert raised.value.code == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
