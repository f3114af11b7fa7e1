"""Which configurations come into force at once: none that takes too much away.

Pure: import-config acts on these answers, and `plan` tells them beforehand. Both count what the
plan says: machines that would really be deleted, not numbers that the configuration names.
"""

from __future__ import annotations

from collections.abc import Sequence

from gce_backend.rules.plan import TemplatePlan, totals


def loss(
    plans: Sequence[TemplatePlan], machines: int, max_share: float, *, empty: bool
) -> str | None:
    """Why a configuration waits for an operator's confirmation; None when it does not.

    Args:
        plans: what it would change.
        machines: those that there are.
        max_share: share of the machines, 0 to 1, that may be taken away unconfirmed.
        empty: whether it names no group, while the one in force names some.
    """
    lost = totals(plans).lost_machines
    if not empty and lost <= max_share * machines:
        return None
    return f"it removes {lost} of {machines} machines (up to {max_share:.0%} need no approval)"
