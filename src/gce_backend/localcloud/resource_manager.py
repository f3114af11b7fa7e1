"""Cloud Resource Manager v1: which permissions the caller has in a project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gce_backend.localcloud.cloud import Call, Cloud, Route, Service
from gce_backend.localcloud.statuses import invalid, status_body

MAX_PERMISSIONS = 100


class ResourceManagerService(Service):
    """Grants everything but the cloud's `denied_permissions`."""

    name = "cloudresourcemanager"
    error_body = staticmethod(status_body)

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def routes(self) -> Iterable[Route]:
        """One method."""
        yield Route(
            f"{self.name}.projects.testIamPermissions",
            "POST",
            "/v1/projects/{project}:testIamPermissions",
            self._test_permissions,
        )

    def state(self) -> dict[str, Any]:
        """The denied permissions."""
        return {"denied_permissions": list(self._cloud.options.denied_permissions)}

    async def _test_permissions(self, call: Call) -> dict[str, Any]:
        asked = call.body.get("permissions")
        if not isinstance(asked, list) or not 1 <= len(asked) <= MAX_PERMISSIONS:
            raise invalid(f"permissions must be a list of 1 to {MAX_PERMISSIONS}")
        if any("*" in str(permission) for permission in asked):
            raise invalid("permissions must not hold wildcards")
        denied = self._cloud.options.denied_permissions
        return {"permissions": [permission for permission in asked if permission not in denied]}
