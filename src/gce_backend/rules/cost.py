"""About what machines cost, by list prices. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gce_backend.model.entities import InstanceGroupManager, InstanceTemplateRevision
from gce_backend.rules.activation import WantedTemplate
from gce_backend.rules.catalog_entry import Shape, custom_shape
from gce_backend.rules.states import State

HOURS_A_DAY = 24


def is_listed(machine_type: str, prices: Sequence[str]) -> bool:
    """Whether the price of a machine type is in the list, so that its size need not be known."""
    return any(text.partition(":")[0] == machine_type for text in prices)


def hourly_price(machine_type: str, shape: Shape | None, prices: Sequence[str]) -> float | None:
    """What a machine costs in an hour; None when its price is not in the list.

    Args:
        machine_type: e.g. `e2-standard-4`.
        shape: its size; None when that is not known.
        prices: `TYPE:HOUR` of a machine type, or `FAMILY:VCPU_HOUR:GB_HOUR` of a family's vCPUs
            and memory. A machine type's own price comes first.
    """
    family = machine_type.partition("-")[0]
    family = "n1" if family == "custom" else family
    size = shape or custom_shape(machine_type)
    found: float | None = None
    for text in prices:
        name, *numbers = text.split(":")
        if name == machine_type and len(numbers) == 1:
            return float(numbers[0])
        if name == family and len(numbers) == 2 and size is not None:
            found = size.num_cpus * float(numbers[0]) + size.memory_gb * float(numbers[1])
    return found


def billed(machines: Mapping[State, int]) -> int:
    """How many machines cost something: a VM that is still to be made does not."""
    return sum(machines.values()) - machines.get(State.CREATING, 0)


def daily_minimum(
    wanted: Iterable[WantedTemplate], hourly: Mapping[str, float]
) -> tuple[float, frozenset[str]]:
    """What the minimum sizes of a configuration cost in a day, and types without a price.

    Args:
        wanted: what the configuration asks for.
        hourly: prices by machine type.
    """
    total, unknown = 0.0, set[str]()
    for template in wanted:
        machines = sum(manager.minimum_size for manager in template.managers)
        price = hourly.get(template.template.machine_type)
        if price is not None:
            total += machines * price * HOURS_A_DAY
        elif machines:
            unknown.add(template.template.machine_type)
    return total, frozenset(unknown)


def present_minimum(
    active: Iterable[tuple[InstanceTemplateRevision, InstanceGroupManager]],
    hourly: Mapping[str, float],
) -> float:
    """What the minimum sizes in force cost in a day, as far as prices are known."""
    return sum(
        manager.minimum_size * hourly.get(revision.template.machine_type, 0.0) * HOURS_A_DAY
        for revision, manager in active
    )


def change_in_words(before: float, after: float, unknown: Iterable[str], currency: str) -> str:
    """What a configuration changes about the costs of its minimum sizes; "" when nothing.

    Args:
        before: a day's costs now.
        after: a day's costs then.
        unknown: machine types without a price.
        currency: of the prices.
    """
    missing = ", ".join(sorted(unknown))
    note = f" Without {missing}: no price is known (`cost.prices`)." if missing else ""
    difference = after - before
    if abs(difference) < 0.005:
        return note.strip()
    verb = "adds" if difference > 0 else "saves"
    amount = f"about {abs(difference):.2f} {currency} a day"
    return f"This change {verb} {amount} at the minimum sizes ({after:.2f} in all).{note}"
