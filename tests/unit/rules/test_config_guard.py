"""rules.config_guard: what would really take too much away waits for an operator's word."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.types import TemplateConfig, checksum
from gce_backend.model.entities import (
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import manager_key, revision_key, template_key
from gce_backend.rules.activation import WantedManager, WantedTemplate
from gce_backend.rules.config_guard import FEW, growth, loss, objection
from gce_backend.rules.plan import Present, TemplatePlan, make, totals
from gce_backend.settings.settings import GuardSettings
from support.fleet_harness import OTHER_ZONE, ZONE

ZONES = (ZONE, OTHER_ZONE)
FIELDS = TemplateConfig(base_name="linux", project="p", machine_type="e2-small")
REVISION = checksum(FIELDS)


def there(*machines: int, minimum: int | None = None) -> Present:
    """A fleet with so many machines in each zone; as large as its minimum, or with another."""
    keys = [manager_key("linux", REVISION, zone) for zone in ZONES[: len(machines)]]
    return Present(
        entities={
            template_key("linux"): InstanceTemplate(active=REVISION),
            revision_key("linux", REVISION): InstanceTemplateRevision(
                FIELDS, active=ZONES[: len(machines)], url="u"
            ),
            **{
                key: InstanceGroupManager(count if minimum is None else minimum, url="u")
                for key, count in zip(keys, machines, strict=True)
            },
        },
        machines={
            key: [(f"{key.zone}-{n}", Instance(gce_id=n + 1)) for n in range(count)]
            for key, count in zip(keys, machines, strict=True)
        },
        sizes=dict(zip(keys, machines, strict=True)),
        now=0.0,
    )


def plans(
    present: Present, *minimums: int, template: TemplateConfig = FIELDS
) -> tuple[TemplatePlan, ...]:
    """What a configuration with groups of these minimums, each in its zone, would change."""
    managers = tuple(
        WantedManager(zone, minimum, 0)
        for zone, minimum in zip(ZONES, minimums, strict=False)
        if minimum
    )
    return make({"linux": WantedTemplate(checksum(template), template, managers)}, present)


@pytest.mark.parametrize(
    ("before", "after", "waits"),
    [
        ((10, 10), (10, 10), False),
        ((10, 10), (10, 0), False),
        ((10, 10), (0, 30), False),
        ((10, 11), (10, 0), True),
        ((10, 10), (5, 5), False),
        ((10, 10), (5, 4), True),
        ((10, 10), (20, 0), False),
        ((10, 10), (0, 0), True),
    ],
)
def test_more_than_the_share_waits(
    before: tuple[int, int], after: tuple[int, int], waits: bool
) -> None:
    """Half may go; what grows elsewhere makes up for nothing; a lower minimum takes idle ones."""
    found = plans(there(*before), *after)
    assert (loss(found, sum(before), 0.5, empty=False) is not None) is waits


def test_the_message_says_how_many_of_how_many_and_plan_counts_the_same() -> None:
    """An operator decides by it."""
    found = plans(there(10, 11), 10)
    assert loss(found, 21, 0.5, empty=False) == (
        "it removes 11 of 21 machines (up to 50 % need no approval)"
    )
    assert totals(found).lost_machines == totals(found).drain_machines == 11


def test_a_slip_whose_machines_never_existed_is_corrected_without_a_word() -> None:
    """Minimum 1000 instead of 10: what the configuration named was never made."""
    slip = there(10, 10, minimum=1000)
    assert loss(plans(slip, 10, 10), 20, 0.0, empty=False) is None


def test_what_drains_already_and_what_is_replaced_is_not_taken_away() -> None:
    """Another revision makes as many as go; what an earlier configuration drained is no news."""
    new = msgspec.structs.replace(FIELDS, machine_type="e2-medium")
    found = plans(there(10, 10), 10, 10, template=new)
    assert totals(found).drain_machines == 20
    assert loss(found, 20, 0.0, empty=False) is None
    shrunk = plans(there(10, 10), 10, 4, template=new)
    assert totals(shrunk).lost_machines == 6
    drained = msgspec.structs.replace(
        there(10),
        entities={
            template_key("linux"): InstanceTemplate(active=None, drained=(REVISION,)),
            revision_key("linux", REVISION): InstanceTemplateRevision(
                FIELDS, drained=(ZONE,), url="u"
            ),
            manager_key("linux", REVISION, ZONE): InstanceGroupManager(10, url="u"),
        },
    )
    assert loss(make({}, drained), 10, 0.0, empty=False) is None


def test_one_without_any_group_always_waits() -> None:
    """Whatever share the settings name, and however few machines have come up."""
    assert loss((), 0, 1.0, empty=True) is not None


@given(st.tuples(st.integers(1, 50), st.integers(1, 50)), st.floats(0, 1))
def test_what_only_grows_never_waits(before: tuple[int, int], share: float) -> None:
    """Whatever share the settings name."""
    found = plans(there(*before), before[0], before[1] + 1)
    assert loss(found, sum(before), share, empty=False) is None


@given(before=st.integers(0, 60), after=st.integers(0, 2000), factor=st.floats(0, 20))
def test_a_slip_upward_waits_and_a_step_by_the_factor_does_not(
    before: int, after: int, factor: float
) -> None:
    """What counts is what is added beyond what there is; a small fleet may become a usual one."""
    found = plans(there(before), after)
    waits = growth(found, before, factor) is not None
    assert waits == (after - before > int(factor * max(before, FEW)))
    guard = GuardSettings(max_config_loss_share=1.0, max_config_growth=factor)
    assert (objection(found, before, guard, empty=False) is not None) is waits


def test_a_new_revision_of_all_machines_adds_none() -> None:
    """They come in place of others."""
    new = msgspec.structs.replace(FIELDS, machine_type="e2-medium")
    assert growth(plans(there(50), 50, template=new), 50, 0.0) is None
