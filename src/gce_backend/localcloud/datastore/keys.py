"""Keys: converts JSON, by Google's rules, to tuples that sort as in Datastore."""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple, TypeAlias

import msgspec

from gce_backend.localcloud.statuses import invalid, not_found

MAX_NAME_BYTES = 1500
MAX_KEY_BYTES = 6 * 2**10
MAX_ELEMENTS = 100
DEFAULT_DATABASE = "(default)"
_KEY_MEMBERS = {"partitionId", "path"}
_PARTITION_MEMBERS = {"projectId", "databaseId", "namespaceId"}
_ELEMENT_MEMBERS = {"kind", "id", "name"}
_NAMESPACE = re.compile(r"[A-Za-z\d.\-_]{0,100}")
_RESERVED = re.compile(r"__.*__", re.DOTALL)

Element: TypeAlias = tuple[str, int, int, str]
"""(kind, 0, id, "") or (kind, 1, 0, name): ids come before names."""

KeyPath: TypeAlias = tuple[Element, ...]

INCOMPLETE = 0
"""The id that stands for a missing one; no key has it."""


class Index(NamedTuple):
    """The entities that a query reads: of one kind ("" for all) in one namespace."""

    project: str
    namespace: str
    kind: str

    def holds(self, key: EntityKey) -> bool:
        """Whether an entity with this key is in it."""
        return self in {key.home, key.home._replace(kind="")}


class EntityKey(NamedTuple):
    """A valid key."""

    project: str
    namespace: str
    path: KeyPath

    @property
    def name(self) -> str:
        """The key in one unambiguous string, unique in the cloud."""
        return msgspec.json.encode(self).decode()

    @property
    def home(self) -> Index:
        """The index in which queries find it."""
        return Index(self.project, self.namespace, self.path[-1][0])

    @property
    def incomplete(self) -> bool:
        """Whether its last element still needs an id."""
        return self.path[-1][1:3] == (0, INCOMPLETE)

    def with_id(self, number: int) -> EntityKey:
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


def check_database(name: Any) -> None:  # unchecked JSON
    """Refuses every database but the default one.

    Raises:
        ServiceError: it is another one, or the default one by name.
    """
    if name == DEFAULT_DATABASE:
        raise invalid(f"the ID {name} is not allowed: leave it empty for the default database")
    if name:
        raise not_found(f"The database {name} does not exist.")


def parse_partition(data: Any, project: str) -> tuple[str, str]:  # unchecked JSON
    """The project and namespace of a JSON PartitionId.

    Raises:
        ServiceError: it is of another project, or of a database that does not exist.
    """
    if data is None:
        return project, ""
    if not isinstance(data, dict) or data.keys() - _PARTITION_MEMBERS:
        raise invalid(f"partitionId must be an object of {', '.join(sorted(_PARTITION_MEMBERS))}")
    if data.get("projectId") not in (None, "", project):
        raise invalid(f"mismatched project: {data['projectId']} in a request to {project}")
    check_database(data.get("databaseId"))
    namespace = "" if data.get("namespaceId") is None else data["namespaceId"]
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise invalid("a namespaceId has at most 100 letters, digits and . - _")
    if _RESERVED.fullmatch(namespace):
        raise invalid(f"the namespace {namespace} is reserved")
    return project, namespace


def parse_key(data: Any, project: str, *, incomplete: bool = False) -> EntityKey:  # as above
    """The key of a JSON Key.

    Args:
        data: unchecked JSON.
        project: the project of the request.
        incomplete: whether its last element may lack an id.

    Raises:
        ServiceError: it breaks a rule.
    """
    if not isinstance(data, dict) or data.keys() - _KEY_MEMBERS:
        raise invalid("a key must be an object of partitionId and path")
    elements = data.get("path")
    if not isinstance(elements, list) or not 1 <= len(elements) <= MAX_ELEMENTS:
        raise invalid(f"a key needs a path of 1 to {MAX_ELEMENTS} elements")
    partition = parse_partition(data.get("partitionId"), project)
    path = tuple(_parse_element(element) for element in elements)
    holes = [number for number, element in enumerate(path) if element[1:3] == (0, INCOMPLETE)]
    if holes and not (incomplete and holes == [len(path) - 1]):
        raise invalid("the key path is incomplete")
    # Short paths of short names need no measuring.
    if len(path) * 2 * MAX_NAME_BYTES > MAX_KEY_BYTES and path_bytes(path) > MAX_KEY_BYTES:
        raise invalid(f"the key is larger than {MAX_KEY_BYTES} bytes")
    return EntityKey(*partition, path)


def path_bytes(path: KeyPath) -> int:
    """The size of a key's path, as Google's page on storage size counts it."""
    return sum(
        len(kind.encode()) + 1 + (len(name.encode()) + 1 if named else 8)
        for kind, named, _, name in path
    )


def _parse_element(data: Any) -> Element:  # as above
    if not isinstance(data, dict) or data.keys() - _ELEMENT_MEMBERS:
        raise invalid("a path element must be an object of kind, and id or name")
    kind = sys.intern(_check_name(data.get("kind"), "kind"))
    if data.get("name") is not None:
        if data.get("id") is not None:
            raise invalid("a path element has either a name or an id")
        return kind, 1, 0, _check_name(data["name"], "name")
    if data.get("id") is None:
        return kind, 0, INCOMPLETE, ""
    try:
        number = int(data["id"])
    except (TypeError, ValueError, OverflowError):
        raise invalid("an id must be an integer") from None
    if isinstance(data["id"], (bool, float)) or not 0 < number < 2**63:
        raise invalid("an id must be a positive 64-bit integer")
    return kind, 0, number, ""


def _check_name(name: Any, what: str) -> str:  # as above
    if not isinstance(name, str) or not name:
        raise invalid(f"a path element needs a non-empty {what}")
    # Most names are short: a character takes at most 4 bytes.
    if len(name) * 4 > MAX_NAME_BYTES and len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(f"a {what} is longer than {MAX_NAME_BYTES} bytes")
    if name[0] == "_" and _RESERVED.fullmatch(name):
        raise invalid(f"the {what} {name} is reserved")
    return name
