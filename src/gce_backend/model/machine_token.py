"""The attributes of the Machine Provider's messages, which name a machine of the daemon."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gce_backend.model.keys import MachineKey, manager_key

BACKEND = "GCE"
"""The backend that the daemon's machines belong to in the catalog."""
_NAME = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,126}[A-Za-z0-9])?")
"""Matches all names of templates, revisions, zones and VMs, and more."""


def instance_token(project: str, key: MachineKey) -> str:
    """The `key` attribute by which the Machine Provider's messages name an instance.

    Args:
        project: the project whose Datastore holds the entity.
        key: the instance's key.
    """
    return "/".join((project, *(name for _, name in key.path)))


def parse_instance_token(project: str, token: str) -> MachineKey:
    """The instance's key in a `key` attribute.

    Raises:
        ValueError: it is malformed, or belongs to another project; the message says which.
    """
    owner, *names = token.split("/")
    if len(names) != 4 or not all(names):
        raise ValueError(f"key {token[:200]!r} is not project/template/revision/zone/instance")
    if owner != project:
        raise ValueError(f"key {token[:200]!r} is of project {owner[:100]!r}, not {project!r}")
    if not all(map(_NAME.fullmatch, names)):
        raise ValueError(f"key {token[:200]!r} holds what cannot be a name")
    template, revision, zone, name = names
    return manager_key(template, revision, zone).child(name)


Dimension = str | int | float | Sequence[str]
"""The value of one dimension of a machine."""


KEY_ATTRIBUTE = "key"
"""The attribute that names the instance's entity."""


AGENT_ATTRIBUTE = "require_agent"
"""The attribute with which a Machine Provider that knows agents leases no machine without one."""


ID_ATTRIBUTE = "gce_id"
"""The attribute that names the VM itself: a late message may be about an earlier VM."""
