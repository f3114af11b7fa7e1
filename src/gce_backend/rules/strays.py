"""Which resources with this store's own mark an entity adopts, and as what. Pure.

An entity can be lost: the store is restored from an older backup, or somebody removes the entity by
hand. Its template or group still says in its description and name what it was made for. A resource
of an earlier generation than its entity's was given up: it is never adopted, since a late deletion
may hit it, and since somebody may have made it again by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from gce_backend.configuration.naming import (
    GENERATIONS,
    base_instance_name,
    generation_in,
    template_name,
)
from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import (
    Entity,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import GroupKey, Key, RevisionKey
from gce_backend.rules.ownership import Mark, made_for

AHEAD = GENERATIONS // 2
"""A name that is further ahead in the turn is of an earlier generation."""


class Marked(msgspec.Struct, frozen=True):
    """A template or group that carries this store's own mark and has a name that it gives.

    Attributes:
        key: the entity that it was made for.
        project: where it is.
        name: its name.
        gce_id: its numeric id.
        number: the generation that its name says, from 0 to GENERATIONS.
    """

    key: RevisionKey | GroupKey
    project: str
    name: str
    gce_id: int
    number: int


def marked(
    name: str, description: str, ours: Mark, *, project: str, zone: str, gce_id: int
) -> Marked | None:
    """A listed resource as one of this store; None when it is another's, or has another name.

    Args:
        ours: the mark of this store.
        zone: a group's zone; "" for a template.
    """
    revision = made_for(description, ours)
    if revision is None:
        return None
    key: RevisionKey | GroupKey
    if zone:
        key, first = (
            revision.child(zone),
            base_instance_name(revision.base_name, revision.checksum, zone),
        )
    else:
        key, first = revision, template_name(revision.base_name, revision.checksum)
    number = generation_in(name, first)
    return None if number is None else Marked(key, project, name, gce_id, number)


def generation_of(found: Marked, entity: Entity | None) -> int | None:
    """The generation as which an entity adopts a resource; None when it does not.

    Args:
        found: the resource.
        entity: the entity that it was made for; None when the store does not hold it.
    """
    if not isinstance(entity, InstanceTemplateRevision | InstanceGroupManager):
        return found.number
    if entity.url is not None:
        return None
    ahead = found.number
    if entity.generation:  # the names of old generations are used again
        ahead = (found.number - entity.generation) % GENERATIONS
        if not found.number or ahead >= AHEAD:
            return None
    if not ahead and entity.in_flight is not None:
        return None  # this is what is being made
    return entity.generation + ahead


def adopting(found: Marked, url: str, known: Mapping[Key, Entity]) -> dict[Key, Entity]:
    """The entities by which a resource is tracked again, as far as they change.

    One that the store does not hold, and the configuration does not name, is made to be drained.

    Args:
        found: the resource.
        url: its resource link.
        known: those of its key, and of the keys above it, that exist.
    """
    key, entity = found.key, known.get(found.key)
    revision_at = key.revision if isinstance(key, GroupKey) else key
    at = revision_at.template
    template, revision = known.get(at, InstanceTemplate()), known.get(revision_at)
    if not isinstance(template, InstanceTemplate):
        return {}
    if revision is None:
        if template.active == revision_at.checksum:
            return {}  # process-config makes it, with the fields of the configuration
        fields = TemplateConfig(base_name=at.name, project=found.project)
        revision = InstanceTemplateRevision(template=fields)
    if not isinstance(revision, InstanceTemplateRevision):
        return {}
    generation = generation_of(found, entity)
    if generation is None or revision.template.project != found.project:
        return {}
    link = {"url": url, "gce_id": found.gce_id, "generation": generation, "in_flight": None}
    news: dict[Key, Entity] = {}
    if isinstance(key, GroupKey):
        manager = entity if isinstance(entity, InstanceGroupManager) else _UNWANTED
        news[key] = replace(manager, **link, resize=None)
        if key.zone not in {*revision.active, *revision.drained}:
            revision = replace(revision, drained=tuple(sorted({*revision.drained, key.zone})))
    else:
        revision = replace(revision, **link)
    if revision_at.checksum not in {template.active, *template.drained}:
        drained = tuple(sorted({*template.drained, revision_at.checksum}))
        template = replace(template, drained=drained)
    news |= {revision_at: revision, at: template}
    return {key: entity for key, entity in news.items() if known.get(key) != entity}


_UNWANTED = InstanceGroupManager(minimum_size=0)
