"""What the daemon must be allowed to do, and how to find out whether it is.

The lists are those of a custom role of least privilege. `compute.instances.delete` is not among
them: machines are deleted through their group, by `instanceGroupManagers.deleteInstances`, which
needs `compute.instanceGroupManagers.update` alone. Neither is `iam.serviceAccounts.actAs`: it is
granted on the machines' own service accounts, not on a project.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gce_backend.json_api import JsonApi, decode, error_of

COMPUTE = (
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.globalOperations.get",
    "compute.images.get",
    "compute.images.useReadOnly",
    "compute.instanceGroupManagers.create",
    "compute.instanceGroupManagers.delete",
    "compute.instanceGroupManagers.get",
    "compute.instanceGroupManagers.list",
    "compute.instanceGroupManagers.update",
    "compute.instanceTemplates.create",
    "compute.instanceTemplates.delete",
    "compute.instanceTemplates.get",
    "compute.instanceTemplates.list",
    "compute.instanceTemplates.useReadOnly",
    "compute.instances.create",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.instances.setTags",
    "compute.machineTypes.get",
    "compute.networks.use",
    "compute.networks.useExternalIp",
    "compute.snapshots.get",
    "compute.snapshots.useReadOnly",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
)
"""In each project that templates.cfg names."""

DATASTORE = (
    "datastore.databases.get",
    "datastore.entities.create",
    "datastore.entities.delete",
    "datastore.entities.get",
    "datastore.entities.list",
    "datastore.entities.update",
)
"""In the daemon's own project."""

SUBSCRIPTION = ("pubsub.subscriptions.consume",)
"""On the pull subscription."""

LOOKS = (
    "pubsub.subscriptions.get",
    "pubsub.subscriptions.getIamPolicy",
    "pubsub.topics.get",
    "pubsub.topics.getIamPolicy",
)
"""On topic, subscription and their dead-letter pair, so that `doctor` may look at them."""

_METHOD = "cloudresourcemanager.projects.testIamPermissions"


class _Granted(msgspec.Struct):
    permissions: list[str] = []


_GRANTED = msgspec.json.Decoder(_Granted)


class ResourceManager:
    """Cloud Resource Manager v1, as far as it is needed.

    Args:
        api: calls it; its root ends in `/v1`.
    """

    def __init__(self, api: JsonApi) -> None:
        self._api = api

    async def granted(self, project: str, permissions: Iterable[str]) -> frozenset[str]:
        """Which of these permissions (100 at most) the caller has in a project.

        Raises:
            RemoteError: it could not be asked, or there is no such project.
        """
        path = f"/projects/{project}:testIamPermissions"
        body = {"permissions": list(permissions)}
        answer = await self._api.call(_METHOD, "POST", path, body=body, repeat=True)
        if answer.status != 200:
            raise error_of(_METHOD, answer)
        return frozenset(decode(_METHOD, answer.body, _GRANTED).permissions)
