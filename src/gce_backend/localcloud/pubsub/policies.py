"""IAM policies of topics and subscriptions: kept and answered, with every permission granted."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec

from gce_backend.localcloud.statuses import aborted, invalid
from gce_backend.localcloud.tables import Tables


class Policies:
    """The policies by the full name of their resource.

    Args:
        tables: where they live.
    """

    def __init__(self, tables: Tables) -> None:
        self._rows = tables.table("pubsub.policies", dict[str, Any])

    def get(self, resource: str) -> dict[str, Any]:
        """The JSON Policy of a resource, with its etag."""
        policy = self._rows.get(resource, {"version": 1})
        digest = hashlib.sha256(msgspec.json.encode(policy)).digest()
        return {**policy, "etag": base64.b64encode(digest[:9]).decode()}

    def set(self, resource: str, policy: Any) -> dict[str, Any]:  # unchecked JSON
        """Replaces a resource's policy.

        Raises:
            ServiceError: it is not a policy, or was made from one that is no longer current.
        """
        if not isinstance(policy, dict) or not isinstance(policy.get("bindings", []), list):
            raise invalid("policy must be an object with a list of bindings")
        if policy.get("etag") not in {None, "", self.get(resource)["etag"]}:
            raise aborted("There were concurrent policy changes. Please retry the whole change.")
        bindings = policy.get("bindings", [])
        self._rows[resource] = {"version": policy.get("version", 1), "bindings": bindings}
        return self.get(resource)

    def drop(self, resource: str) -> None:
        """Forgets the policy of a resource that goes."""
        self._rows.pop(resource, None)
