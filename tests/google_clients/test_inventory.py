"""google-cloud-compute reads what stands around a fleet: disks, groups, machine types, images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.api_core import exceptions

from gce_backend.localcloud.cloud import CloudOptions
from google_clients.compute import OTHER_ZONE, ZONE, Compute, compute_v1, wait
from support.served_cloud import PROJECT, served_cloud


@pytest.fixture(scope="module")
def disks(compute: Compute) -> compute_v1.DisksClient:
    """The disks client."""
    return compute.client(compute_v1.DisksClient)


@pytest.fixture(scope="module")
def instance_groups(compute: Compute) -> compute_v1.InstanceGroupsClient:
    """The instanceGroups client."""
    return compute.client(compute_v1.InstanceGroupsClient)


@pytest.fixture(scope="module")
def machine_types(compute: Compute) -> compute_v1.MachineTypesClient:
    """The machineTypes client."""
    return compute.client(compute_v1.MachineTypesClient)


@pytest.fixture(scope="module")
def images(compute: Compute) -> compute_v1.ImagesClient:
    """The images client."""
    return compute.client(compute_v1.ImagesClient)


@pytest.fixture
def lingering() -> Iterator[Compute]:
    """Clients of another cloud, whose VMs take ages to go."""
    options = CloudOptions(operation_seconds=0.0, boot_seconds=0.0, delete_seconds=600.0)
    with served_cloud(options) as running, Compute(running.url) as clients:
        yield clients


def test_boot_disk_is_where_its_machine_says(
    compute: Compute, disks: compute_v1.DisksClient
) -> None:
    """A VM's disk has its name, its size, the newest image of the family, and its VM as user."""
    compute.make_group("disky", 1)
    name = compute.members("disky")[0].instance.rpartition("/")[2]
    vm = compute.instances.get(project=PROJECT, zone=ZONE, instance=name)
    disk = disks.get(project=PROJECT, zone=ZONE, disk=name)
    assert (disk.self_link, disk.users) == (vm.disks[0].source, [vm.self_link])
    assert (disk.size_gb, disk.status) == (20, "READY")
    assert disk.source_image.endswith("/debian-cloud/global/images/debian-12-v20261110")
    with pytest.raises(exceptions.NotFound):
        disks.get(project=PROJECT, zone=ZONE, disk="no-such-disk")


def test_disks_are_listed_and_aggregated(compute: Compute, disks: compute_v1.DisksClient) -> None:
    """There is a disk for each VM, in the VM's zone."""
    compute.make_group("disks-a", 3)
    compute.make_group("disks-b", 1, zone=OTHER_ZONE)
    members = {member.instance.rpartition("/")[2] for member in compute.members("disks-a")}
    request = {"project": PROJECT, "filter": "name eq disks-.*", "max_results": 2}
    assert {disk.name for disk in disks.list(request={**request, "zone": ZONE})} == members
    found = [
        (scope, disk.name.rpartition("-")[0])
        for scope, listed in disks.aggregated_list(request=request)
        for disk in listed.disks
    ]
    assert sorted(found) == [
        (f"zones/{OTHER_ZONE}", "disks-b"),
        *[(f"zones/{ZONE}", "disks-a")] * 3,
    ]


def test_disk_in_use_is_not_deleted(compute: Compute, disks: compute_v1.DisksClient) -> None:
    """A disk goes with its VM, and not before."""
    compute.make_group("attached", 1)
    name = compute.members("attached")[0].instance.rpartition("/")[2]
    with pytest.raises(exceptions.BadRequest) as raised:
        disks.delete(project=PROJECT, zone=ZONE, disk=name)
    assert raised.value.errors[0]["reason"] == "resourceInUseByAnotherResource"
    assert disks.get(project=PROJECT, zone=ZONE, disk=name).name == name


def test_machine_that_is_being_made_has_no_disk_yet(slow_compute: Compute) -> None:
    """A disk comes with its VM, not with the group's wish for one."""
    slow_compute.make_group("diskless", 1)
    request = {"project": PROJECT, "zone": ZONE, "filter": "name eq diskless-.*"}
    assert not list(slow_compute.client(compute_v1.DisksClient).list(request=request))


def test_instance_group_of_a_managed_group_is_read(
    compute: Compute, instance_groups: compute_v1.InstanceGroupsClient
) -> None:
    """The group that a manager links to has its name, its size and its VMs."""
    manager = compute.make_group("fronted", 2)
    group = instance_groups.get(project=PROJECT, zone=ZONE, instance_group="fronted")
    assert (group.self_link, group.size) == (manager.instance_group, 2)
    listed = instance_groups.list_instances(
        project=PROJECT,
        zone=ZONE,
        instance_group="fronted",
        instance_groups_list_instances_request_resource=(
            compute_v1.InstanceGroupsListInstancesRequest(instance_state="RUNNING")
        ),
    )
    found = [(vm.instance, vm.status) for vm in listed]
    assert found == [(member.instance, "RUNNING") for member in compute.members("fronted")]
    with pytest.raises(exceptions.NotFound):
        instance_groups.get(project=PROJECT, zone=OTHER_ZONE, instance_group="fronted")


def test_instance_groups_are_listed_and_aggregated(
    compute: Compute, instance_groups: compute_v1.InstanceGroupsClient
) -> None:
    """Groups are found in their zone and over all zones."""
    compute.make_group("fronts-a", 0)
    compute.make_group("fronts-b", 0, zone=OTHER_ZONE)
    request = {"project": PROJECT, "filter": "name eq fronts-.*"}
    in_zone = instance_groups.list(request={**request, "zone": ZONE})
    assert [group.name for group in in_zone] == ["fronts-a"]
    found = {
        group.name: scope
        for scope, listed in instance_groups.aggregated_list(request=request)
        for group in listed.instance_groups
    }
    assert found == {"fronts-a": f"zones/{ZONE}", "fronts-b": f"zones/{OTHER_ZONE}"}


def test_machine_that_stops_is_not_listed_as_running(lingering: Compute) -> None:
    """Only the state that was asked for is listed; a VM on its way out is there, but stopping."""
    client = lingering.client(compute_v1.InstanceGroupsClient)
    lingering.make_group("leaving", 2)
    goes, stays = (member.instance for member in lingering.members("leaving"))
    wait(
        lingering.groups.delete_instances(
            project=PROJECT,
            zone=ZONE,
            instance_group_manager="leaving",
            instance_group_managers_delete_instances_request_resource=(
                compute_v1.InstanceGroupManagersDeleteInstancesRequest(instances=[goes])
            ),
        )
    )
    found = {}
    for state in ("ALL", "RUNNING"):
        asked = compute_v1.InstanceGroupsListInstancesRequest(instance_state=state)
        listed = client.list_instances(
            project=PROJECT,
            zone=ZONE,
            instance_group="leaving",
            instance_groups_list_instances_request_resource=asked,
        )
        found[state] = {vm.instance: vm.status for vm in listed}
    assert found == {"ALL": {goes: "STOPPING", stays: "RUNNING"}, "RUNNING": {stays: "RUNNING"}}


def test_machine_types_are_listed_in_pages(machine_types: compute_v1.MachineTypesClient) -> None:
    """Every page holds other types; a filter on a number of CPUs finds those that have it."""
    request = {"project": PROJECT, "zone": ZONE, "max_results": 100}
    pages = list(machine_types.list(request=request).pages)
    names = [found.name for page in pages for found in page.items]
    assert len(pages) > 1
    assert len(set(names)) == len(names)
    assert names == sorted(names)
    small = machine_types.list(request={**request, "filter": "guestCpus = 96"})
    assert {found.guest_cpus for found in small} == {96}


def test_listed_machine_type_is_the_one_that_is_got(
    machine_types: compute_v1.MachineTypesClient,
) -> None:
    """What list shows, get shows too, for every predefined type."""
    listed = {found.name: found for found in machine_types.list(project=PROJECT, zone=OTHER_ZONE)}
    for name in ("e2-medium", "n1-highcpu-96", "t2d-standard-60", "c4-highmem-288"):
        got = machine_types.get(project=PROJECT, zone=OTHER_ZONE, machine_type=name)
        assert got == listed[name]
    assert all(found.guest_cpus > 0 and found.memory_mb > 0 for found in listed.values())


def test_machine_types_are_aggregated(machine_types: compute_v1.MachineTypesClient) -> None:
    """A machine type is there once in each zone."""
    request = {"project": PROJECT, "filter": "name = e2-small"}
    found = {
        scope: [one.name for one in listed.machine_types]
        for scope, listed in machine_types.aggregated_list(request=request)
    }
    assert found[f"zones/{ZONE}"] == ["e2-small"]
    assert {tuple(names) for names in found.values()} == {("e2-small",)}


def test_images_in_use_are_listed(compute: Compute, images: compute_v1.ImagesClient) -> None:
    """An image that a template names is in its project's list, once, with its family."""
    compute.make_template("imaged-a")
    compute.make_template("imaged-b")
    [image] = [i for i in images.list(project="debian-cloud") if i.family == "debian-12"]
    assert image == images.get_from_family(project="debian-cloud", family="debian-12")
    assert (image.family, image.status) == ("debian-12", "READY")
    assert list(images.list(project="nobody-uses-this")) == []
