"""Client of Cloud Resource Manager: which permissions the caller has."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gce_backend.clients.exchange import decode
from gce_backend.clients.json_api import JsonApi, success

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
        return frozenset(decode(_METHOD, success(_METHOD, answer), _GRANTED).permissions)
