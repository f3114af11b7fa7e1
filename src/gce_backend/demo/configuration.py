"""The configurations of the story."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_TEMPLATE = """\
templates {{
  base_name: "{base_name}"
  project: "{project}"
  machine_type: "{machine_type}"
  image_name: "debian-12-bookworm-v20250610"
  image_project: "debian-cloud"
  disk_size_gb: 20
  service_accounts {{
    name: "default"
    scopes: "https://www.googleapis.com/auth/pubsub"
  }}
  dimensions: "os_family:LINUX"
  dimensions: "os_version:{os_version}"
}}
"""
_MANAGER = """\
managers {{
  template_base_name: "{base_name}"
  zone: "{zone}"
  minimum_size: {minimum}
  maximum_size: {maximum}
}}
"""


class DemoGroup(NamedTuple):
    """A manager: the machines of a template in one zone."""

    zone: str
    minimum: int


class Template(NamedTuple):
    """A template, with its managers."""

    base_name: str
    machine_type: str
    os_version: str
    groups: tuple[DemoGroup, ...]

    @property
    def machines(self) -> int:
        """How many machines it is to have."""
        return sum(group.minimum for group in self.groups)


SMALL = Template(
    "linux-small", "e2-small", "12", (DemoGroup("us-central1-a", 4), DemoGroup("europe-west1-b", 3))
)
MEDIUM = SMALL._replace(machine_type="e2-medium")
LARGE = Template("linux-large", "n2-custom-8-16384", "11", (DemoGroup("us-central1-b", 2),))


def write(directory: Path, project: str, templates: tuple[Template, ...]) -> None:
    """Replaces templates.cfg and managers.cfg."""
    (directory / "templates.cfg").write_text(
        "".join(_TEMPLATE.format(project=project, **template._asdict()) for template in templates)
    )
    (directory / "managers.cfg").write_text(
        "".join(
            _MANAGER.format(
                base_name=template.base_name,
                zone=group.zone,
                minimum=group.minimum,
                maximum=2 * group.minimum,
            )
            for template in templates
            for group in template.groups
        )
    )
