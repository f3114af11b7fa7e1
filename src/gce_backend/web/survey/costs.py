"""About what the machines of groups cost, by the prices that are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey
from gce_backend.rules.cost import billed
from gce_backend.rules.states import State
from gce_backend.web.survey.census import Survey


class HourlyCost(NamedTuple):
    """What machines cost in an hour, in the setting's currency.

    Attributes:
        total: all of them.
        idle: those that can be leased and are not.
    """

    total: float
    idle: float


def of_group(context: Context, key: GroupKey, machines: Mapping[State, int]) -> HourlyCost | None:
    """What a group's machines cost; None when their price is not known."""
    revision = context.fleet.revisions.get(key.revision)
    if revision is None:
        return None
    price = context.memory.hourly_prices.get(revision.template.machine_type)
    if price is None:
        return None
    return HourlyCost(price * billed(machines), price * machines.get(State.CATALOGED, 0))


def of_fleet(context: Context, survey: Survey) -> HourlyCost | None:
    """What all machines with a known price cost; None when no price is known."""
    found = [of_group(context, key, counts) for key, counts in survey.by_group.items()]
    known = [cost for cost in found if cost is not None]
    if not known:
        return None
    return HourlyCost(sum(one.total for one in known), sum(one.idle for one in known))


def in_words(context: Context, cost: HourlyCost) -> str:
    """A cost for people."""
    currency = context.settings.cost.currency
    idle = f"{cost.idle:.2f}" if cost.idle else "none"
    return f"about {cost.total:.2f} {currency} an hour, {idle} of it idle"
