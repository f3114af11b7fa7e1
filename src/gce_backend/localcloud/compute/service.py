"""The embedded Compute Engine put together: its methods, quotas, and what it does by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from gce_backend.localcloud.cloud import Call, Cloud, Handler, Route, ServiceError
from gce_backend.localcloud.compute import catalogue
from gce_backend.localcloud.compute.groups import Groups
from gce_backend.localcloud.compute.instances import Instances
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.masks import masked
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.payloads import check_body
from gce_backend.localcloud.compute.quota import Quota, QuotaGroup
from gce_backend.localcloud.compute.replies import error_body
from gce_backend.localcloud.compute.rows import OperationRow
from gce_backend.localcloud.compute.store import Store
from gce_backend.localcloud.compute.templates import Templates
from gce_backend.localcloud.compute.timetable import Timetable

_PROJECT = "/compute/v1/projects/{project}"
_GLOBAL = f"{_PROJECT}/global"
_ZONE = f"{_PROJECT}/zones/{{zone}}"
_GROUPS = f"{_ZONE}/instanceGroupManagers"
_GROUP = f"{_GROUPS}/{{instanceGroupManager}}"
_INSTANCE = f"{_ZONE}/instances/{{instance}}"
_TEMPLATES = f"{_GLOBAL}/instanceTemplates"
_TEMPLATE = f"{_TEMPLATES}/{{instanceTemplate}}"


class _Read(NamedTuple):
    """A method that changes nothing."""

    method: str
    verb: str
    path: str
    answer: Callable[[Call], dict[str, Any] | Awaitable[dict[str, Any]]]
    quota: QuotaGroup = "read"


class _Mutation(NamedTuple):
    """A method that starts an operation."""

    method: str
    verb: str
    path: str
    start: Callable[[Call], OperationRow]


class ComputeService:
    """Compute Engine's v1 API under `/compute/v1/projects/`.

    Args:
        cloud: the frame that it stands in.
    """

    name = "compute"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._store = Store(cloud.tables)
        self._timetable = Timetable()
        self._quota = Quota()
        self._machines = Machines(cloud, self._store, self._timetable)
        self._operations = Operations(cloud, self._store, self._timetable)
        self._templates = Templates(cloud, self._store, self._operations)
        self._groups = Groups(cloud, self._store, self._operations, self._machines)
        self._instances = Instances(cloud, self._store, self._operations, self._machines)
        self._machines.resume()
        self._operations.resume()

    def routes(self) -> Iterable[Route]:
        """Its methods, named as in Google's description of the API."""
        for read in self._reads():
            yield Route(f"compute.{read.method}", read.verb, read.path, self._reading(read))
        for mutation in self._mutations():
            handler = self._mutating(mutation)
            yield Route(f"compute.{mutation.method}", mutation.verb, mutation.path, handler)

    def _reads(self) -> Iterable[_Read]:
        templates, groups, instances = self._templates, self._groups, self._instances
        yield _Read("instanceTemplates.get", "GET", _TEMPLATE, templates.get)
        yield _Read("instanceTemplates.list", "GET", _TEMPLATES, templates.list_page)
        yield _Read("instanceGroupManagers.get", "GET", _GROUP, groups.get)
        yield _Read("instanceGroupManagers.list", "GET", _GROUPS, groups.list_page)
        yield _Read(
            "instanceGroupManagers.aggregatedList",
            "GET",
            f"{_PROJECT}/aggregated/instanceGroupManagers",
            groups.aggregated_list,
        )
        yield _Read(
            "instanceGroupManagers.listManagedInstances",
            "POST",
            f"{_GROUP}/listManagedInstances",
            groups.list_managed_instances,
            quota="mutate",  # Google counts it among the heavy-weight calls
        )
        yield _Read(
            "instanceGroupManagers.listErrors", "GET", f"{_GROUP}/listErrors", groups.list_errors
        )
        yield _Read("instances.get", "GET", _INSTANCE, instances.get)
        yield _Read("instances.list", "GET", f"{_ZONE}/instances", instances.list_page)
        yield _Read(
            "instances.aggregatedList",
            "GET",
            f"{_PROJECT}/aggregated/instances",
            instances.aggregated_list,
        )
        operations = self._operations
        for resource, scope in (("zoneOperations", _ZONE), ("globalOperations", _GLOBAL)):
            path, one = f"{scope}/operations", f"{scope}/operations/{{operation}}"
            yield _Read(f"{resource}.get", "GET", one, operations.get, "operation_get")
            yield _Read(f"{resource}.list", "GET", path, operations.list_page, "operation_get")
            yield _Read(
                f"{resource}.wait", "POST", f"{one}/wait", operations.wait, "operation_wait"
            )
        yield _Read("zones.get", "GET", _ZONE, catalogue.get_zone)
        yield _Read("zones.list", "GET", f"{_PROJECT}/zones", catalogue.list_zones)
        yield _Read(
            "machineTypes.get",
            "GET",
            f"{_ZONE}/machineTypes/{{machineType}}",
            catalogue.get_machine_type,
        )
        yield _Read("images.get", "GET", f"{_GLOBAL}/images/{{image}}", catalogue.get_image)
        yield _Read(
            "images.getFromFamily",
            "GET",
            f"{_GLOBAL}/images/family/{{family}}",
            catalogue.get_image_from_family,
        )
        yield _Read(
            "snapshots.get", "GET", f"{_GLOBAL}/snapshots/{{snapshot}}", catalogue.get_snapshot
        )

    def _mutations(self) -> Iterable[_Mutation]:
        templates, groups, instances = self._templates, self._groups, self._instances
        yield _Mutation("instanceTemplates.insert", "POST", _TEMPLATES, templates.insert)
        yield _Mutation("instanceTemplates.delete", "DELETE", _TEMPLATE, templates.delete)
        yield _Mutation("instanceGroupManagers.insert", "POST", _GROUPS, groups.insert)
        yield _Mutation("instanceGroupManagers.delete", "DELETE", _GROUP, groups.delete)
        yield _Mutation("instanceGroupManagers.resize", "POST", f"{_GROUP}/resize", groups.resize)
        yield _Mutation(
            "instanceGroupManagers.deleteInstances",
            "POST",
            f"{_GROUP}/deleteInstances",
            groups.delete_instances,
        )
        yield _Mutation(
            "instances.setMetadata", "POST", f"{_INSTANCE}/setMetadata", instances.set_metadata
        )
        yield _Mutation("instances.delete", "DELETE", _INSTANCE, instances.delete)

    def _reading(self, read: _Read) -> Handler:
        async def handle(call: Call) -> Any:
            self._enter(call, read.quota)
            answer = read.answer(call)
            if not isinstance(answer, dict):
                self._cloud.tables.commit()  # before waiting: what fell due must not be lost
                answer = await answer
            return masked(answer, call.query.get("fields"))

        return handle

    def _mutating(self, mutation: _Mutation) -> Handler:
        async def handle(call: Call) -> Any:
            self._enter(call, "mutate")
            row = self._operations.replayed(call)
            if row is None:
                check_body(call.method, call.body)
                row = mutation.start(call)
                self._operations.remember(call, row)
            return masked(self._operations.body(row), call.query.get("fields"))

        return handle

    def _enter(self, call: Call, group: QuotaGroup) -> None:
        """What comes before every call: the world is brought up to now, and the call is counted."""
        now = self._cloud.clock.now()
        self._timetable.advance(now)
        self._store.forget_old(now)
        self._quota.charge(call.path["project"], group, now, self._cloud.options.calls_per_minute)

    def error_body(self, error: ServiceError) -> Any:
        """An error in the style of Google's older APIs."""
        return error_body(error)

    def state(self) -> Any:
        """Everything that exists, by project."""
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
        for group in self._store.groups():
            of(group.project)["groups"][f"{group.zone}/{group.name}"] = {
                "targetSize": group.target_size,
                "phase": group.phase,
                "instances": list(self._store.members[group.key]),
            }
        for vm in self._store.vms():
            if vm.status:
                entry = {"zone": vm.zone, "status": vm.status, "id": vm.id}
                of(vm.project)["instances"][vm.name] = entry
                of(vm.project)["disks"].append(vm.name)
        for disk in self._store.disks():
            of(disk.project)["disks"].append(disk.name)
        return {"projects": projects}

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
