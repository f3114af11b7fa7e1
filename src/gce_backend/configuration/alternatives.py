"""A template's alternatives of machine type: each is a template of its own, made from the first.

Its name is the template's with the series of its machine type, so `linux` with `n2-standard-4` has
the alternative `linux-n2`. Its machines are of the same size, so that each serves any request that
the template's own serve.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from gce_backend.configuration.types import TemplateConfig, checksum


class Kind(NamedTuple):
    """A template, or an alternative of it.

    Attributes:
        template: its fields.
        checksum: the revision that its fields make. Every change of the template is one of all its
            alternatives, so that one roll-out replaces them together.
    """

    template: TemplateConfig
    checksum: str


def series_and_size(machine_type: str) -> tuple[str, str]:
    """The two parts of a machine type's name: `n2` and `standard-4`, `n1` and `custom-4-8192`."""
    series, _, size = machine_type.partition("-")
    return ("n1", machine_type) if series == "custom" else (series, size)


def name_of(base_name: str, machine_type: str) -> str:
    """The base_name of an alternative."""
    return f"{base_name}-{series_and_size(machine_type)[0]}"


def kinds_of(template: TemplateConfig) -> tuple[Kind, ...]:
    """The template, and its alternatives in order of preference."""
    own = checksum(template)
    kinds = [Kind(template, own)]
    for machine_type in template.alternative_machine_types:
        made = msgspec.structs.replace(
            template,
            base_name=name_of(template.base_name, machine_type),
            machine_type=machine_type,
            min_cpu_platform="",
            alternative_machine_types=(),
        )
        digest = hashlib.sha1(f"{own}/{machine_type}".encode(), usedforsecurity=False)
        kinds.append(Kind(made, digest.hexdigest()))
    return tuple(kinds)
