"""Compute resource links: parsed, validated and rebuilt, never followed.

A link that Compute sent or the store kept says which resource is meant; its host does not say where
to send a token. Every path that the client asks for is built from the validated parts here.
"""

from __future__ import annotations

import re

import msgspec

from gce_backend.base.errors import MalformedResponseError

CANONICAL_ROOT = "https://compute.googleapis.com/compute/v1/"
GLOBAL = "global"
AGGREGATED = "aggregated"
"""All scopes: of lists only, no resource has it."""

# The patterns of Compute's discovery document; every character is safe in a URL's path as it is.
_LABEL = r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME = rf"(?:{_LABEL}|[1-9][0-9]{{0,19}})"
_DOMAIN = rf"(?:[-a-z0-9]{{1,63}}\.)*{_LABEL}"
_PROJECT = rf"(?:{_DOMAIN}:)?(?:[0-9]{{1,19}}|[a-z0-9](?:[-a-z0-9]{{0,61}}[a-z0-9])?)"
_SCOPE = rf"(?:global|(?:zones|regions)/{_LABEL})"
_COLLECTION = r"[a-z][A-Za-z]{0,62}"
_ROOT = r"(?:(?:https?:)?//[A-Za-z0-9.:\[\]-]+/(?:[A-Za-z0-9._-]+/)*)?"

_IS_NAME = re.compile(_NAME).fullmatch
_IS_PROJECT = re.compile(_PROJECT).fullmatch
_IS_SCOPE = re.compile(rf"{_SCOPE}|{AGGREGATED}").fullmatch
_IS_COLLECTION = re.compile(_COLLECTION).fullmatch
_PARSE = re.compile(
    rf"{_ROOT}projects/(?P<project>{_PROJECT})/(?P<scope>{_SCOPE})"
    rf"/(?P<collection>{_COLLECTION})/(?P<name>{_NAME})"
).fullmatch


def resource_path(
    project: str, scope: str, collection: str | None = None, name: str | None = None
) -> str:
    """The path of a resource; without a name, of a collection; without that, of a scope.

    Args:
        project: as in `ResourceLink`.
        scope: as in `ResourceLink`, or `aggregated`: all scopes.
        collection: as in `ResourceLink`.
        name: as in `ResourceLink`; an empty one is an error, not an absent one.

    Raises:
        ValueError: a part is malformed.
    """
    parts = (
        ("a project id", project, _IS_PROJECT),
        ("global, zones/Z or regions/R", scope, _IS_SCOPE),
        ("a collection", collection, _IS_COLLECTION),
        ("a resource name", name, _IS_NAME),
    )
    for what, text, is_valid in parts:
        if text is not None and not is_valid(text):
            raise ValueError(f"not {what}: {text!r}")
    return "/".join(["projects", *(text for _, text, _ in parts if text is not None)])


class ResourceLink(msgspec.Struct, frozen=True, gc=False, order=True):
    """One Compute resource, wherever it is served.

    Attributes:
        project: project id, domain-scoped id (`example.com:p`) or number.
        scope: `global`, `zones/Z` or `regions/R`.
        collection: Compute's word, e.g. `instances`, `instanceTemplates`, `operations`.
        name: RFC 1035 name, or a numeric id.

    Raises:
        ValueError: a part is malformed.
    """

    project: str
    scope: str
    collection: str
    name: str

    def __post_init__(self) -> None:
        """Refuses what could change the meaning of a path."""
        resource_path(self.project, self.scope, self.collection, self.name)
        if self.scope == AGGREGATED:
            raise ValueError("a resource is in one scope")

    @classmethod
    def parse(cls, text: str) -> ResourceLink:
        """Understands a full URL of any host, or a path that begins with `projects/`.

        Raises:
            ValueError: it is neither, or a part is malformed.
        """
        match = _PARSE(text)
        if match is None:
            raise ValueError(f"not a link to a Compute resource: {text[:200]!r}")
        return cls(**match.groupdict())

    @property
    def collection_path(self) -> str:
        """The path of the collection that it is in, `projects/P/zones/Z/instances`."""
        return f"projects/{self.project}/{self.scope}/{self.collection}"

    @property
    def path(self) -> str:
        """`projects/P/zones/Z/instances/N`, relative to any root."""
        return f"{self.collection_path}/{self.name}"

    @property
    def url(self) -> str:
        """The link on Compute's public root, to be stored and shown."""
        return CANONICAL_ROOT + self.path

    @property
    def zone(self) -> str | None:
        """The zone's name; None for what is global or regional."""
        kind, _, name = self.scope.partition("/")
        return name if kind == "zones" else None


def link_of(text: str) -> ResourceLink:
    """The resource that an answer of Compute's links to.

    Raises:
        MalformedResponseError: it is no link to a resource.
    """
    try:
        return ResourceLink.parse(text)
    except ValueError as error:
        problem = str(error)
    raise MalformedResponseError("compute.link", problem, status=200)
