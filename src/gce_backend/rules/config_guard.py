"""Which configurations come into force at once: none that is too large, or takes too much away.

Pure: import-config acts on these answers, and `plan` tells them beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.configuration.types import Configuration as ParsedConfiguration
from gce_backend.model.entities import StoredConfiguration

MAX_STORED_BYTES = 1_000_000
"""A Datastore entity holds 1 MiB in all."""


def excess(templates: str, managers: str, files: Mapping[str, str]) -> str | None:
    """Why a configuration cannot be stored; None when it can.

    Args:
        templates: templates.cfg.
        managers: managers.cfg.
        files: the files that they name, which are stored as one JSON text.
    """
    size = len(templates.encode()) + len(managers.encode()) + len(msgspec.json.encode(files))
    if size <= MAX_STORED_BYTES:
        return None
    return (
        f"{size} bytes of configuration and of the files that it names do not fit into one "
        f"entity of {MAX_STORED_BYTES} bytes: make them smaller"
    )


def loss(stored: StoredConfiguration, new: ParsedConfiguration, max_share: float) -> str | None:
    """Why a configuration waits for an operator's confirmation; None when it does not.

    Args:
        stored: the one in force.
        new: the one that is to take its place.
        max_share: share of the machines, 0 to 1, that may be taken away unconfirmed.
    """
    if not stored.revision:
        return None
    try:
        old = parse(stored.template_config, stored.manager_config, stored.files)
    except InvalidConfigurationError:
        return "the one in force was stored by a release with other rules: nothing to compare with"
    sizes = {(m.template_base_name, m.zone): m.minimum_size for m in new.managers}
    lost = sum(
        max(0, manager.minimum_size - sizes.get((manager.template_base_name, manager.zone), 0))
        for manager in old.managers
    )
    total = old.minimum_total
    if not total or (new.managers and lost <= max_share * total):
        return None
    return f"it takes away {lost} of {total} machines (up to {max_share:.0%} need no word)"
