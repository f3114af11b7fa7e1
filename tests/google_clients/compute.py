"""The clients of google-cloud-compute, pointed at an embedded cloud."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.api_core.extended_operation import ExtendedOperation
from google.api_core.future.polling import DEFAULT_POLLING

from google_clients.credentials import credentials
from support.lazy import Lazy
from support.patience import PATIENCE
from support.served_cloud import PROJECT

if TYPE_CHECKING:
    from google.cloud import compute_v1
else:
    compute_v1 = Lazy("google.cloud.compute_v1")  # two seconds, in each process that collects tests

__all__ = [
    "OTHER_ZONE",
    "ZONE",
    "Compute",
    "compute_v1",
    "described_template",
    "wait",
    "warning_of",
]

ZONE = "us-central1-a"
OTHER_ZONE = "europe-west1-b"

_POLLING = DEFAULT_POLLING.with_delay(initial=0.02, maximum=0.05).with_timeout(PATIENCE)

T = TypeVar("T")


class Compute(contextlib.ExitStack):
    """The clients; the block's end closes their connections.

    Attributes:
        templates: instanceTemplates.
        groups: instanceGroupManagers.
        instances: instances.
        zone_operations: zoneOperations.
        global_operations: globalOperations.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._credentials = credentials(url)

    def __enter__(self) -> Self:
        super().__enter__()
        self.zone_operations = self.client(compute_v1.ZoneOperationsClient)
        self.global_operations = self.client(compute_v1.GlobalOperationsClient)
        self.templates = self.client(compute_v1.InstanceTemplatesClient)
        self.groups = self.client(compute_v1.InstanceGroupManagersClient)
        self.instances = self.client(compute_v1.InstancesClient)
        return self

    def client(self, kind: type[T]) -> T:
        """A client of that class, e.g. `compute_v1.ZonesClient`."""
        factory: Any = kind
        made = factory(credentials=self._credentials, client_options={"api_endpoint": self._url})
        # The library polls operations with a client that it makes without the endpoint option;
        # this is where it keeps that client.
        polling = getattr(made.transport, "_extended_operations_services", {})
        if kind not in {compute_v1.ZoneOperationsClient, compute_v1.GlobalOperationsClient}:
            polling["zone_operations"] = self.zone_operations
            polling["global_operations"] = self.global_operations
        self.enter_context(made)
        return made  # type: ignore[no-any-return]  # the classes' common base is not typed

    def make_template(self, name: str) -> compute_v1.InstanceTemplate:
        """A new template, when it can be used."""
        wait(
            self.templates.insert(
                project=PROJECT, instance_template_resource=described_template(name)
            )
        )
        return self.templates.get(project=PROJECT, instance_template=name)

    def make_group(
        self, name: str, size: int, *, zone: str = ZONE, paginated: bool = False
    ) -> compute_v1.InstanceGroupManager:
        """A new group of a template of the same name, when its VMs run."""
        template = self.make_template(name)
        listing = "PAGINATED" if paginated else "PAGELESS"
        described = compute_v1.InstanceGroupManager(
            name=name,
            base_instance_name=name,
            instance_template=template.self_link,
            target_size=size,
            list_managed_instances_results=listing,
        )
        wait(
            self.groups.insert(
                project=PROJECT, zone=zone, instance_group_manager_resource=described
            )
        )
        return self.groups.get(project=PROJECT, zone=zone, instance_group_manager=name)

    def members(self, name: str, zone: str = ZONE) -> list[compute_v1.ManagedInstance]:
        """The VMs of a group."""
        found = self.groups.list_managed_instances(
            project=PROJECT, zone=zone, instance_group_manager=name
        )
        return list(found)


def described_template(name: str) -> compute_v1.InstanceTemplate:
    """A template as a caller describes it."""
    boot = compute_v1.AttachedDisk(
        boot=True,
        auto_delete=True,
        initialize_params=compute_v1.AttachedDiskInitializeParams(
            source_image="projects/debian-cloud/global/images/family/debian-12", disk_size_gb=20
        ),
    )
    nat = compute_v1.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")
    interface = compute_v1.NetworkInterface(network="global/networks/default", access_configs=[nat])
    properties = compute_v1.InstanceProperties(
        machine_type="e2-small",
        disks=[boot],
        network_interfaces=[interface],
        metadata=compute_v1.Metadata(items=[compute_v1.Items(key="role", value="worker")]),
        service_accounts=[
            compute_v1.ServiceAccount(
                email="default", scopes=["https://www.googleapis.com/auth/pubsub"]
            )
        ],
        labels={"fleet": name},
        tags=compute_v1.Tags(items=["workers"]),
        scheduling=compute_v1.Scheduling(
            automatic_restart=False, on_host_maintenance="TERMINATE", preemptible=True
        ),
    )
    return compute_v1.InstanceTemplate(name=name, description="made here", properties=properties)


def wait(operation: ExtendedOperation) -> None:
    """Waits for an operation as the library does, but looks again after a few milliseconds.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: the operation ended in an error.
    """
    operation.result(polling=_POLLING)


def warning_of(listed: Any) -> str:
    """The code of the warning in a scope of an aggregated list; "" when there is none."""
    code: str = listed.warning.code
    return code
