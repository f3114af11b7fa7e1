"""The picture as `rules.plan` compares a configuration with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gce_backend.base.dates import UnixSeconds
from gce_backend.fleet.picture import Fleet
from gce_backend.model.keys import GroupKey
from gce_backend.rules.activation import WantedTemplate, with_undone
from gce_backend.rules.facets import Facet
from gce_backend.rules.plan import Present, TemplatePlan, make


def plan_of(
    fleet: Fleet,
    wanted: Mapping[str, WantedTemplate],
    sizes: Mapping[GroupKey, int],
    now: UnixSeconds,
    is_paused: Callable[[GroupKey], bool] = lambda _: False,
) -> tuple[TemplatePlan, ...]:
    """What a configuration would change; templates with an entity that is corrupt are left out.

    Args:
        wanted: what the configuration asks for.
        sizes: target sizes of the groups at Compute.
        is_paused: whether nothing may be done with a group now.
    """
    spoiled = {key.base_name for key in fleet.corrupt}
    present = Present(
        entities={
            key: entity
            for picture in (fleet.templates, fleet.revisions, fleet.managers)
            for key, entity in picture.items()
            if key.base_name not in spoiled
        },
        machines={
            key: [(instance.name, entity) for instance, entity in fleet.instances_of(key)]
            for key in fleet.managers
        },
        sizes=sizes,
        now=now,
        is_paused=is_paused,
    )
    in_force = with_undone(wanted, fleet.control.undone, fleet.get)
    return make({name: it for name, it in in_force.items() if name not in spoiled}, present)


def machines(fleet: Fleet) -> int:
    """Machines that are not gone."""
    return len(fleet.instances) - fleet.count(Facet.DELETED)
