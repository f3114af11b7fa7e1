"""The owner of a resource at Compute: the mark that it carries, and what follows from it. Pure.

Everything that the daemon creates carries a mark: templates and groups in their description, VMs in
their labels. A mark holds the owner name in the settings and the id of the store. The id
distinguishes two daemons that have the same owner name but separate stores.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from gce_backend.model.keys import RevisionKey, revision_key

OWNER_LABEL = "gce-backend-owner"
STORE_LABEL = "gce-backend-store"

_DESCRIPTION = re.compile(
    r"gce-backend owner=(?P<owner>\S+) template=(?P<template>\S+) revision=(?P<revision>\S+)"
    r"(?: store=(?P<store>\S+))?"
)
_CHECKSUM = re.compile(r"[0-9a-f]{40}")


class Mark(msgspec.Struct, frozen=True):
    """The creator of a resource.

    Attributes:
        owner: the owner name in its creator's settings.
        store: the id of its creator's store; "" for resources of earlier releases, and while the
            id of this store is not known.
    """

    owner: str
    store: str = ""

    def __str__(self) -> str:
        return f"owner {self.owner!r}, store {self.store!r}" if self.store else f"{self.owner!r}"


class Whose(StrEnum):
    """The owner of a resource that has one of our names."""

    OURS = "ours"
    """Made from this store, for this revision."""
    UNMARKED = "unmarked"
    """Made for this owner and revision by a release that did not mark the store."""
    ANOTHERS = "another's"
    """Made by another daemon: another owner's, or from another store."""
    FOREIGN = "foreign"
    """Made by somebody else, or for something else."""


def new_store_id(rng: random.Random) -> str:
    """An id for a store that has none: 12 hexadecimal digits."""
    return f"{rng.getrandbits(48):012x}"


def description_of(mark: Mark, revision: RevisionKey) -> str:
    """The description of a revision's instance template and of its groups."""
    made_for = f"template={revision.base_name} revision={revision.checksum}"
    made_from = f" store={mark.store}" if mark.store else ""
    return f"gce-backend owner={mark.owner} {made_for}{made_from}"


def mark_of(description: str) -> Mark | None:
    """The mark in a template's or group's description; None when it has none."""
    found = _DESCRIPTION.fullmatch(description)
    return Mark(found["owner"], found["store"] or "") if found is not None else None


def made_for(description: str, ours: Mark) -> RevisionKey | None:
    """The revision that a template or group was made for from this very store.

    Returns:
        None when its description does not name this store, or is malformed.
    """
    found = _DESCRIPTION.fullmatch(description)
    if found is None or not ours.store or mark_of(description) != ours:
        return None
    if not _CHECKSUM.fullmatch(found["revision"]):
        return None
    return revision_key(found["template"], found["revision"])


def mark_of_labels(labels: Mapping[str, str]) -> Mark | None:
    """The mark in a VM's labels; None when it has none."""
    owner = labels.get(OWNER_LABEL)
    return Mark(owner, labels.get(STORE_LABEL, "")) if owner is not None else None


def whose(description: str, ours: Mark, revision: RevisionKey) -> Whose:
    """The owner of a template or group that has the name of one of ours.

    Args:
        description: the resource's description.
        revision: the revision that it should belong to.
    """
    mark = mark_of(description)
    if mark is None:
        return Whose.FOREIGN
    if not may_be_ours(mark, ours):
        return Whose.ANOTHERS
    if description != description_of(mark, revision):
        return Whose.FOREIGN
    return Whose.OURS if mark.store else Whose.UNMARKED


def is_meant(
    found: int, description: str, known: int | None, ours: Mark, revision: RevisionKey
) -> bool:
    """Whether a resource is the one of a stored link, not another one of the same name.

    Args:
        found: its numeric id.
        description: the resource's description.
        known: the id that is stored with the link; None when an earlier release stored the link.
            Then the description decides; the owner may have had another name at that time.
        revision: the revision that the resource was made for.
    """
    if known is not None:
        return found == known
    mark = mark_of(description)
    owner = mark.owner if mark is not None else ours.owner
    return whose(description, Mark(owner, ours.store), revision) in {Whose.OURS, Whose.UNMARKED}


def may_be_ours(mark: Mark | None, ours: Mark) -> bool:
    """Whether to report a resource without an entity: it has our mark, not another's or none."""
    return mark is not None and mark.owner == ours.owner and mark.store in {"", ours.store}


def replaced(what: str, found: int, known: int | None) -> str:
    """The message about a resource that took the name of one of ours that no longer exists.

    Args:
        what: its kind, name and place.
        found: its numeric id.
        known: the numeric id of ours; None when it was never stored.
    """
    ours = f", ours was {known}" if known is not None else ""
    return (
        f"{what} is not the one that was made from this store (its id is {found}{ours}): somebody "
        "deleted ours and created another one under its name. The daemon leaves that and its "
        "contents alone, and creates its own under a new name. Delete it if nobody needs it"
    )


def name_taken(what: str, description: str, said: Whose) -> str:
    """The message about a resource that has a name that we need, and is not ours.

    Args:
        what: its kind, name and place.
        said: the mark in its description.
    """
    if said is Whose.UNMARKED:
        return (
            f"{what} exists and does not say from which store it was made. If this is its store, "
            "`gce-backend adopt` adopts it; if another daemon uses it, change base_name"
        )
    if said is Whose.ANOTHERS:
        return (
            f"{what} belongs to another daemon ({mark_of(description)}): change the template's "
            "base_name, or stop one of the two daemons"
        )
    return (
        f"{what} exists and is not ours: delete it, or change the template's base_name (its "
        f"description is {description!r})"
    )
