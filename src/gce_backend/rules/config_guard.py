"""Decides whether a configuration takes effect at once, or removes or adds too much.

Pure: import-config acts on these answers, and `plan` shows them beforehand. Both count the machines
that the plan would really delete or make, not the numbers in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

from gce_backend.base.plurals import plural
from gce_backend.rules.plan import TemplatePlan, totals
from gce_backend.settings.settings import GuardSettings

FEW = 20
"""As many machines any fleet counts as having, when it is judged what a configuration adds."""


def objection(
    plans: Sequence[TemplatePlan], machines: int, guard: GuardSettings, *, empty: bool
) -> str | None:
    """Why a configuration waits for an operator's confirmation; None when it does not.

    Args:
        plans: the changes that it would make.
        machines: the number of existing machines.
        guard: what needs no confirmation.
        empty: whether it names no group, while the one in force names some.
    """
    lost = loss(plans, machines, guard.max_config_loss_share, empty=empty)
    return lost or growth(plans, machines, guard.max_config_growth)


def growth(plans: Sequence[TemplatePlan], machines: int, factor: float) -> str | None:
    """Why a configuration that adds machines waits for confirmation; None when it does not.

    Args:
        plans: the changes that it would make.
        machines: the number of existing machines; FEW at least are counted.
        factor: it may add so many times as many without confirmation.
    """
    added, limit = totals(plans).added_machines, int(factor * max(machines, FEW))
    if added <= limit:
        return None
    whole = plural(machines, "machine")
    return f"it adds {plural(added, 'machine')} to {whole} (up to {limit} need no approval)"


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
    return f"it removes {lost} of {whole} (up to {100 * max_share:.0f} % need no approval)"
