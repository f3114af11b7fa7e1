"""Commits: many mutations, applied as a whole or not at all."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.datastore.keys import EntityKey, parse_key
from gce_backend.localcloud.datastore.masks import merged, parse_mask
from gce_backend.localcloud.datastore.requests import Json, Mutation
from gce_backend.localcloud.datastore.storage import Storage, StorageChange, StorageRow, encoded
from gce_backend.localcloud.datastore.values import check_properties, parse_instant
from gce_backend.localcloud.statuses import aborted, already_exists, invalid, not_found

_VERBS = ("insert", "update", "upsert", "delete")
_ENTITY_MEMBERS = {"key", "properties"}
_FORBIDDEN = {
    ("insert", "insert"),
    ("update", "insert"),
    ("upsert", "insert"),
    ("delete", "update"),
}
"""Pairs of mutations that one commit may not make to the same entity."""


def timestamp(now: UnixSeconds) -> str:
    """A Unix time in RFC 3339."""
    return (
        datetime.fromtimestamp(now, UTC).replace(tzinfo=None).isoformat("T", "microseconds") + "Z"
    )


def allocate_id(storage: Storage, key: EntityKey) -> EntityKey:
    """Completes a key with an id that no entity has and that is not reserved."""
    while True:
        complete = key.with_id(secrets.randbelow(2**52 - 1) + 1)
        if storage.is_free(complete.name):
            return complete


class Commit:
    """A commit that is being prepared.

    Args:
        storage: the entities that it changes.
        transactional: whether several mutations may be about the same entity.
    """

    def __init__(
        self, storage: Storage, project: str, now: UnixSeconds, *, transactional: bool
    ) -> None:
        self._storage = storage
        self._project = project
        self._time = timestamp(now)
        self._version = storage.next_version(now)
        self._transactional = transactional
        self._done: dict[str, str] = {}
        self._writes: dict[str, tuple[EntityKey, StorageRow | None]] = {}

    @property
    def written(self) -> set[str]:
        """The names of the keys of its mutations."""
        return set(self._done)

    def stage(self, mutation: Mutation) -> dict[str, Any]:
        """Adds a mutation; nothing is visible before `apply`.

        Returns:
            Its JSON MutationResult.

        Raises:
            ServiceError: it breaks a rule, or conflicts with what is stored: the commit fails.
        """
        verb, body = _verb(mutation)
        data = body if verb == "delete" else body.get("key")
        key = parse_key(data, self._project, incomplete=verb in {"insert", "upsert"})
        result: dict[str, Any] = {}
        if key.incomplete:
            key = allocate_id(self._storage, key)
            result["key"] = key.to_json()
        name = key.name
        self._check_sequence(name, verb)
        staged = self._writes.get(name)
        current = staged[1] if staged else self._storage.get(name)
        if _conflicts(mutation, current):
            if mutation.conflict_resolution_strategy == "FAIL":
                raise aborted(f"the entity is not at the version that was read: {name}")
            return {**result, **self._result(current), "conflictDetected": True}
        if verb == "delete":
            self._writes[name] = (key, None)
            return self._result(None)
        written = self._write(verb, key, name, mutation, body, current)
        return {**result, **self._result(written)}

    def _check_sequence(self, name: str, verb: str) -> None:
        before = self._done.get(name)
        self._done[name] = verb
        if before is None:
            return
        if not self._transactional:
            raise invalid(
                "A non-transactional commit may not contain multiple mutations affecting the same "
                "entity."
            )
        if (before, verb) in _FORBIDDEN:
            raise invalid(f"a commit may not {verb} what it has {before}ed before: {name}")

    def _write(
        self,
        verb: str,
        key: EntityKey,
        name: str,
        mutation: Mutation,
        body: Json,
        current: StorageRow | None,
    ) -> StorageRow:
        if verb == "insert" and current is not None:
            raise already_exists(f"entity already exists: {name}")
        if verb == "update" and current is None:
            raise not_found(f"no entity to update: {name}")
        if body.keys() - _ENTITY_MEMBERS:
            raise invalid("an entity has a key and properties only")
        old = current.properties if current else {}
        new = check_properties(body.get("properties"), self._project)
        properties = merged(old, new, parse_mask(mutation.property_mask))
        if current is not None and old == properties:
            return current
        created = current.created if current else self._time
        row = StorageRow(
            encoded(key.to_json()), encoded(properties), self._version, created, self._time
        )
        self._writes[name] = (key, row)
        return row

    def _result(self, row: StorageRow | None) -> dict[str, Any]:
        if row is None:
            return {"version": str(self._version)}
        return {
            "version": str(row.version),
            "createTime": row.created,
            "updateTime": row.updated,
        }

    def apply(self) -> list[StorageChange]:
        """Applies all staged mutations."""
        writes = {
            name: (key, row)
            for name, (key, row) in self._writes.items()
            if row is not None or self._storage.get(name) is not None
        }
        return self._storage.apply(self._version, writes)


def _verb(mutation: Mutation) -> tuple[str, Json]:
    found = [(verb, body) for verb in _VERBS if (body := getattr(mutation, verb)) is not None]
    if len(found) != 1:
        raise invalid("a mutation has exactly one of insert, update, upsert, delete")
    if mutation.property_transforms:
        raise invalid("the embedded cloud does not support propertyTransforms")
    if mutation.base_version is not None and mutation.update_time is not None:
        raise invalid("a mutation has at most one of baseVersion and updateTime")
    return found[0]


def _conflicts(mutation: Mutation, current: StorageRow | None) -> bool:
    if mutation.base_version is not None:
        return mutation.base_version != (current.version if current else 0)
    if mutation.update_time is not None:
        wanted = parse_instant(mutation.update_time)
        return current is None or wanted != parse_instant(current.updated)
    if mutation.conflict_resolution_strategy not in {None, "STRATEGY_UNSPECIFIED"}:
        raise invalid("a conflictResolutionStrategy needs a baseVersion or an updateTime")
    return False
