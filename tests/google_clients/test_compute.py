"""google-cloud-compute keeps a fleet on the embedded cloud."""

from __future__ import annotations

import uuid

from google_clients.compute import (
    OTHER_ZONE,
    ZONE,
    Compute,
    compute_v1,
    described_template,
    wait,
    warning_of,
)
from support.served_cloud import PROJECT


def test_template_is_read_as_it_was_described(compute: Compute) -> None:
    """Everything that a template was given comes back in the fields of the library."""
    given = described_template("as-described").properties
    found = compute.make_template("as-described")
    assert (found.name, found.description, found.kind) == (
        "as-described",
        "made here",
        "compute#instanceTemplate",
    )
    kept = found.properties
    assert kept.machine_type == given.machine_type
    assert kept.service_accounts == given.service_accounts
    assert (kept.labels, kept.tags.items) == (given.labels, given.tags.items)
    assert kept.scheduling == given.scheduling
    assert list(kept.metadata.items) == list(given.metadata.items)
    [disk] = kept.disks
    assert (disk.boot, disk.auto_delete) == (True, True)
    assert disk.initialize_params.disk_size_gb == 20
    assert disk.initialize_params.source_image.endswith(
        "/projects/debian-cloud/global/images/family/debian-12"
    )
    [interface] = kept.network_interfaces
    assert interface.network.endswith(f"/projects/{PROJECT}/global/networks/default")
    assert interface.access_configs[0].type_ == "ONE_TO_ONE_NAT"


def test_templates_are_listed_and_deleted(compute: Compute) -> None:
    """A filter finds a template until it is deleted."""
    compute.make_template("listed-a")
    compute.make_template("listed-b")
    request = {"project": PROJECT, "filter": "name eq listed-.*", "max_results": 1}
    assert [t.name for t in compute.templates.list(request=request)] == ["listed-a", "listed-b"]
    wait(compute.templates.delete(project=PROJECT, instance_template="listed-a"))
    assert [t.name for t in compute.templates.list(request=request)] == ["listed-b"]


def test_group_makes_its_machines(compute: Compute) -> None:
    """A group reports its size, its template and that it is stable; its VMs run."""
    group = compute.make_group("made", 3)
    template = compute.templates.get(project=PROJECT, instance_template="made")
    assert (group.target_size, group.base_instance_name) == (3, "made")
    assert group.instance_template == template.self_link
    assert [version.instance_template for version in group.versions] == [template.self_link]
    members = compute.members("made")
    assert [member.current_action for member in members] == ["NONE"] * 3
    assert [member.instance_status for member in members] == ["RUNNING"] * 3
    group = compute.groups.get(project=PROJECT, zone=ZONE, instance_group_manager="made")
    assert group.status.is_stable
    assert group.current_actions.none == 3


def test_machine_is_what_its_template_says(compute: Compute) -> None:
    """A VM has the template's machine type, labels, tags, disks, addresses and metadata."""
    compute.make_group("machine", 1)
    [member] = compute.members("machine")
    name = member.instance.rpartition("/")[2]
    vm = compute.instances.get(project=PROJECT, zone=ZONE, instance=name)
    assert (vm.id, vm.status) == (member.id, "RUNNING")
    assert vm.machine_type.endswith(f"/zones/{ZONE}/machineTypes/e2-small")
    assert (vm.labels, vm.tags.items) == ({"fleet": "machine"}, ["workers"])
    assert (vm.disks[0].boot, vm.disks[0].disk_size_gb) == (True, 20)
    assert vm.network_interfaces[0].network_i_p.startswith("10.")
    assert vm.scheduling.preemptible
    items = {item.key: item.value for item in vm.metadata.items}
    assert items["role"] == "worker"
    assert items["created-by"].endswith(f"/zones/{ZONE}/instanceGroupManagers/machine")
    assert items["instance-template"].endswith("/global/instanceTemplates/machine")


def test_managed_instances_come_in_pages(compute: Compute) -> None:
    """The pager of a paginated group walks every page, and meets each VM once."""
    compute.make_group("pages", 7, paginated=True)
    request = {
        "project": PROJECT,
        "zone": ZONE,
        "instance_group_manager": "pages",
        "max_results": 3,
    }
    pages = list(compute.groups.list_managed_instances(request=request).pages)
    assert [len(page.managed_instances) for page in pages] == [3, 3, 1]
    assert [bool(page.next_page_token) for page in pages] == [True, True, False]
    assert len({vm.instance for page in pages for vm in page.managed_instances}) == 7
    assert len(list(compute.groups.list_managed_instances(request=request))) == 7


def test_group_without_pages_ignores_max_results(compute: Compute) -> None:
    """A group that was not made PAGINATED answers everything at once."""
    compute.make_group("pageless", 4)
    request = {
        "project": PROJECT,
        "zone": ZONE,
        "instance_group_manager": "pageless",
        "max_results": 2,
    }
    [page] = compute.groups.list_managed_instances(request=request).pages
    assert len(page.managed_instances) == 4


def test_resize_makes_and_deletes_machines(compute: Compute) -> None:
    """A group follows its size up and down."""
    compute.make_group("sized", 2)
    for size in (5, 1):
        wait(
            compute.groups.resize(
                project=PROJECT, zone=ZONE, instance_group_manager="sized", size=size
            )
        )
        group = compute.groups.get(project=PROJECT, zone=ZONE, instance_group_manager="sized")
        assert group.target_size == size
        assert len(compute.members("sized")) == size


def test_delete_instances_takes_these_and_lowers_the_size(compute: Compute) -> None:
    """The method deletes the named VMs and no others, which are then not made again."""
    compute.make_group("picked", 4)
    first, *others = [member.instance for member in compute.members("picked")]
    wait(
        compute.groups.delete_instances(
            project=PROJECT,
            zone=ZONE,
            instance_group_manager="picked",
            instance_group_managers_delete_instances_request_resource=(
                compute_v1.InstanceGroupManagersDeleteInstancesRequest(instances=[first])
            ),
        )
    )
    assert [member.instance for member in compute.members("picked")] == others
    group = compute.groups.get(project=PROJECT, zone=ZONE, instance_group_manager="picked")
    assert group.target_size == 3


def test_abandoned_machine_lives_on_without_its_group(compute: Compute) -> None:
    """The method takes a VM out of the group, which neither deletes nor replaces it."""
    compute.make_group("abandoned", 2)
    goes, stays = (member.instance for member in compute.members("abandoned"))
    wait(
        compute.groups.abandon_instances(
            project=PROJECT,
            zone=ZONE,
            instance_group_manager="abandoned",
            instance_group_managers_abandon_instances_request_resource=(
                compute_v1.InstanceGroupManagersAbandonInstancesRequest(instances=[goes])
            ),
        )
    )
    assert [member.instance for member in compute.members("abandoned")] == [stays]
    left = compute.instances.get(project=PROJECT, zone=ZONE, instance=goes.rpartition("/")[2])
    assert left.status == "RUNNING"


def test_recreated_machine_has_its_name_and_another_id(compute: Compute) -> None:
    """The method makes the named VMs anew and leaves the others alone."""
    compute.make_group("renewed", 2)
    before = {member.instance: member.id for member in compute.members("renewed")}
    goes, stays = before
    wait(
        compute.groups.recreate_instances(
            project=PROJECT,
            zone=ZONE,
            instance_group_manager="renewed",
            instance_group_managers_recreate_instances_request_resource=(
                compute_v1.InstanceGroupManagersRecreateInstancesRequest(instances=[goes])
            ),
        )
    )
    after = {member.instance: member.id for member in compute.members("renewed")}
    assert set(after) == set(before)
    assert (after[goes] != before[goes], after[stays] == before[stays]) == (True, True)


def test_group_is_deleted_with_its_machines(compute: Compute) -> None:
    """After a group's deletion neither it nor its VMs are listed, and its template is free."""
    compute.make_group("whole", 2, zone=OTHER_ZONE)
    wait(compute.groups.delete(project=PROJECT, zone=OTHER_ZONE, instance_group_manager="whole"))
    in_zone = {"project": PROJECT, "zone": OTHER_ZONE, "filter": "name eq whole.*"}
    assert not list(compute.groups.list(request=in_zone))
    assert not list(compute.instances.list(request=in_zone))
    wait(compute.templates.delete(project=PROJECT, instance_template="whole"))


def test_deleted_machine_is_made_again_by_its_group(compute: Compute) -> None:
    """A VM deleted behind its group's back comes back with the same name and another id."""
    compute.make_group("mended", 1)
    [before] = compute.members("mended")
    name = before.instance.rpartition("/")[2]
    wait(compute.instances.delete(project=PROJECT, zone=ZONE, instance=name))
    [after] = compute.members("mended")
    assert after.instance == before.instance
    assert after.id != before.id


def test_metadata_are_set_with_a_fresh_fingerprint(compute: Compute) -> None:
    """The method replaces the items, and the fingerprint with them."""
    compute.make_group("worded", 1)
    name = compute.members("worded")[0].instance.rpartition("/")[2]
    before = compute.instances.get(project=PROJECT, zone=ZONE, instance=name).metadata
    items = [*before.items, compute_v1.Items(key="lease", value="until-noon")]
    wait(
        compute.instances.set_metadata(
            project=PROJECT,
            zone=ZONE,
            instance=name,
            metadata_resource=compute_v1.Metadata(items=items, fingerprint=before.fingerprint),
        )
    )
    after = compute.instances.get(project=PROJECT, zone=ZONE, instance=name).metadata
    assert list(after.items) == items
    assert after.fingerprint != before.fingerprint


def test_instances_are_aggregated_over_zones_in_pages(compute: Compute) -> None:
    """The aggregated pager gives every zone's VMs, and no VM of another name."""
    compute.make_group("spread-a", 3)
    compute.make_group("spread-b", 2, zone=OTHER_ZONE)
    request = {"project": PROJECT, "filter": "name eq spread-.*", "max_results": 2}
    found: dict[str, int] = {}
    for scope, listed in compute.instances.aggregated_list(request=request):
        found[scope] = found.get(scope, 0) + len(listed.instances)
        assert listed.instances or warning_of(listed) == "NO_RESULTS_ON_PAGE"
    assert {scope: count for scope, count in found.items() if count} == {
        f"zones/{ZONE}": 3,
        f"zones/{OTHER_ZONE}": 2,
    }


def test_groups_are_aggregated_over_zones(compute: Compute) -> None:
    """The aggregated list of groups says in which zone each is."""
    compute.make_group("wide-a", 0)
    compute.make_group("wide-b", 0, zone=OTHER_ZONE)
    request = {"project": PROJECT, "filter": "name eq wide-.*"}
    found = {
        group.name: scope
        for scope, listed in compute.groups.aggregated_list(request=request)
        for group in listed.instance_group_managers
    }
    assert found == {"wide-a": f"zones/{ZONE}", "wide-b": f"zones/{OTHER_ZONE}"}


def test_operation_is_read_until_it_is_done(slow_compute: Compute) -> None:
    """An operation is seen under way, then waited for, then found done."""
    started = slow_compute.templates.insert(
        project=PROJECT, instance_template_resource=described_template("awaited")
    )
    status = compute_v1.Operation.Status
    assert started.status in {status.PENDING, status.RUNNING}
    assert started.operation_type == "insert"
    assert started.target_link.endswith("/global/instanceTemplates/awaited")
    under_way = slow_compute.global_operations.get(project=PROJECT, operation=started.name)
    assert under_way.status != status.DONE
    assert under_way.progress < 100
    done = slow_compute.global_operations.wait(project=PROJECT, operation=started.name)
    assert (done.status, done.progress) == (status.DONE, 100)
    assert done.insert_time <= done.start_time <= done.end_time
    assert started.done()


def test_zone_operations_are_waited_for_and_listed(slow_compute: Compute) -> None:
    """zoneOperations.wait answers at the end; the zone's operations can be listed by name."""
    slow_compute.make_group("waited", 0)
    started = slow_compute.groups.resize(
        project=PROJECT, zone=ZONE, instance_group_manager="waited", size=1
    )
    done = slow_compute.zone_operations.wait(project=PROJECT, zone=ZONE, operation=started.name)
    assert done.status == compute_v1.Operation.Status.DONE
    assert done.zone.endswith(f"/zones/{ZONE}")
    request = {"project": PROJECT, "zone": ZONE, "filter": f"name = {started.name}"}
    assert [found.id for found in slow_compute.zone_operations.list(request=request)] == [done.id]


def test_operations_of_all_scopes_are_aggregated(compute: Compute) -> None:
    """What was done to a template is listed as global, what was done to its group in a zone."""
    compute.make_group("audited", 0)
    request = {"project": PROJECT, "filter": "targetLink eq .*/audited"}
    found = {
        (scope, operation.target_link.split("/")[-2])
        for scope, listed in compute.global_operations.aggregated_list(request=request)
        for operation in listed.operations
    }
    assert found == {("global", "instanceTemplates"), (f"zones/{ZONE}", "instanceGroupManagers")}


def test_newest_comes_first_when_asked_for(compute: Compute) -> None:
    """A list can be ordered by age, also over pages."""
    names = ["aged-b", "aged-c", "aged-a"]
    for name in names:
        compute.make_template(name)
    request = {
        "project": PROJECT,
        "filter": "name eq aged-.*",
        "order_by": "creationTimestamp desc",
        "max_results": 2,
    }
    found = list(compute.templates.list(request=request))
    made = [template.creation_timestamp for template in found]
    assert made == sorted(made, reverse=True)
    assert {template.name for template in found} == set(names)


def test_machine_is_seen_while_it_is_made(slow_compute: Compute) -> None:
    """A group that has just been resized is not stable, and its VM is being created."""
    slow_compute.make_group("booting", 1)
    group = slow_compute.groups.get(project=PROJECT, zone=ZONE, instance_group_manager="booting")
    assert (group.target_size, group.current_actions.creating) == (1, 1)
    assert not group.status.is_stable
    [member] = slow_compute.members("booting")
    assert (member.current_action, member.target_status) == ("CREATING", "RUNNING")
    assert member.instance_status == ""


def test_same_request_id_is_the_same_operation(compute: Compute) -> None:
    """A repeated request with its requestId changes nothing and names the operation again."""
    compute.make_group("again", 1)
    request = {
        "project": PROJECT,
        "zone": ZONE,
        "instance_group_manager": "again",
        "size": 3,
        "request_id": str(uuid.uuid4()),
    }
    first = compute.groups.resize(request=request)
    wait(first)
    second = compute.groups.resize(request=request)
    assert (second.name, second.id) == (first.name, first.id)
    assert len(compute.members("again")) == 3
