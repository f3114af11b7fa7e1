"""Image families that templates name, and the images that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from gce_backend.configuration.types import Configuration, TemplateConfig


class Family(NamedTuple):
    """An image family.

    Attributes:
        project: the project that its images live in.
        name: its name there.
    """

    project: str
    name: str

    def __str__(self) -> str:
        """The key by which its image is stored."""
        return f"{self.project}/{self.name}"


def family_of(template: TemplateConfig) -> Family | None:
    """The family that a template boots from; None when it names its image or snapshot."""
    if not template.image_family:
        return None
    return Family(template.source_project, template.image_family)


def families_of(templates: Iterable[TemplateConfig]) -> tuple[Family, ...]:
    """The families that templates boot from, each once."""
    found = (family_of(template) for template in templates)
    return tuple(dict.fromkeys(family for family in found if family is not None))


def resolved(configuration: Configuration, images: Mapping[str, str]) -> Configuration:
    """The configuration with the images that families stand for.

    Args:
        configuration: as it is written.
        images: names of images by their families' keys. A template whose family is not among them
            has no image_name.
    """
    if not any(template.image_family for template in configuration.templates):
        return configuration
    return msgspec.structs.replace(
        configuration,
        templates=tuple(_with_image(template, images) for template in configuration.templates),
    )


def _with_image(template: TemplateConfig, images: Mapping[str, str]) -> TemplateConfig:
    family = family_of(template)
    if family is None:
        return template
    return msgspec.structs.replace(template, image_name=images.get(str(family), ""))
