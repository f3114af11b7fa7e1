"""What a configuration names at Compute Engine, so that it can be looked up before it is needed.

Networks and service accounts are not among it: only their owners can see who may use them.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from gce_backend.configuration.types import Configuration, TemplateConfig
from gce_backend.gce_client import ComputeClient

Ask: TypeAlias = Callable[[], Awaitable[object]]
"""Looks something up; raises NotFoundError when it does not exist."""


def named_resources(compute: ComputeClient, configuration: Configuration) -> Mapping[str, Ask]:
    """Images, image families, snapshots, and machine types in their zones, each once, in words."""
    wanted: dict[str, Ask] = {}
    zones: dict[str, list[str]] = {}
    for manager in configuration.managers:
        zones.setdefault(manager.template_base_name, []).append(manager.zone)
    for template in configuration.templates:
        _want_source(wanted, compute, template)
        types = (template.machine_type, *template.alternative_machine_types)
        for zone, machine_type in itertools.product(zones.get(template.base_name, ()), types):
            what = f"machine type {machine_type} in {zone} of {template.project}"
            wanted[what] = _asking(compute.get_machine_type, template.project, zone, machine_type)
    return wanted


def _want_source(wanted: dict[str, Ask], compute: ComputeClient, template: TemplateConfig) -> None:
    project = template.source_project
    snapshots = {(project, template.boot_snapshot), (template.project, template.second_snapshot)}
    for owner, name in snapshots:
        if name:
            what = f"snapshot {name} of {owner}"
            wanted[what] = _asking(compute.get_snapshot, owner, name)
    if template.image_family:
        what = f"image family {template.image_family} of {project}"
        wanted[what] = _asking(compute.get_image_from_family, project, template.image_family)
    elif not template.boot_snapshot:
        what = f"image {template.image_name} of {project}"
        wanted[what] = _asking(compute.get_image, project, template.image_name)


def _asking(ask: Callable[..., Awaitable[object]], *arguments: str) -> Ask:
    return lambda: ask(*arguments)
