"""`gce-backend adopt`: adopts what an earlier release or a lost store created.

Nothing at Compute Engine is changed. Only what the store's own entities ask for is adopted: the
template of a revision, the group of a manager, by name and description.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from gce_backend.clients.compute.links import link_of
from gce_backend.clients.compute.types import (
    CompleteListing,
    ComputeGroup,
    ComputeTemplate,
    Listing,
)
from gce_backend.fleet.picture import Change, Fleet, when_present
from gce_backend.gce_client import ComputeClient
from gce_backend.model.entities import STORE_IDENTITY_KEY, StoreIdentity
from gce_backend.model.keys import GroupKey, Key, RevisionKey
from gce_backend.rules.ownership import Mark, Whose, mark_of, whose

T = TypeVar("T")


class Adoptable(msgspec.Struct, frozen=True):
    """A template or group at Compute that can be adopted.

    Attributes:
        kind: `instance template` or `group`.
        project: where it is.
        zone: its zone; "" for a template.
        gce_id: its numeric id, as text.
        url: its resource link.
        machines: VMs that a group has or is to have; 0 for a template.
    """

    kind: str
    project: str
    zone: str
    name: str
    gce_id: str
    url: str
    machines: int = 0


class Findings(msgspec.Struct, frozen=True):
    """What can be adopted.

    Attributes:
        adoptable: by the key of the entity that would represent it.
        unsure: why the list may be incomplete.
    """

    adoptable: dict[Key, Adoptable]
    unsure: tuple[str, ...] = ()


async def find_unmarked(fleet: Fleet, compute: ComputeClient, mark: Mark) -> Findings:
    """What an earlier release created for this store's entities, and no entity has a link to.

    Args:
        fleet: the entities, loaded.
        compute: lists what there is.
        mark: the owner of the settings and the id of this store.

    Raises:
        RemoteError: Compute could not be asked.
    """
    found: dict[Key, Adoptable] = {}
    unsure: list[str] = []
    for project in _projects(fleet):
        templates = await compute.list_instance_templates(project)
        groups = await compute.list_groups(project)
        unsure += [*_reasons(templates), *_reasons(groups)]
        found.update(_templates(fleet, project, templates.items, mark))
        found.update(_groups(fleet, project, groups.items, mark))
    return Findings(found, tuple(unsure))


async def find_of_store(fleet: Fleet, compute: ComputeClient, mark: Mark) -> list[Adoptable]:
    """All templates and groups that carry the mark of another store.

    Args:
        fleet: the entities, loaded: they say in which projects to look.
        compute: lists what there is.
        mark: the owner of the settings and the id of that store.

    Raises:
        RemoteError: Compute could not be asked.
    """
    found: list[Adoptable] = []
    for project in _projects(fleet):
        templates = (await compute.list_instance_templates(project)).items
        groups = (await compute.list_groups(project)).items
        found += [_template(project, one) for one in templates if mark_of(one.description) == mark]
        found += [_group(project, one) for one in groups if mark_of(one.description) == mark]
    return found


async def adopt(fleet: Fleet, findings: Findings) -> int:
    """Stores the links; an entity that meanwhile has a link keeps it.

    Args:
        fleet: the entities.
        findings: what to adopt.

    Returns:
        How many were adopted.

    Raises:
        RemoteError: Datastore could not be reached.
        CorruptEntityError: an entity cannot be understood.
    """
    return await fleet.order(
        [Change(key, _adopting(one)) for key, one in findings.adoptable.items()]
    )


async def take_over(fleet: Fleet, store_id: str) -> int:
    """Gives this store the id of a lost one; returns whether it had another id.

    Raises:
        RemoteError: Datastore could not be reached.
    """

    def apply(known: StoreIdentity | None) -> StoreIdentity:
        return replace(known or StoreIdentity(id=store_id), id=store_id)

    return await fleet.order([Change(STORE_IDENTITY_KEY, apply)])


def _adopting(one: Adoptable) -> Any:
    def apply(entity: Any) -> Any:
        if entity.url is not None:
            return entity
        return replace(entity, url=one.url, gce_id=int(one.gce_id), in_flight=None)

    return when_present(apply)


def _projects(fleet: Fleet) -> list[str]:
    return sorted({revision.template.project for revision in fleet.revisions.values()})


def _templates(
    fleet: Fleet, project: str, items: Sequence[ComputeTemplate], mark: Mark
) -> Iterator[tuple[RevisionKey, Adoptable]]:
    by_name = {template.name: template for template in items}
    for key, revision in fleet.revisions.items():
        found = by_name.get(fleet.template_name(key))
        if found is None or revision.url is not None or revision.template.project != project:
            continue
        if whose(found.description, mark, key) is Whose.UNMARKED:
            yield key, _template(project, found)


def _groups(
    fleet: Fleet, project: str, items: Sequence[ComputeGroup], mark: Mark
) -> Iterator[tuple[GroupKey, Adoptable]]:
    by_name: defaultdict[str, dict[str, ComputeGroup]] = defaultdict(dict)
    for group in items:
        by_name[group.zone_name][group.name] = group
    for key, manager in fleet.managers.items():
        found = by_name[key.zone].get(fleet.group_name(key))
        revision = fleet.revisions.get(key.revision)
        if found is None or manager.url is not None or revision is None:
            continue
        ours = whose(found.description, mark, key.revision) is Whose.UNMARKED
        if ours and revision.template.project == project:
            yield key, _group(project, found)


def _template(project: str, found: ComputeTemplate) -> Adoptable:
    url = link_of(found.self_link).url
    return Adoptable("instance template", project, "", found.name, str(found.id), url)


def _group(project: str, found: ComputeGroup) -> Adoptable:
    url, gce_id = link_of(found.self_link).url, str(found.id)
    where = (project, found.zone_name, found.name)
    return Adoptable("group", *where, gce_id, url, found.target_size)


def _reasons(listing: Listing[T]) -> tuple[str, ...]:
    return () if isinstance(listing, CompleteListing) else listing.reasons
