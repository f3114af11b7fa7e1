"""Which members request bodies may have: Compute refuses bodies with any other.

A shape is a dictionary of members, a list with the shape of its elements, or a type; `object` means
that Compute knows the member and the embedded cloud does not look into it. A test compares these
shapes with Google's own description.
"""

from __future__ import annotations

from typing import Any

from gce_backend.localcloud.compute.replies import invalid

Shape = Any

_TEXTS: Shape = {"*": str}
_LIST: Shape = [str]
_METADATA: Shape = {"fingerprint": str, "items": [{"key": str, "value": str}], "kind": str}
_FIXED_OR_PERCENT: Shape = {"calculated": int, "fixed": int, "percent": int}
_INITIALIZE_PARAMS: Shape = {
    **dict.fromkeys(("diskSizeGb", "provisionedIops", "provisionedThroughput"), int),
    **dict.fromkeys(
        ("architecture", "description", "diskName", "diskType", "onUpdateAction", "sourceImage"),
        str,
    ),
    **dict.fromkeys(("sourceSnapshot", "storagePool"), str),
    "licenses": _LIST,
    "replicaZones": _LIST,
    "resourcePolicies": _LIST,
    **dict.fromkeys(("sourceImageEncryptionKey", "sourceSnapshotEncryptionKey"), object),
    "enableConfidentialCompute": bool,
    "labels": _TEXTS,
    "resourceManagerTags": _TEXTS,
}
_DISK: Shape = {
    **dict.fromkeys(("autoDelete", "boot", "forceAttach"), bool),
    **dict.fromkeys(
        (
            *("architecture", "deviceName", "interface", "kind"),
            *("mode", "savedState", "source", "type"),
        ),
        str,
    ),
    **dict.fromkeys(
        ("diskEncryptionKey", "guestOsFeatures", "shieldedInstanceInitialState"), object
    ),
    "diskSizeGb": int,
    "index": int,
    "initializeParams": _INITIALIZE_PARAMS,
    "licenses": _LIST,
}
_ACCESS_CONFIG: Shape = {
    **dict.fromkeys(
        (
            *("externalIpv6", "ipCollection", "kind", "name", "natIP"),
            *("networkTier", "publicPtrDomainName", "securityPolicy", "type"),
        ),
        str,
    ),
    "externalIpv6PrefixLength": int,
    "setPublicPtr": bool,
}
_NETWORK_INTERFACE: Shape = {
    **dict.fromkeys(("aliasIpRanges", "aliasIpv6Ranges"), object),
    "accessConfigs": [_ACCESS_CONFIG],
    "ipv6AccessConfigs": [_ACCESS_CONFIG],
    **dict.fromkeys(
        (
            *("fingerprint", "igmpQuery", "ipv6AccessType", "ipv6Address", "kind", "name"),
            *("network", "networkAttachment", "networkIP", "nicType", "parentNicName"),
            *("serviceClassId", "stackType", "subnetwork"),
        ),
        str,
    ),
    **dict.fromkeys(("internalIpv6PrefixLength", "queueCount", "vlan"), int),
    "enableVpcScopedDns": bool,
}
_PROPERTIES: Shape = {
    **dict.fromkeys(
        (
            *("advancedMachineFeatures", "confidentialInstanceConfig", "guestAccelerators"),
            *("networkPerformanceConfig", "reservationAffinity", "scheduling"),
            *("shieldedInstanceConfig", "workloadIdentityConfig"),
        ),
        object,
    ),
    **dict.fromkeys(
        (
            *("description", "keyRevocationActionType", "localSsdEncryptionMode"),
            *("machineType", "minCpuPlatform", "privateIpv6GoogleAccess"),
        ),
        str,
    ),
    "canIpForward": bool,
    "disks": [_DISK],
    "labels": _TEXTS,
    "metadata": _METADATA,
    "networkInterfaces": [_NETWORK_INTERFACE],
    "resourceManagerTags": _TEXTS,
    "resourcePolicies": [str],
    "serviceAccounts": [{"email": str, "scopes": [str]}],
    "tags": {"fingerprint": str, "items": [str]},
}
_GROUP: Shape = {
    **dict.fromkeys(
        (
            *("currentActions", "distributionPolicy", "instanceFlexibilityPolicy"),
            *("resourcePolicies", "standbyPolicy", "statefulPolicy", "status"),
            "targetSizePolicy",
        ),
        object,
    ),
    **dict.fromkeys(
        (
            *("baseInstanceName", "creationTimestamp", "description", "fingerprint", "id"),
            *("instanceGroup", "instanceTemplate", "kind", "listManagedInstancesResults"),
            *("name", "region", "selfLink", "zone"),
        ),
        str,
    ),
    **dict.fromkeys(("satisfiesPzi", "satisfiesPzs"), bool),
    **dict.fromkeys(("targetSize", "targetStoppedSize", "targetSuspendedSize"), int),
    "allInstancesConfig": {
        "properties": {"exposeHostTopology": bool, "labels": _TEXTS, "metadata": _TEXTS}
    },
    "autoHealingPolicies": [{"healthCheck": str, "initialDelaySec": int}],
    "instanceLifecyclePolicy": {
        **dict.fromkeys(
            ("defaultActionOnFailure", "forceUpdateOnRepair", "onFailedHealthCheck"), str
        ),
        "onRepair": object,
    },
    "namedPorts": [{"name": str, "port": int}],
    "targetPools": [str],
    "updatePolicy": {
        **dict.fromkeys(
            (
                *("instanceRedistributionType", "minimalAction", "mostDisruptiveAllowedAction"),
                *("replacementMethod", "type"),
            ),
            str,
        ),
        **dict.fromkeys(("maxSurge", "maxUnavailable"), _FIXED_OR_PERCENT),
    },
    "versions": [{"instanceTemplate": str, "name": str, "targetSize": _FIXED_OR_PERCENT}],
}

BODIES: dict[str, Shape] = {
    "compute.instanceTemplates.insert": {
        **dict.fromkeys(
            (
                *("creationTimestamp", "description", "id", "kind", "name"),
                *("region", "selfLink", "sourceInstance"),
            ),
            str,
        ),
        "properties": _PROPERTIES,
        "sourceInstanceParams": object,
    },
    "compute.instanceGroupManagers.insert": _GROUP,
    "compute.instanceGroupManagers.deleteInstances": {
        "instances": [str],
        "skipInstancesOnValidationError": bool,
    },
    "compute.instances.setMetadata": _METADATA,
}
"""The body of each method that has one."""


def check_body(method: str, body: dict[str, Any]) -> None:
    """Refuses a body with unknown members or values of the wrong type.

    Args:
        method: the called method.
        body: its JSON body.

    Raises:
        ServiceError: 400 invalid.
    """
    shape = BODIES.get(method)
    if shape is not None:
        _check(body, shape, "resource")


def _check(value: Any, shape: Shape, place: str) -> None:
    if shape is object or value is None:
        return
    if isinstance(shape, dict):
        _check_type(value, dict, place)
        for name, inner in value.items():
            below = shape.get(name, shape.get("*"))
            if below is None:
                raise invalid(
                    f"Invalid JSON payload received. Unknown name \"{name}\" at '{place}': "
                    "Cannot find field."
                )
            _check(inner, below, f"{place}.{name}")
    elif isinstance(shape, list):
        _check_type(value, list, place)
        for index, inner in enumerate(value):
            _check(inner, shape[0], f"{place}[{index}]")
    elif shape is int and isinstance(value, str):
        if not value.removeprefix("-").isdecimal():
            raise _wrong_type(value, place)
    else:
        _check_type(value, shape, place)


def _check_type(value: Any, kind: type, place: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(value, place)


def _wrong_type(value: Any, place: str) -> Exception:
    return invalid(f"Invalid value at '{place}': {value!r}")
