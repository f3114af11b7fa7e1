"""Resource links: the canonical form of Compute's answers, and the forms that it accepts."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from gce_backend.localcloud.compute.error_replies import invalid_field

ROOT = "https://www.googleapis.com/compute/v1/"

_LINK = re.compile(
    r"(?:https?://\S+?/(?=projects/))?"
    r"(?:projects/(?P<project>[^/\s]+)/)?"
    r"(?:zones/(?P<zone>[^/\s]+)/|global/)?"
    r"(?:(?P<collection>[A-Za-z]+)/)?(?P<name>(?:family/)?[^/\s]+)"
)
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


class Reference(NamedTuple):
    """The resource that a link names.

    Attributes:
        project: None in a partial link.
        zone: None in a partial link and for a global resource.
        name: the resource's name; `family/F` for an image family.
    """

    project: str | None
    zone: str | None
    name: str


@lru_cache(maxsize=4096)
def parse(link: str, collection: str, field: str) -> Reference:
    """Reads a full link on any host, a partial one, or a bare name.

    Args:
        link: the text in the request.
        collection: the collection of the resource, e.g. `instanceTemplates`.
        field: the field of the request that has it, for the error.

    Raises:
        ServiceError: 400 invalid.
    """
    found = _LINK.fullmatch(link)
    if found is None or found["collection"] not in {None, collection}:
        raise invalid_field(field, link, "The URL is malformed.")
    return Reference(found["project"], found["zone"], found["name"])


def check_name(name: object, field: str, longest: int = 63) -> str:
    """A valid resource name.

    Raises:
        ServiceError: 400 invalid.
    """
    if not isinstance(name, str) or len(name) > longest or _NAME.fullmatch(name) is None:
        raise invalid_field(
            field, name, f"Must be a match of regex '{_NAME.pattern}' of {longest} characters."
        )
    return name


def global_path(project: str, collection: str, name: str) -> str:
    """The partial link of a global resource."""
    return f"projects/{project}/global/{collection}/{name}"


def zonal_path(project: str, zone: str, collection: str, name: str) -> str:
    """The partial link of a zonal resource."""
    return f"projects/{project}/zones/{zone}/{collection}/{name}"


def zone_link(project: str, zone: str) -> str:
    """The full link of a zone."""
    return f"{ROOT}projects/{project}/zones/{zone}"
