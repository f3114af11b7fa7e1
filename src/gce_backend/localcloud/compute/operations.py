"""Operations: the answers of mutations, their effects, and replayed requests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.cloud import Call, Cloud
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.error_replies import invalid_field, not_found, rfc3339
from gce_backend.localcloud.compute.rows import Failure, OperationRow, RequestRow, VmRow
from gce_backend.localcloud.compute.store import ComputeStore
from gce_backend.localcloud.compute.timetable import Timetable

WAIT_SECONDS = 120.0
FOR_EVER = 10 * 365 * 86400.0
"""Seconds that an operation takes when a fault keeps it from ending."""
LONGEST_PENDING = 60.0
"""Seconds after which every operation is RUNNING."""

Effect = Callable[[OperationRow], Failure | None]
"""Applies the effect of an operation at its end; returns a failure when it fails instead."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NO_UUID = "00000000-0000-0000-0000-000000000000"


class Operations:
    """The operations of all projects.

    Attributes:
        effects: the effect at the end of an operation, by the method that started it.
    """

    def __init__(self, cloud: Cloud, store: ComputeStore, timetable: Timetable) -> None:
        self.effects: dict[str, Effect] = {}
        self._cloud = cloud
        self._store = store
        self._timetable = timetable
        self._ended: dict[str, asyncio.Event] = {}

    def resume(self) -> None:
        """Schedules the operations that have not ended, after a start of the cloud."""
        for row in self._store.operations.values():
            if not row.done:
                self._timetable.put(row.due, self._end, row.key)

    def start(
        self,
        call: Call,
        kind: str,
        target: str,
        target_id: str,
        *,
        seconds: float = 0.0,
        payload: dict[str, Any] | None = None,
        failure: Failure | None = None,
    ) -> OperationRow:
        """Starts the operation of a valid mutation.

        Args:
            call: the mutation.
            kind: the `operationType`.
            target: the partial link of what it acts on.
            target_id: its numeric id; "" when there is none yet.
            seconds: the least time that it takes, if longer than the cloud's `operation_seconds`.
            payload: what its effect needs.
            failure: the error that it will end in.

        Returns:
            The operation. If it has a `failure` already, it will fail, and the mutation must have
            no effect.
        """
        now = self._cloud.clock.now()
        zone = call.path.get("zone")
        fault = self._cloud.faults.operation_error(call.method, zone)
        if self._cloud.faults.is_endless(call.method, zone):
            seconds = FOR_EVER
        identity = self._store.numeric_id(self._store.serial())
        row = OperationRow(
            project=call.path["project"],
            zone=zone,
            name=f"operation-{int(now * 1000)}-{int(identity):016x}",
            id=identity,
            method=call.method,
            kind=kind,
            target=target,
            target_id=target_id,
            inserted=now,
            due=now + max(seconds, self._cloud.options.operation_seconds),
            failure=Failure(fault.reason, fault.message, fault.status) if fault else failure,
            payload=payload,
            request_id=call.query.get("requestId"),
        )
        self._store.put_operation(row)
        self._timetable.put(row.due, self._end, row.key)
        return row

    def record(self, kind: str, vm: VmRow, at: UnixSeconds) -> None:
        """Stores an operation of Compute's own about a VM; it has ended.

        Args:
            kind: the `operationType`, e.g. `compute.instances.preempted`.
        """
        identity = self._store.numeric_id(self._store.serial())
        row = OperationRow(
            project=vm.project,
            zone=vm.zone,
            name=f"systemevent-{int(at * 1000)}-{int(identity):016x}",
            id=identity,
            method="",
            kind=kind,
            target=vm.path,
            target_id=vm.id,
            inserted=at,
            due=at,
            done=True,
        )
        self._store.put_operation(row)

    def _end(self, key: str, _: float) -> None:
        row = self._store.operations.get(key)
        if row is None or row.done:
            return
        failure = row.failure
        effect = self.effects.get(row.method)
        if failure is None and effect is not None:
            failure = effect(row)
        row = msgspec.structs.replace(row, done=True, failure=failure, payload=None)
        self._store.put_operation(row)
        ended = self._ended.pop(key, None)
        if ended is not None:
            ended.set()

    # requestId

    def replayed(self, call: Call) -> OperationRow | None:
        """The operation that the same request started before; None for a new request.

        Raises:
            ServiceError: 400 invalid when the requestId is malformed, or belongs to another
                request.
        """
        request_id = call.query.get("requestId")
        if request_id is None:
            return None
        if _UUID.fullmatch(request_id) is None or request_id == _NO_UUID:
            raise invalid_field("requestId", request_id, "Must be a UUID, and not the zero UUID.")
        known = self._store.requests.get(self._request_key(call))
        if known is None:
            return None
        if known.digest != _digest(call):
            raise invalid_field(
                "requestId", request_id, "It was used before for a different request."
            )
        return self._store.operations.get(known.operation)

    def remember(self, call: Call, row: OperationRow) -> None:
        """Stores the operation of a request with a requestId."""
        if "requestId" in call.query:
            request = RequestRow(_digest(call), row.key, self._cloud.clock.now())
            self._store.put_request(self._request_key(call), request)

    @staticmethod
    def _request_key(call: Call) -> str:
        return f"{call.path['project']}/{call.query['requestId'].lower()}"

    # Answers

    def get(self, call: Call) -> dict[str, Any]:
        """zoneOperations.get and globalOperations.get."""
        return self.body(self._row(call))

    async def wait(self, call: Call) -> dict[str, Any]:
        """zoneOperations.wait and globalOperations.wait: answers at the end, or after 2 minutes."""
        row = self._row(call)
        if not row.done:
            ended = self._ended.setdefault(row.key, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    await ended.wait()
        return self.body(self._row(call))

    def list_page(self, call: Call) -> dict[str, Any]:
        """zoneOperations.list and globalOperations.list."""
        project, zone = call.path["project"], call.path.get("zone")
        scope = f"{project}/{zone or 'global'}"

        def created(name: str) -> str | None:
            row = self._store.operations.get(f"{scope}/{name}")
            return None if row is None else rfc3339(row.inserted)

        names = self._store.operation_names[scope]
        found = listing.page(
            call, names.after, lambda name: self._shown(f"{scope}/{name}"), created
        )
        path = f"projects/{project}/{f'zones/{zone}' if zone else 'global'}/operations"
        return listing.resource_list("compute#operationList", path, found)

    def aggregated_list(self, call: Call) -> dict[str, Any]:
        """globalOperations.aggregatedList: those of all zones, and the global ones."""
        project = call.path["project"]
        scopes = {"global": "global", **{f"zones/{zone}": zone for zone in inventory.ZONES}}

        def render(place: str) -> dict[str, Any] | None:
            scope, _, name = place.rpartition("/")
            return self._shown(f"{project}/{scopes[scope]}/{name}")

        return listing.aggregated_list(
            "compute#operationAggregatedList",
            "operations",
            call,
            {
                scope: self._store.operation_names[f"{project}/{where}"]
                for scope, where in scopes.items()
            },
            render,
            [f"zones/{zone}" for zone in self._cloud.faults.outages(inventory.ZONES)],
        )

    def _shown(self, key: str) -> dict[str, Any] | None:
        row = self._store.operations.get(key)
        return None if row is None else self.body(row)

    def _row(self, call: Call) -> OperationRow:
        project, zone = call.path["project"], call.path.get("zone")
        wanted = call.path["operation"]
        row = self._store.operations.get(f"{project}/{zone or 'global'}/{wanted}")
        if row is None:
            where = f"zones/{zone}" if zone else "global"
            raise not_found(f"projects/{project}/{where}/operations/{wanted}")
        return row

    def body(self, row: OperationRow) -> dict[str, Any]:
        """The operation as Compute shows it now."""
        now = self._cloud.clock.now()
        started = row.inserted + min((row.due - row.inserted) / 4, LONGEST_PENDING)
        body: dict[str, Any] = {
            "kind": "compute#operation",
            "id": row.id,
            "name": row.name,
            "operationType": row.kind,
            "targetLink": links.ROOT + row.target,
            "user": f"gce-backend@{row.project}.iam.gserviceaccount.com"
            if row.method
            else "system",
            "status": "DONE" if row.done else "RUNNING" if now >= started else "PENDING",
            "progress": 100 if row.done else 0,
            "insertTime": rfc3339(row.inserted),
            "selfLink": links.ROOT + row.path,
        }
        if row.request_id is not None:
            body["clientOperationId"] = row.request_id
        if row.target_id:
            body["targetId"] = row.target_id
        if row.zone is not None:
            body["zone"] = links.zone_link(row.project, row.zone)
        if body["status"] != "PENDING":
            body["startTime"] = rfc3339(started)
        if row.done:
            body["endTime"] = rfc3339(row.due)
            if row.failure is not None:
                body |= _failure_fields(row.failure)
        return body


def _failure_fields(failure: Failure) -> Mapping[str, Any]:
    try:
        phrase = HTTPStatus(failure.status).phrase.upper()
    except ValueError:
        phrase = "UNKNOWN"
    return {
        "error": {"errors": [{"code": failure.code, "message": failure.message}]},
        "httpErrorStatusCode": failure.status,
        "httpErrorMessage": phrase,
    }


def _digest(call: Call) -> str:
    parameters = sorted((k, v) for k, v in call.query.items() if k not in {"requestId", "fields"})
    content = (call.method, call.request.path, parameters, call.body)
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
