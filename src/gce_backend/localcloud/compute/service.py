"""The embedded Compute Engine: its methods, quotas and own work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud, Handler, Route, Service
from gce_backend.localcloud.compute import description, inventory, surroundings
from gce_backend.localcloud.compute.batch import Batches
from gce_backend.localcloud.compute.disks import Disks
from gce_backend.localcloud.compute.error_replies import forbidden
from gce_backend.localcloud.compute.group_members import Members
from gce_backend.localcloud.compute.groups import Groups
from gce_backend.localcloud.compute.images import Images
from gce_backend.localcloud.compute.instance_groups import InstanceGroups
from gce_backend.localcloud.compute.instances import Instances
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.masks import masked
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.permissions import permission_of
from gce_backend.localcloud.compute.quota import Quota, metric_of
from gce_backend.localcloud.compute.regions import Regions
from gce_backend.localcloud.compute.request_checks import check_query, checked_body
from gce_backend.localcloud.compute.rows import OperationRow
from gce_backend.localcloud.compute.snapshots import Snapshots
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.templates import Templates
from gce_backend.localcloud.compute.timetable import Timetable
from gce_backend.localcloud.compute.usage import QuotaUsage
from gce_backend.localcloud.compute.vm_events import VmEvents
from gce_backend.localcloud.compute.vm_properties import Blueprints
from gce_backend.localcloud.compute.vm_views import VmFacts, facts_of
from gce_backend.localcloud.statuses import ServiceError

_ROOT = "/compute/v1/"

_Answer = Callable[[Call], dict[str, Any] | Awaitable[dict[str, Any]]]
_Start = Callable[[Call], OperationRow]


class ComputeService(Service):
    """Compute Engine's v1 API under `/compute/v1/projects/`."""

    name = "compute"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._store = ComputeStore(cloud.tables)
        self._timetable = Timetable()
        self._quota = Quota()
        usage = QuotaUsage()
        self._blueprints = blueprints = Blueprints(self._store)
        self._machines = Machines(cloud, self._store, self._timetable, blueprints, usage)
        self._operations = Operations(cloud, self._store, self._timetable)
        self._templates = Templates(cloud, self._store, self._operations)
        self._groups = Groups(cloud, self._store, self._operations, self._machines)
        self._members = Members(cloud, self._store, self._operations, self._machines, self._groups)
        self._instances = Instances(
            cloud, self._store, self._operations, self._machines, blueprints
        )
        self._disks = Disks(cloud, self._store, self._operations, self._machines, blueprints)
        self._images = Images(cloud, self._store)
        self._snapshots = Snapshots(cloud, self._store, self._operations)
        self._regions = Regions(cloud, usage)
        VmEvents(cloud, self._store, self._timetable, self._machines, blueprints, self._operations)
        self._machines.resume()
        self._operations.resume()

    def routes(self) -> Iterable[Route]:
        """Its methods, at the paths of Google's description of the API."""
        handlers = {name: self._reading(answer) for name, answer in self.reads().items()}
        handlers |= {name: self._mutating(start) for name, start in self.mutations().items()}
        for name, handler in handlers.items():
            described = description.method(name)
            yield Route(name, described.verb, _ROOT + described.path, handler)
        yield Batches(self._cloud).route()

    def reads(self) -> dict[str, _Answer]:
        """The methods that change nothing."""
        templates, groups, instances = self._templates, self._groups, self._instances
        operations, disks, regions = self._operations, self._disks, self._regions
        members = self._members
        images, instance_groups = self._images, InstanceGroups(self._cloud, self._store)
        return {
            "compute.instanceTemplates.get": templates.get,
            "compute.instanceTemplates.list": templates.list_page,
            "compute.instanceGroupManagers.get": groups.get,
            "compute.instanceGroupManagers.list": groups.lists.of_zone,
            "compute.instanceGroupManagers.aggregatedList": groups.lists.of_all,
            "compute.instanceGroupManagers.listManagedInstances": members.list_managed_instances,
            "compute.instanceGroupManagers.listErrors": members.list_errors,
            "compute.instanceGroups.get": instance_groups.get,
            "compute.instanceGroups.list": instance_groups.lists.of_zone,
            "compute.instanceGroups.aggregatedList": instance_groups.lists.of_all,
            "compute.instanceGroups.listInstances": instance_groups.list_instances,
            "compute.instances.get": instances.get,
            "compute.instances.list": instances.lists.of_zone,
            "compute.instances.aggregatedList": instances.lists.of_all,
            "compute.disks.get": disks.get,
            "compute.disks.list": disks.lists.of_zone,
            "compute.disks.aggregatedList": disks.lists.of_all,
            "compute.regionDisks.list": regions.list_disks,
            "compute.zoneOperations.get": operations.get,
            "compute.zoneOperations.list": operations.list_page,
            "compute.zoneOperations.wait": operations.wait,
            "compute.globalOperations.get": operations.get,
            "compute.globalOperations.list": operations.list_page,
            "compute.globalOperations.aggregatedList": operations.aggregated_list,
            "compute.globalOperations.wait": operations.wait,
            "compute.regions.get": regions.get,
            "compute.regions.list": regions.list_page,
            "compute.zones.get": inventory.get_zone,
            "compute.zones.list": inventory.list_zones,
            "compute.machineTypes.get": inventory.get_machine_type,
            "compute.machineTypes.list": inventory.list_machine_types,
            "compute.machineTypes.aggregatedList": inventory.aggregated_machine_types,
            "compute.images.get": inventory.get_image,
            "compute.images.getFromFamily": images.get_from_family,
            "compute.images.list": images.list_page,
            "compute.networks.get": surroundings.get_network,
            "compute.subnetworks.get": surroundings.get_subnetwork,
            "compute.diskTypes.get": surroundings.get_disk_type,
            "compute.acceleratorTypes.get": surroundings.get_accelerator_type,
            "compute.reservations.get": surroundings.get_reservation,
            "compute.resourcePolicies.get": surroundings.get_resource_policy,
            "compute.snapshots.get": self._snapshots.get,
            "compute.snapshots.list": self._snapshots.list_page,
        }

    def mutations(self) -> dict[str, _Start]:
        """The methods that start an operation."""
        templates, groups, instances = self._templates, self._groups, self._instances
        members = self._members
        return {
            "compute.instanceTemplates.insert": templates.insert,
            "compute.instanceTemplates.delete": templates.delete,
            "compute.instanceGroupManagers.insert": groups.insert,
            "compute.instanceGroupManagers.delete": groups.delete,
            "compute.instanceGroupManagers.resize": groups.resize,
            "compute.instanceGroupManagers.patch": groups.patch,
            "compute.instanceGroupManagers.setInstanceTemplate": groups.set_instance_template,
            "compute.instanceGroupManagers.createInstances": members.create_instances,
            "compute.instanceGroupManagers.deleteInstances": members.delete_instances,
            "compute.instanceGroupManagers.abandonInstances": members.abandon_instances,
            "compute.instanceGroupManagers.recreateInstances": members.recreate_instances,
            "compute.instances.insert": instances.insert,
            "compute.instances.start": instances.start,
            "compute.instances.stop": instances.stop,
            "compute.instances.suspend": instances.suspend,
            "compute.instances.resume": instances.resume,
            "compute.instances.setMachineType": instances.set_machine_type,
            "compute.instances.setLabels": instances.set_labels,
            "compute.instances.setMetadata": instances.set_metadata,
            "compute.instances.delete": instances.delete,
            "compute.disks.delete": self._disks.delete,
            "compute.snapshots.insert": self._snapshots.insert,
        }

    def _reading(self, answer_of: _Answer) -> Handler:
        async def handle(call: Call) -> Any:
            self._enter(call)
            answer = answer_of(call)
            if not isinstance(answer, dict):
                self._cloud.tables.commit()  # before waiting: due steps must not be lost
                answer = await answer
            return masked(call.method, answer, call.query.get("fields"))

        return handle

    def _mutating(self, start: _Start) -> Handler:
        async def handle(call: Call) -> Any:
            self._enter(call)
            row = self._operations.replayed(call)
            if row is None:
                row = start(call._replace(body=checked_body(call.method, call.body)))
                self._operations.remember(call, row)
            return masked(call.method, self._operations.body(row), call.query.get("fields"))

        return handle

    def _enter(self, call: Call) -> None:
        """Runs before every call: does the steps that are due, and counts the call."""
        now = self._cloud.clock.now()
        self._timetable.advance(now)
        self._store.forget_old(now)
        zone = call.path.get("zone")
        metric = metric_of(call.method, inventory.ZONES.get(zone or ""))
        self._quota.charge(call.path["project"], metric, now, self._cloud.options.calls_per_minute)
        check_query(call.method, call.query)
        permission = permission_of(call.method)
        if permission in self._cloud.options.denied_permissions:
            raise forbidden(permission, call.path["project"])
        if zone is not None and self._cloud.faults.outages([zone]):
            raise ServiceError(503, "backendError", f"The zone '{zone}' cannot be reached.")

    def state(self) -> Any:
        """All resources, by project."""
        self._timetable.advance(self._cloud.clock.now())
        projects: dict[str, dict[str, Any]] = {}

        def of(project: str) -> dict[str, Any]:
            if project not in projects:
                empty: dict[str, Any] = {
                    "instanceTemplates": [],
                    "groups": {},
                    "instances": {},
                    "disks": [],
                }
                projects[project] = empty
            return projects[project]

        for project, names in self._store.template_names.items():
            if len(names):
                of(project)["instanceTemplates"] = list(names)
        for group in self._store.groups.values():
            of(group.project)["groups"][f"{group.zone}/{group.name}"] = {
                "targetSize": group.target_size,
                "phase": group.phase,
                "instances": list(self._store.members[group.key]),
            }
        for vm in self._store.vms.values():
            if vm.status:
                entry = {"zone": vm.zone, "status": vm.status, "id": vm.id}
                of(vm.project)["instances"][vm.name] = entry
                of(vm.project)["disks"].append(vm.name)
        for disk in self._store.disks.values():
            of(disk.project)["disks"].append(disk.name)
        return {"projects": projects}

    def vms(self) -> list[VmFacts]:
        """The existing VMs, as their metadata servers show them."""
        self._timetable.advance(self._cloud.clock.now())
        return [facts_of(vm, self._blueprints) for vm in self._store.vms.values() if vm.status]

    async def run(self) -> None:
        """Lets operations end and VMs boot when their time comes; runs until cancelled."""
        while True:
            self._timetable.sooner.clear()
            now = self._cloud.clock.now()
            self._timetable.advance(now)
            self._cloud.tables.commit()
            due = self._timetable.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                    await self._timetable.sooner.wait()
