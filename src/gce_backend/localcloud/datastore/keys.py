"""Keys: from JSON, with Google's rules, to tuples that sort as Datastore sorts keys."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias

import msgspec

from gce_backend.localcloud.statuses import invalid, not_found

MAX_NAME_BYTES = 1500
_RESERVED = re.compile(r"__.*__", re.DOTALL)

Element: TypeAlias = tuple[str, int, int, str]
"""(kind, 0, id, "") or (kind, 1, 0, name): ids come before names."""

KeyPath: TypeAlias = tuple[Element, ...]

INCOMPLETE = 0
"""The id of a key that is still to be allocated; no key has it."""


class Index(NamedTuple):
    """What a query looks through: one kind ("" for all) of one namespace."""

    project: str
    namespace: str
    kind: str


class Key(NamedTuple):
    """A key that obeys the rules."""

    project: str
    namespace: str
    path: KeyPath

    @property
    def name(self) -> str:
        """The key in one unambiguous string, unique in the cloud."""
        return msgspec.json.encode(self).decode()

    @property
    def home(self) -> Index:
        """Where queries find it."""
        return Index(self.project, self.namespace, self.path[-1][0])

    @property
    def incomplete(self) -> bool:
        """Whether its last element still needs an id."""
        return self.path[-1][1:3] == (0, INCOMPLETE)

    def with_id(self, number: int) -> Key:
        """This key with the id of its last element filled in."""
        return self._replace(path=(*self.path[:-1], (self.path[-1][0], 0, number, "")))

    def to_json(self) -> dict[str, Any]:
        """The key as the API writes it."""
        path = [
            {"kind": kind, "name": name} if named else {"kind": kind, "id": str(number)}
            for kind, named, number, name in self.path
        ]
        partition = {"projectId": self.project}
        if self.namespace:
            partition["namespaceId"] = self.namespace
        return {"partitionId": partition, "path": path}


def parse_partition(data: Any, project: str) -> tuple[str, str]:  # unchecked JSON
    """The project and namespace of a JSON PartitionId.

    Raises:
        ServiceError: it is another project's, or of a database that does not exist.
    """
    if data is None:
        return project, ""
    if not isinstance(data, dict):
        raise invalid("partitionId must be an object")
    if data.get("projectId") not in {None, "", project}:
        raise invalid(f"mismatched project: {data['projectId']} in a request to {project}")
    if data.get("databaseId"):
        raise not_found(f"The database {data['databaseId']} does not exist for project {project}")
    namespace = data.get("namespaceId", "")
    if not isinstance(namespace, str):
        raise invalid("namespaceId must be a string")
    return project, namespace


def parse_key(data: Any, project: str, *, incomplete: bool = False) -> Key:  # as above
    """The key of a JSON Key.

    Args:
        data: unchecked JSON.
        project: the project that the request is to.
        incomplete: whether its last element may lack an id.

    Raises:
        ServiceError: it breaks a rule.
    """
    elements = data.get("path") if isinstance(data, dict) else None
    if not isinstance(elements, list) or not 1 <= len(elements) <= 100:
        raise invalid("a key needs a path of 1 to 100 elements")
    partition = parse_partition(data.get("partitionId"), project)
    path = tuple(_parse_element(element) for element in elements)
    holes = [number for number, element in enumerate(path) if element[1:3] == (0, INCOMPLETE)]
    if holes and not (incomplete and holes == [len(path) - 1]):
        raise invalid("the key path is incomplete")
    return Key(*partition, path)


def _parse_element(data: Any) -> Element:  # as above
    if not isinstance(data, dict):
        raise invalid("a path element must be an object")
    kind = _check_name(data.get("kind"), "kind")
    if data.get("name") is not None:
        if data.get("id") is not None:
            raise invalid("a path element has either a name or an id")
        return kind, 1, 0, _check_name(data["name"], "name")
    if data.get("id") is None:
        return kind, 0, INCOMPLETE, ""
    try:
        number = int(data["id"])
    except (TypeError, ValueError):
        raise invalid("an id must be an integer") from None
    if not 0 < number < 2**63:
        raise invalid("an id must be a positive 64-bit integer")
    return kind, 0, number, ""


def _check_name(name: Any, what: str) -> str:  # as above
    if not isinstance(name, str) or not name:
        raise invalid(f"a path element needs a non-empty {what}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(f"a {what} is longer than {MAX_NAME_BYTES} bytes")
    if _RESERVED.fullmatch(name):
        raise invalid(f"the {what} {name} is reserved")
    return name
