"""Which configurations come into force at once: none that takes too much away.

Pure: import-config acts on these answers, and `plan` tells them beforehand.
"""

from __future__ import annotations

from collections.abc import Collection

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.configuration.types import Configuration as ParsedConfiguration
from gce_backend.model.entities import StoredConfiguration


def loss(
    stored: StoredConfiguration,
    new: ParsedConfiguration,
    max_share: float,
    extra_dimensions: Collection[str] = (),
) -> str | None:
    """Why a configuration waits for an operator's confirmation; None when it does not.

    Args:
        stored: the one in force.
        new: the one that is to take its place.
        max_share: share of the machines, 0 to 1, that may be taken away unconfirmed.
        extra_dimensions: dimensions that the settings allow.
    """
    if not stored.revision:
        return None
    try:
        texts = stored.template_config, stored.manager_config, stored.files
        old = parse(*texts, extra_dimensions)
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
