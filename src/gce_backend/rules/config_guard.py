"""Decides whether a configuration takes effect at once, or removes too much.

Pure: import-config acts on these answers, and `plan` shows them beforehand. Both count the machines
that the plan would really delete, not the numbers in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

from gce_backend.base.plurals import plural
from gce_backend.rules.plan import TemplatePlan, totals


def loss(
    plans: Sequence[TemplatePlan], machines: int, max_share: float, *, empty: bool
) -> str | None:
    """Why a configuration waits for an operator's confirmation; None when it does not.

    Args:
        plans: the changes that it would make.
        machines: the number of existing machines.
        max_share: share of the machines, 0 to 1, that it may remove without confirmation.
        empty: whether it names no group, while the one in force names some.
    """
    lost = totals(plans).lost_machines
    if not empty and lost <= max_share * machines:
        return None
    whole = plural(machines, "machine")
    return f"it removes {lost} of {whole} (up to {max_share:.0%} need no approval)"
