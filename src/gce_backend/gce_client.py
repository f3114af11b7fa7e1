"""Compute Engine over REST, without policy: a method per call, typed results, the project's errors.

A mutation keeps its requestId when `gce_transport` repeats it, so that nothing is doubled.
"""

# ruff: noqa: A002  (`filter` is Compute's word)

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPMethod
from random import Random
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.clock import Clock
from gce_backend.base.errors import InvalidRequestError, TransientError
from gce_backend.base.plurals import plural
from gce_backend.clients.auth import TokenSource
from gce_backend.clients.compute.call_budget import CallBudget, Priority, Quota, QuotaGroup, Room
from gce_backend.clients.compute.links import AGGREGATED, GLOBAL, ResourceLink, resource_path
from gce_backend.clients.compute.transport import ComputeRequest, ComputeTransport, Timeouts
from gce_backend.clients.compute.types import (
    MAX_PAGES,
    ComputeGroup,
    ComputeInstance,
    ComputeTemplate,
    Disk,
    DiskPage,
    GroupPage,
    Image,
    InstancePage,
    Listing,
    MachineType,
    ManagedInstance,
    ManagedInstancePage,
    Operation,
    OperationPage,
    Page,
    Snapshot,
    SnapshotPage,
    Surrounding,
    TemplatePage,
    WholeInstancePage,
    gather_pages,
)
from gce_backend.clients.observer import CallObserver
from gce_backend.clients.retry import Backoff, Retrier, RetryBudget
from gce_backend.configuration.values import zone_region

__all__ = ["ComputeClient", "Timeouts"]

T = TypeVar("T")
R = TypeVar(
    "R",
    ComputeTemplate,
    ComputeGroup,
    ComputeInstance,
    MachineType,
    Image,
    Snapshot,
    Surrounding,
)

MAX_NAMES_PER_CALL: Final = 1000
_HELD_SECONDS = 120.0  # how long `wait` may hold a call before it answers


class ComputeClient:
    """Compute's methods that this project uses.

    All of them raise the errors of `gce_backend.errors`. A name, zone or project that is malformed,
    and a requestId that is no UUID, raise InvalidRequestError before anything is sent.
    A mutation's Operation is accepted, not done.

    Args:
        session: the aiohttp session; stays the caller's. Each held `wait` uses one connection.
        tokens: bearer tokens for `root`, to which alone they are sent.
        root: e.g. `https://compute.googleapis.com/compute/v1/`, with the slash at its end.
        budget: calls per minute.
        clock: its wall clock tells when Google's next minute begins.
        random: jitter of the back-off.
        backoff: pace of repetitions.
        retry_budget: their share of all calls.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        tokens: TokenSource,
        root: str,
        budget: CallBudget,
        clock: Clock,
        random: Random,
        observer: CallObserver | None = None,
        timeouts: Timeouts | None = None,
        backoff: Backoff | None = None,
        retry_budget: RetryBudget | None = None,
    ) -> None:
        self._root = root
        self._budget = budget
        self._transport = ComputeTransport(
            session=session,
            tokens=tokens,
            budget=budget,
            clock=clock,
            observer=observer,
            timeouts=timeouts or Timeouts(),
            retrier=Retrier(backoff or Backoff(), retry_budget or RetryBudget(), random, observer),
        )

    async def insert_instance_template(
        self, project: str, body: Mapping[str, Any], *, request_id: str
    ) -> Operation:
        """Starts to create a template."""
        path = _path(project, GLOBAL, "instanceTemplates")
        method = "instanceTemplates.insert"
        return await self._mutate(method, HTTPMethod.POST, path, request_id, body)

    async def get_instance_template(self, project: str, name: str) -> ComputeTemplate:
        """One template."""
        path = _path(project, GLOBAL, "instanceTemplates", name)
        return await self._get("instanceTemplates.get", path, ComputeTemplate)

    async def list_instance_templates(
        self, project: str, filter: str | None = None
    ) -> Listing[ComputeTemplate]:
        """The project's templates."""
        path = _path(project, GLOBAL, "instanceTemplates")
        return await self._list("instanceTemplates.list", path, TemplatePage, condition=filter)

    async def delete_instance_template(
        self, project: str, name: str, *, request_id: str
    ) -> Operation:
        """Starts to delete a template."""
        path = _path(project, GLOBAL, "instanceTemplates", name)
        method = "instanceTemplates.delete"
        return await self._mutate(method, HTTPMethod.DELETE, path, request_id)

    async def insert_group(
        self, project: str, zone: str, body: Mapping[str, Any], *, request_id: str
    ) -> Operation:
        """Starts to create a group.

        Sent once: a repeat must be decided on the size that is wanted then.
        """
        path = _group_path(project, zone)
        method = "instanceGroupManagers.insert"
        return await self._mutate(method, HTTPMethod.POST, path, request_id, body, once=True)

    async def get_group(self, project: str, zone: str, name: str) -> ComputeGroup:
        """One group."""
        path = _group_path(project, zone, name)
        return await self._get("instanceGroupManagers.get", path, ComputeGroup)

    async def list_groups(self, project: str) -> Listing[ComputeGroup]:
        """The project's groups, of all zones and regions."""
        path = _path(project, AGGREGATED, "instanceGroupManagers")
        method = "instanceGroupManagers.aggregatedList"
        return await self._list(method, path, GroupPage)

    async def list_managed_instances(
        self, project: str, zone: str, group: str
    ) -> Listing[ManagedInstance]:
        """A group's members; in pages only when the group was created PAGINATED."""
        path = _group_path(project, zone, group) + "/listManagedInstances"
        method = "instanceGroupManagers.listManagedInstances"
        return await self._list(method, path, ManagedInstancePage, verb=HTTPMethod.POST)

    async def create_instances(
        self, project: str, zone: str, group: str, names: Sequence[str], *, request_id: str
    ) -> Operation:
        """Starts to create at most 1,000 members of a group under these names.

        It only adds: executed late or twice, it meets its own names (AlreadyExistsError) and
        removes nothing. DONE means scheduled, not running. Sent once: a repeat must be decided on
        the size that the group has then.
        """
        method = "instanceGroupManagers.createInstances"
        _check_number(method, names)
        body = {"instances": [{"name": name} for name in names]}
        path = _group_path(project, zone, group) + "/createInstances"
        return await self._mutate(method, HTTPMethod.POST, path, request_id, body, once=True)

    async def delete_instances(
        self,
        project: str,
        zone: str,
        group: str,
        names: Sequence[str],
        *,
        request_id: str,
        skip_invalid: bool,
    ) -> Operation:
        """Starts to delete at most 1,000 members. DONE means scheduled, not gone.

        With `skip_invalid`, names that are not members are ignored; else they fail the whole call.
        Sent once: a repeat needs the Machine Provider's word of then.
        """
        method = "instanceGroupManagers.deleteInstances"
        _check_number(method, names)
        links = [_path(project, f"zones/{zone}", "instances", name) for name in names]
        body = {"instances": links, "skipInstancesOnValidationError": skip_invalid}
        path = _group_path(project, zone, group) + "/deleteInstances"
        return await self._mutate(method, HTTPMethod.POST, path, request_id, body, once=True)

    async def delete_group(
        self, project: str, zone: str, name: str, *, request_id: str
    ) -> Operation:
        """Starts to delete a group and every VM in it.

        Sent once: a repeat must be decided on what the group holds then.
        """
        path = _group_path(project, zone, name)
        method = "instanceGroupManagers.delete"
        return await self._mutate(method, HTTPMethod.DELETE, path, request_id, once=True)

    async def get_instance(self, project: str, zone: str, name: str) -> ComputeInstance:
        """One VM."""
        path = _path(project, f"zones/{zone}", "instances", name)
        return await self._get("instances.get", path, ComputeInstance)

    async def delete_instance(
        self, project: str, zone: str, name: str, *, request_id: str
    ) -> Operation:
        """Starts to delete one VM, past its group. Sent once: its name may be another's by then."""
        path = _path(project, f"zones/{zone}", "instances", name)
        return await self._mutate(
            "instances.delete", HTTPMethod.DELETE, path, request_id, once=True
        )

    async def list_instances(
        self, project: str, filter: str | None = None, *, whole: bool = False
    ) -> Listing[ComputeInstance]:
        """The project's VMs, of all zones; only when `whole` with their metadata and accounts."""
        path = _path(project, AGGREGATED, "instances")
        kind = WholeInstancePage if whole else InstancePage
        return await self._list("instances.aggregatedList", path, kind, condition=filter)

    async def list_disks(self, project: str) -> Listing[Disk]:
        """The project's disks, of all zones."""
        path = _path(project, AGGREGATED, "disks")
        return await self._list("disks.aggregatedList", path, DiskPage)

    async def set_instance_metadata(
        self,
        project: str,
        zone: str,
        name: str,
        fingerprint: str,
        items: Mapping[str, str],
        *,
        request_id: str,
    ) -> Operation:
        """Starts to replace all of a VM's metadata, as it was at `fingerprint`."""
        pairs = [{"key": key, "value": value} for key, value in items.items()]
        body = {"fingerprint": fingerprint, "items": pairs}
        path = _path(project, f"zones/{zone}", "instances", name) + "/setMetadata"
        method = "instances.setMetadata"
        return await self._mutate(method, HTTPMethod.POST, path, request_id, body)

    def metadata_room(self, project: str, region: str) -> Room:
        """How many updates of metadata the call budget has room for in a region."""
        return self._budget.room(Quota(project, QuotaGroup.MUTATE, region), Priority.METADATA)

    async def get_operation(self, link: ResourceLink) -> Operation:
        """An operation as it is now."""
        method, group = _operation_method(link, "get"), QuotaGroup.OPERATION_GET
        request = self._request(method, HTTPMethod.GET, link.path, group)
        return await self._transport.call(request, Operation)

    async def list_operations(self, project: str, zone: str, *, pages: int) -> Listing[Operation]:
        """A zone's newest operations: so many pages of 500."""
        path = _path(project, f"zones/{zone}", "operations")
        newest = {"orderBy": "creationTimestamp desc"}
        return await self._list(
            "zoneOperations.list", path, OperationPage, pages=pages, more=newest
        )

    async def wait_operation(self, link: ResourceLink) -> Operation:
        """An operation when it is DONE, or after at most two minutes, or sooner."""
        method, group = _operation_method(link, "wait"), QuotaGroup.HEAVY_READ
        path = link.path + "/wait"
        request = self._request(method, HTTPMethod.POST, path, group, held=_HELD_SECONDS)
        return await self._transport.call(request, Operation)

    async def await_operation(
        self,
        operation: Operation | ResourceLink,
        *,
        timeout: float,  # noqa: ASYNC109  (its end is an answer, not an error)
        floor: float = 0.5,
    ) -> Operation:
        """Waits until an operation is DONE, or for `timeout` seconds.

        Args:
            operation: what to wait for.
            timeout: seconds; then the last look is returned, whose `done` is False.
            floor: seconds from one wait's answer to the next call at least.

        Raises:
            OperationFailedError: it is DONE with an error.
            NotFoundError: Compute does not know it: look at the resource instead.
            TransientError: no look at it succeeded within the time.
        """
        last = operation if isinstance(operation, Operation) else None
        link = operation if isinstance(operation, ResourceLink) else operation.link
        failure = TransientError("compute.operations.wait", f"no answer within {timeout:g} s")
        try:
            async with asyncio.timeout(timeout):
                while last is None or not last.done:
                    pause = floor
                    try:
                        last = await self.wait_operation(link)
                    except TransientError as error:
                        failure = error
                        pause = max(floor, error.retry_after or 0.0)
                    if last is None or not last.done:
                        await asyncio.sleep(pause)
        except TimeoutError:
            pass  # the caller sees it by `done`
        if last is None:
            raise failure
        if ended := last.failure():
            raise ended
        return last

    async def get_machine_type(self, project: str, zone: str, name: str) -> MachineType:
        """One machine type."""
        path = _path(project, f"zones/{zone}", "machineTypes", name)
        return await self._get("machineTypes.get", path, MachineType)

    async def get_image(self, project: str, name: str) -> Image:
        """One image."""
        path = _path(project, GLOBAL, "images", name)
        return await self._get("images.get", path, Image)

    async def get_image_from_family(self, project: str, family: str) -> Image:
        """The newest image of a family that is not deprecated."""
        images, _, name = _path(project, GLOBAL, "images", family).rpartition("/")
        return await self._get("images.getFromFamily", f"{images}/family/{name}", Image)

    async def get_network(self, project: str, name: str) -> Surrounding:
        """One network."""
        return await self._get(
            "networks.get", _path(project, GLOBAL, "networks", name), Surrounding
        )

    async def get_subnetwork(self, project: str, region: str, name: str) -> Surrounding:
        """One subnetwork."""
        path = _path(project, f"regions/{region}", "subnetworks", name)
        return await self._get("subnetworks.get", path, Surrounding)

    async def get_disk_type(self, project: str, zone: str, name: str) -> Surrounding:
        """One disk type of a zone."""
        path = _path(project, f"zones/{zone}", "diskTypes", name)
        return await self._get("diskTypes.get", path, Surrounding)

    async def get_accelerator_type(self, project: str, zone: str, name: str) -> Surrounding:
        """One accelerator type of a zone."""
        path = _path(project, f"zones/{zone}", "acceleratorTypes", name)
        return await self._get("acceleratorTypes.get", path, Surrounding)

    async def get_reservation(self, project: str, zone: str, name: str) -> Surrounding:
        """One reservation of a zone."""
        path = _path(project, f"zones/{zone}", "reservations", name)
        return await self._get("reservations.get", path, Surrounding)

    async def get_resource_policy(self, project: str, region: str, name: str) -> Surrounding:
        """One resource policy of a region."""
        path = _path(project, f"regions/{region}", "resourcePolicies", name)
        return await self._get("resourcePolicies.get", path, Surrounding)

    async def get_snapshot(self, project: str, name: str) -> Snapshot:
        """One disk snapshot."""
        path = _path(project, GLOBAL, "snapshots", name)
        return await self._get("snapshots.get", path, Snapshot)

    async def list_snapshots(self, project: str, filter: str) -> Listing[Snapshot]:
        """The project's disk snapshots that pass a filter."""
        path = _path(project, GLOBAL, "snapshots")
        return await self._list("snapshots.list", path, SnapshotPage, condition=filter)

    async def _get(self, method: str, path: str, kind: type[R]) -> R:
        query = {"fields": kind.FIELDS}
        request = self._request(method, HTTPMethod.GET, path, QuotaGroup.READ, query)
        return await self._transport.call(request, kind)

    async def _mutate(
        self,
        method: str,
        verb: HTTPMethod,
        path: str,
        request_id: str,
        body: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
        **query: str,
    ) -> Operation:
        if not _is_request_id(request_id):
            raise InvalidRequestError(f"compute.{method}", f"not a requestId: {request_id!r}")
        query["requestId"] = request_id
        group = QuotaGroup.MUTATE
        request = self._request(method, verb, path, group, query, body=body, once=once)
        return await self._transport.call(request, Operation)

    async def _list(
        self,
        method: str,
        path: str,
        kind: type[Page[T]],
        *,
        condition: str | None = None,
        verb: HTTPMethod = HTTPMethod.GET,
        pages: int = MAX_PAGES,
        more: Mapping[str, str] | None = None,
    ) -> Listing[T]:
        if verb is not HTTPMethod.GET:  # the one list that is asked for by POST
            group = QuotaGroup.MUTATE
        else:
            group = QuotaGroup.HEAVY_READ if f"/{AGGREGATED}/" in path else QuotaGroup.LIST
        query = {"maxResults": "500", "fields": kind.FIELDS, **(more or {})}
        if condition is not None:
            query["filter"] = condition

        async def fetch(page_token: str) -> Page[T]:
            at = {"pageToken": page_token} if page_token else {}
            request = self._request(method, verb, path, group, query | at)
            return await self._transport.call(request, kind)

        return await gather_pages(fetch, pages)

    def _request(
        self,
        method: str,
        verb: HTTPMethod,
        path: str,
        group: QuotaGroup,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        held: float = 0.0,
        once: bool = False,
    ) -> ComputeRequest:
        url = URL(self._root + path).with_query(query)
        data = None if body is None else msgspec.json.encode(body)
        _, project, *scope = path.split("/")
        quota = Quota(project, group, _region_of(*scope[:2]))
        return ComputeRequest(f"compute.{method}", verb, quota, url, data, held, once)


def _region_of(scope: str, name: str) -> str:
    """The region that a call to `zones/Z` or `regions/R` is counted in; "" for others."""
    if scope == "zones":
        return zone_region(name)
    return name if scope == "regions" else ""


def _operation_method(link: ResourceLink, verb: str) -> str:
    method = link.scope.partition("/")[0].removesuffix("s") + "Operations." + verb
    if link.collection != "operations":
        raise InvalidRequestError(f"compute.{method}", f"not an operation: {link.path}")
    return method


def _is_request_id(text: str) -> bool:
    try:
        return uuid.UUID(text).int != 0
    except ValueError:
        return False


def _path(project: str, scope: str, collection: str | None = None, name: str | None = None) -> str:
    try:
        return resource_path(project, scope, collection, name)
    except ValueError as error:
        raise InvalidRequestError("compute", str(error)) from error


def _check_number(method: str, names: Sequence[str]) -> None:
    """Refuses a call about no instance, or about more than one call may name."""
    if not 0 < len(names) <= MAX_NAMES_PER_CALL:
        number = plural(len(names), "instance")
        raise InvalidRequestError(f"compute.{method}", f"{number}, not 1 to {MAX_NAMES_PER_CALL}")


def _group_path(project: str, zone: str, name: str | None = None) -> str:
    return _path(project, f"zones/{zone}", "instanceGroupManagers", name)
