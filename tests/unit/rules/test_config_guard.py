"""rules.config_guard: what takes too much away waits for an operator's word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.types import Configuration
from gce_backend.model.entities import StoredConfiguration
from gce_backend.rules.config_guard import loss
from support.fleet_harness import OTHER_ZONE, ZONE, manager, template

ZONES = (ZONE, OTHER_ZONE)


def stored(*sizes: int) -> StoredConfiguration:
    """A configuration in force with a group of each size, each in its zone."""
    return StoredConfiguration(
        template_config=template(), manager_config=managers(*sizes), revision="r1"
    )


def managers(*sizes: int) -> str:
    """managers.cfg with a group of each size that is not 0."""
    pairs = zip(ZONES, sizes, strict=False)
    return "".join(manager(zone=zone, minimum=size) for zone, size in pairs if size)


def parsed(*sizes: int) -> Configuration:
    """A configuration that is to take its place."""
    return parse(template() if any(sizes) else "", managers(*sizes), {})


@pytest.mark.parametrize(
    ("before", "after", "waits"),
    [
        ((10, 10), (10, 10), False),
        ((10, 10), (10, 0), False),
        ((10, 10), (9, 0), True),
        ((10, 10), (5, 5), False),
        ((10, 10), (5, 4), True),
        ((10, 10), (20, 0), False),
        ((10, 0), (0, 0), True),
        ((10, 0), (30, 30), False),
    ],
)
def test_more_than_the_share_waits(
    before: tuple[int, int], after: tuple[int, int], waits: bool
) -> None:
    """Half may go; what grows elsewhere makes up for nothing, and none at all always waits."""
    assert (loss(stored(*before), parsed(*after), 0.5) is not None) is waits


def test_the_message_says_how_many_of_how_many() -> None:
    """An operator decides by it."""
    assert loss(stored(10, 10), parsed(5, 4), 0.5) == (
        "it takes away 11 of 20 machines (up to 50% need no word)"
    )


def test_the_first_configuration_needs_no_word() -> None:
    """There is nothing that it could take away."""
    assert loss(StoredConfiguration(), parsed(3), 0.0) is None


def test_one_that_cannot_be_read_any_more_lets_nothing_replace_it_unseen() -> None:
    """How much is taken away is not known: an operator has to say so."""
    unreadable = StoredConfiguration(template_config="templates {", revision="r1")
    assert "nothing to compare with" in (loss(unreadable, parsed(3), 1.0) or "")


@given(st.tuples(st.integers(1, 50), st.integers(1, 50)), st.floats(0, 1))
def test_what_only_grows_never_waits(before: tuple[int, int], share: float) -> None:
    """Whatever share the settings name."""
    assert loss(stored(*before), parsed(before[0], before[1] + 1), share) is None
