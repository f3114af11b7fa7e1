"""Which IAM permission each method asks for, as Google's reference of that method says."""

from __future__ import annotations

_VERBS = {
    "insert": "create",
    "aggregatedList": "list",
    "listInstances": "list",
    "listManagedInstances": "get",
    "listErrors": "get",
    "wait": "get",
    "resize": "update",
    "deleteInstances": "update",
    "abandonInstances": "update",
    "recreateInstances": "update",
    "createInstances": "update",
    "patch": "update",
    "setInstanceTemplate": "update",
}
"""A method's last word to its permission's, where the two differ."""


def permission_of(method: str) -> str:
    """The permission that a method asks for on what it reads or changes.

    Args:
        method: e.g. `compute.instances.aggregatedList`.
    """
    resource, _, verb = method.rpartition(".")
    if resource == "compute.regionDisks":
        resource = "compute.disks"
    return f"{resource}.{_VERBS.get(verb, verb)}"
