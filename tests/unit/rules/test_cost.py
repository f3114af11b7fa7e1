"""rules.cost: prices by type and family, and what a change costs a day."""

from __future__ import annotations

import pytest

from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import InstanceGroupManager, InstanceTemplateRevision
from gce_backend.rules.activation import WantedManager, WantedTemplate
from gce_backend.rules.catalog_entry import Shape
from gce_backend.rules.cost import (
    change_in_words,
    daily_minimum,
    hourly_price,
    is_listed,
    present_minimum,
)

PRICES = ("e2:0.02:0.003", "e2-small:0.01", "n1:0.03:0.004")
FIELDS = TemplateConfig(base_name="linux", machine_type="e2-small")


@pytest.mark.parametrize(
    ("machine_type", "shape", "price"),
    [
        ("e2-small", None, 0.01),
        ("e2-small", Shape(2, 2.0), 0.01),
        ("e2-standard-4", Shape(4, 16.0), 4 * 0.02 + 16 * 0.003),
        ("e2-standard-4", None, None),
        ("e2-custom-4-8192", None, 4 * 0.02 + 8 * 0.003),
        ("custom-2-4096", None, 2 * 0.03 + 4 * 0.004),
        ("z9-standard-4", Shape(4, 16.0), None),
    ],
)
def test_a_types_own_price_comes_before_its_familys(
    machine_type: str, shape: Shape | None, price: float | None
) -> None:
    """A custom type tells its size by its name; an N1 custom type names no family."""
    found = hourly_price(machine_type, shape, PRICES)
    assert found == (price if price is None else pytest.approx(price))
    assert is_listed(machine_type, PRICES) is (machine_type == "e2-small")


def test_a_change_is_told_by_the_day_at_the_minimum_sizes() -> None:
    """Types without a price are named."""
    wanted = [
        WantedTemplate("c", FIELDS, (WantedManager("a", 10, 0), WantedManager("b", 5, 0))),
        WantedTemplate(
            "d", TemplateConfig(base_name="x", machine_type="z9"), (WantedManager("a", 1, 0),)
        ),
    ]
    after, unknown = daily_minimum(wanted, {"e2-small": 0.01})
    active = [(InstanceTemplateRevision(FIELDS), InstanceGroupManager(5))]
    before = present_minimum(active, {"e2-small": 0.01})
    assert before == pytest.approx(1.2)
    assert after == pytest.approx(3.6)
    assert unknown == {"z9"}
    assert change_in_words(before, after, unknown, "USD") == (
        "This change adds about 2.40 USD a day at the minimum sizes (3.60 in all). Without z9: no "
        "price is known (`cost.prices`)."
    )
    assert change_in_words(after, before, (), "EUR").startswith("This change saves about 2.40 EUR")
    assert change_in_words(1.0, 1.0, (), "USD") == ""
