"""Events of VMs without a call to Compute: a person or a test causes them."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.cloud import Cloud, CloudControl
from gce_backend.localcloud.compute.machines import Machines
from gce_backend.localcloud.compute.operations import Operations
from gce_backend.localcloud.compute.rows import VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.timetable import Timetable
from gce_backend.localcloud.compute.vm_properties import Blueprints

_PATH = "/_localcloud/vms/{name}/{event:power-off|preempt|host-error|delete|abandon}"
_WHILE_ASLEEP = frozenset({"delete", "abandon"})
_ACTIONS = frozenset({"STOP", "DELETE"})
_OPERATIONS = {
    "power-off": "guestTerminate",
    "preempt": "preempted",
    "host-error": "hostError",
}
"""The last word of the `operationType` of Compute's own operation, by the event that it is of."""


class VmEvents:
    """`POST /_localcloud/vms/NAME/EVENT`.

    The query may name `project` (default: the cloud's own) and `zone` (default: all of them), and
    for `preempt` the `action`, STOP or DELETE, in place of what the VM's scheduling says.
    """

    def __init__(
        self,
        cloud: Cloud,
        store: ComputeStore,
        timetable: Timetable,
        machines: Machines,
        blueprints: Blueprints,
        operations: Operations,
    ) -> None:
        self._cloud = cloud
        self._store = store
        self._timetable = timetable
        self._machines = machines
        self._blueprints = blueprints
        self._operations = operations
        cloud.add_controls(CloudControl("POST", _PATH, self._post))

    async def _post(self, request: web.Request) -> web.Response:
        event, name = request.match_info["event"], request.match_info["name"]
        project = request.query.get("project", self._cloud.options.project)
        zone, action = request.query.get("zone"), request.query.get("action")
        if action not in {None, *_ACTIONS}:
            return web.json_response({"error": "action: must be STOP or DELETE"}, status=400)
        now = self._cloud.clock.now()
        self._timetable.advance(now)
        found = [
            vm
            for vm in self._store.vms.values()
            if (vm.project, vm.name) == (project, name)
            and zone in {None, vm.zone}
            and (vm.status == "RUNNING" or (vm.status and event in _WHILE_ASLEEP))
            and not vm.is_leaving
            and (vm.group or event != "abandon")
        ]
        if not found:
            message = f"no VM {name} of project {project} to which this can happen now"
            return web.json_response({"error": message}, status=404)
        for vm in found:
            self._happen(event, vm, now, action)
        self._cloud.tables.commit()
        return web.json_response({})

    def _happen(self, event: str, vm: VmRow, now: UnixSeconds, action: str | None) -> None:
        if event in _OPERATIONS:
            self._operations.record(f"compute.instances.{_OPERATIONS[event]}", vm, now)
        if event == "power-off":
            self._machines.stop(vm, now)
        elif event == "preempt":
            scheduling = self._blueprints.properties(vm).get("scheduling", {})
            chosen = action or scheduling.get("instanceTerminationAction", "STOP")
            self._machines.preempt(vm, now, rests=chosen == "STOP")
        elif event == "host-error":
            self._machines.crash(vm, now)
        elif event == "delete":
            self._machines.stop(vm, now, rests=False)
        else:
            group = self._blueprints.group(vm)
            smaller = msgspec.structs.replace(group, target_size=group.target_size - 1)
            self._store.put_group(smaller)
            self._machines.abandon(vm, now)
