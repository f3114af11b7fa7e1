"""The IAM permission that each method needs, according to Google's reference of the method."""

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
"""The last word of a permission, by the last word of the method, if they differ."""


def permission_of(method: str) -> str:
    """The permission that a method needs on what it reads or changes.

    Args:
        method: e.g. `compute.instances.aggregatedList`.
    """
    resource, _, verb = method.rpartition(".")
    if resource == "compute.regionDisks":
        resource = "compute.disks"
    return f"{resource}.{_VERBS.get(verb, verb)}"
