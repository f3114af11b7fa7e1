"""IAM policies of topics and subscriptions: kept and answered, not enforced."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec

from gce_backend.localcloud.pubsub.requests import Policy
from gce_backend.localcloud.statuses import aborted, invalid
from gce_backend.localcloud.tables import Tables

CONDITIONS_VERSION = 3


class IamPolicies:
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

    def set(self, resource: str, policy: Policy) -> dict[str, Any]:
        """Replaces a resource's policy.

        Raises:
            ServiceError: it has conditions in a version without conditions, or its etag is not
                current.
        """
        version = policy.version or 1
        bindings = policy.bindings or []
        if version < CONDITIONS_VERSION and any(binding.condition for binding in bindings):
            raise invalid(f"a policy with conditions must have version {CONDITIONS_VERSION}")
        if policy.etag not in {None, "", self.get(resource)["etag"]}:
            raise aborted("There were concurrent policy changes. Please retry the whole change.")
        self._rows[resource] = {"version": version, "bindings": msgspec.to_builtins(bindings)}
        return self.get(resource)

    def drop(self, resource: str) -> None:
        """Forgets the policy of a deleted resource."""
        self._rows.pop(resource, None)
