"""Commits: many mutations, applied as a whole or not at all."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from gce_backend.localcloud.datastore.keys import Key, parse_key
from gce_backend.localcloud.datastore.storage import Change, Storage, Stored
from gce_backend.localcloud.datastore.values import check_properties
from gce_backend.localcloud.statuses import aborted, already_exists, invalid, not_found

MAX_MUTATIONS = 500
_VERBS = ("insert", "update", "upsert", "delete")
_UNSUPPORTED = ("propertyMask", "propertyTransforms", "updateTime")


def timestamp(now: float) -> str:
    """A Unix time in RFC 3339."""
    return (
        datetime.fromtimestamp(now, UTC).replace(tzinfo=None).isoformat("T", "microseconds") + "Z"
    )


def allocate_id(storage: Storage, key: Key) -> Key:
    """Completes a key with an id that no entity has."""
    while True:
        complete = key.with_id(secrets.randbelow(2**52 - 1) + 1)
        if storage.get(complete.name) is None:
            return complete


class Commit:
    """One commit in the making.

    Args:
        storage: what it is to change.
        project: the project that it is for.
        now: Unix time in seconds.
        transactional: whether several mutations may be about one entity.
    """

    def __init__(self, storage: Storage, project: str, now: float, *, transactional: bool) -> None:
        self._storage = storage
        self._project = project
        self._time = timestamp(now)
        self._version = storage.next_version(now)
        self._transactional = transactional
        self._seen: set[str] = set()
        self._writes: dict[str, tuple[Key, Stored | None]] = {}

    def stage(self, mutation: Any) -> dict[str, Any]:  # unchecked JSON
        """Adds a mutation; nothing is visible before `apply`.

        Returns:
            Its JSON MutationResult.

        Raises:
            ServiceError: it breaks a rule, or does not fit what is stored: the commit fails.
        """
        verb = _verb(mutation)
        body = mutation[verb]
        data = body.get("key") if verb != "delete" and isinstance(body, dict) else body
        key = parse_key(data, self._project, incomplete=verb in {"insert", "upsert"})
        result: dict[str, Any] = {}
        if key.incomplete:
            key = allocate_id(self._storage, key)
            result["key"] = key.to_json()
        name = key.name
        if name in self._seen and not self._transactional:
            raise invalid(
                "A non-transactional commit may not contain multiple mutations affecting the same "
                "entity."
            )
        self._seen.add(name)
        staged = self._writes.get(name)
        current = staged[1] if staged else self._storage.get(name)
        if _conflicts(mutation, current):
            if mutation.get("conflictResolutionStrategy") == "FAIL":
                raise aborted(f"the entity is not at version {mutation['baseVersion']}: {name}")
            return {**result, **self._result(current), "conflictDetected": True}
        written = self._write(verb, key, name, body, current)
        return {**result, **self._result(written)}

    def _write(
        self, verb: str, key: Key, name: str, body: dict[str, Any], current: Stored | None
    ) -> Stored | None:
        if verb == "delete":
            if current is not None:
                self._writes[name] = (key, None)
            return None
        if verb == "insert" and current is not None:
            raise already_exists(f"entity already exists: {name}")
        if verb == "update" and current is None:
            raise not_found(f"no entity to update: {name}")
        properties = check_properties(body.get("properties"), self._project)
        if current is not None and current.properties == properties:
            return current
        created = current.created if current else self._time
        row = Stored(key.to_json(), properties, self._version, created, self._time)
        self._writes[name] = (key, row)
        return row

    def _result(self, row: Stored | None) -> dict[str, Any]:
        if row is None:
            return {"version": str(self._version)}
        return {
            "version": str(row.version),
            "createTime": row.created,
            "updateTime": row.updated,
        }

    def apply(self) -> list[Change]:
        """Makes all that was staged current."""
        writes = {
            name: (key, row)
            for name, (key, row) in self._writes.items()
            if row is not None or self._storage.get(name) is not None
        }
        return self._storage.apply(self._version, writes)


def _verb(mutation: Any) -> str:  # unchecked JSON
    verbs = [verb for verb in _VERBS if isinstance(mutation, dict) and verb in mutation]
    if len(verbs) != 1:
        raise invalid("a mutation has exactly one of insert, update, upsert, delete")
    for member in _UNSUPPORTED:
        if mutation.get(member):
            raise invalid(f"the embedded cloud does not support {member} in mutations")
    return verbs[0]


def _conflicts(mutation: dict[str, Any], current: Stored | None) -> bool:
    if mutation.get("baseVersion") is None:
        return False
    try:
        base = int(mutation["baseVersion"])
    except (TypeError, ValueError):
        raise invalid("baseVersion must be an integer") from None
    return base != (current.version if current else 0)
