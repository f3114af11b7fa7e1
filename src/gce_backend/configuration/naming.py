"""The names of what the daemon creates at Compute, made from the configuration alone.

The same revision always gets the same names, so a creation that is repeated collides with itself
instead of doubling (see AlreadyExistsError). Names are made of at most three parts::

    linux-small-1f0c93aa               instance template   <base_name>-<short checksum>
    linux-small-1f0c93aa-usc1a         group               <base_name>-<short checksum>-<short zone>
    linux-small-1f0c93aa-usc1a-x7k2    VM                  "-" and four characters are appended

A template or group that is made again after its deletion was asked for has another name, with its
generation: `linux-small-1f0c93aa-g1`, `linux-small-1f0c93aa-usc1a-g1`. A deletion that Compute
executes late then finds nothing. The names of VMs stay as they are.

The zone is in the VM's name because a host name must be unique in the Machine Provider's catalog,
which knows no zones. No short part holds a dash, so a name can be read back from its end, and two
different base names never lead to the same name.
"""

from __future__ import annotations

import base64
import hashlib
import re

MAX_BASE_INSTANCE_NAME_LENGTH = 58
"""Characters in a group's baseInstanceName: Compute appends five more."""

SHORT_CHECKSUM_LENGTH = 8
"""Characters of a revision's checksum that go into names."""

GENERATIONS = 1000
"""Names that are used in turn when a resource is deleted and made again."""

MAX_SHORT_ZONE_LENGTH = 10
"""Characters in the short form of a zone's name, at most."""

MAX_BASE_NAME_LENGTH = (
    MAX_BASE_INSTANCE_NAME_LENGTH
    - len("-")
    - SHORT_CHECKSUM_LENGTH
    - len("-")
    - MAX_SHORT_ZONE_LENGTH
)
"""Characters in a template's base_name, so that every name made from it fits, whatever the zone."""

_LATER = re.compile(r"-g(?P<number>0|[1-9][0-9]{0,2})")
_ZONE = re.compile(
    r"(?P<area>[a-z]+)-(?P<latitude>north|south)?(?P<side>east|west|central)?(?P<rest>[0-9]+-[a-z][a-z0-9]*)"
)

_AREAS = {
    "africa": "af",
    "asia": "as",
    "australia": "au",
    "europe": "eu",
    "me": "me",
    "northamerica": "na",
    "southamerica": "sa",
    "us": "us",
}


def short_checksum(checksum: str) -> str:
    """The part of a revision's checksum that goes into names, e.g. `1f0c93aa`."""
    return checksum[:SHORT_CHECKSUM_LENGTH]


def short_zone(zone: str) -> str:
    """A short form of a zone's name, without dashes, that no other zone shares.

    `us-central1-a` becomes `usc1a`, `northamerica-northeast1-b` becomes `nane1b`: two letters of
    the area, the initials of the direction, number and letter. A zone whose name is made
    differently becomes `z` and five characters of its hash: no area's letters begin with z, so the
    two forms never meet. Only two such hashes can; validating the configuration rules that out.

    Args:
        zone: a zone's full name.

    Returns:
        At most MAX_SHORT_ZONE_LENGTH lower-case letters and digits.
    """
    match = _ZONE.fullmatch(zone)
    if match and match["area"] in _AREAS and (match["latitude"] or match["side"]):
        direction = (match["latitude"] or "")[:1] + (match["side"] or "")[:1]
        short = _AREAS[match["area"]] + direction + match["rest"].replace("-", "")
        if len(short) <= MAX_SHORT_ZONE_LENGTH:
            return short
    digest = hashlib.sha1(zone.encode(), usedforsecurity=False).digest()
    return "z" + base64.b32encode(digest).decode().lower()[:5]


def template_name(base_name: str, checksum: str, generation: int = 0) -> str:
    """The name of a revision's instance template, unique in its project.

    Args:
        base_name: the template's.
        generation: how many templates of that revision have been deleted.
    """
    return f"{base_name}-{short_checksum(checksum)}{_generation(generation)}"


def group_name(base_name: str, checksum: str, zone: str, generation: int = 0) -> str:
    """The name of a revision's managed instance group in a zone, unique over all zones.

    Args:
        base_name: the template's.
        zone: where it is.
        generation: how many groups of that revision and zone have been deleted.
    """
    return base_instance_name(base_name, checksum, zone) + _generation(generation)


def base_instance_name(base_name: str, checksum: str, zone: str) -> str:
    """What the names of a group's VMs begin with: the name of the first group there."""
    return f"{template_name(base_name, checksum)}-{short_zone(zone)}"


def generation_in(name: str, first: str) -> int | None:
    """The generation that a resource's name says, modulo GENERATIONS.

    Args:
        name: the resource's.
        first: the name of the first generation.

    Returns:
        0 for the first one only, else 1 to GENERATIONS; None when the name is of nothing of ours.
    """
    if name == first:
        return 0
    found = _LATER.fullmatch(name.removeprefix(first)) if name.startswith(first) else None
    return None if found is None else int(found["number"]) or GENERATIONS


def _generation(number: int) -> str:
    """What tells a name from those of deleted resources: a late call may still act on these."""
    return f"-g{number % GENERATIONS}" if number else ""
