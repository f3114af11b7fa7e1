"""The permissions that the daemon needs, and how to check them.

The lists are those of a custom role of least privilege. `compute.instances.delete` is not among
them: machines are deleted through their group, by `instanceGroupManagers.deleteInstances`, which
needs `compute.instanceGroupManagers.update` alone. Neither is `iam.serviceAccounts.actAs`: it is
granted on the machines' own service accounts, not on a project.
"""

from __future__ import annotations

COMPUTE = (
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.globalOperations.get",
    "compute.images.get",
    "compute.images.getFromFamily",
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
    "compute.snapshots.list",
    "compute.snapshots.useReadOnly",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
    "compute.zoneOperations.list",
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

PROVIDER_PUBSUB = (
    "pubsub.subscriptions.create",
    "pubsub.subscriptions.delete",
    "pubsub.subscriptions.setIamPolicy",
    "pubsub.topics.attachSubscription",
    "pubsub.topics.create",
    "pubsub.topics.delete",
    "pubsub.topics.publish",
)
"""In the Machine Provider's project: each machine has a topic and a subscription."""

SUBSCRIPTION = ("pubsub.subscriptions.consume",)
"""On the pull subscription."""

LOOKS = (
    "pubsub.subscriptions.get",
    "pubsub.subscriptions.getIamPolicy",
    "pubsub.topics.get",
    "pubsub.topics.getIamPolicy",
)
"""On topic, subscription and their dead-letter pair, so that `doctor` may look at them."""
