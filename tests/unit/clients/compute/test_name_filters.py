"""Filters of names: each name passes one of them, nothing else does, and none is too long."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gce_backend.clients.compute.name_filters import MAX_LENGTH, MAX_NAMES, name_filters

NAMES = st.sets(st.text("ab-", max_size=4).map(lambda text: f"a{text}".rstrip("-")), max_size=20)


@given(NAMES, NAMES)
def test_only_the_names_pass_each_by_one_filter(names: set[str], others: set[str]) -> None:
    """What passes is what was asked for."""
    filters = list(name_filters(names))
    patterns = [re.compile(one.text.removeprefix('name eq "')[:-1]) for one in filters]
    for name in names | others:
        passed = [one for one, p in zip(filters, patterns, strict=True) if p.fullmatch(name)]
        assert len(passed) == (name in names)
        assert all(name in one.names for one in passed)
    assert sum(len(one.names) for one in filters) == len(names)


def test_five_hundred_members_of_a_group_are_one_filter_and_its_length_is_bounded() -> None:
    """The name of the group is there once; names with nothing in common need more filters."""
    alike = [f"linux-0123abcd-usc1a-{number:04d}" for number in range(MAX_NAMES + 1)]
    assert [len(one.names) for one in name_filters(alike)] == [MAX_NAMES, 1]
    apart = [f"a{number:04d}-{'b' * 57}" for number in range(MAX_NAMES)]
    found = list(name_filters(apart))
    assert all(len(one.text) <= MAX_LENGTH for one in found)
    assert sum(len(one.names) for one in found) == len(apart)
    assert len(found) <= 1 + sum(map(len, apart)) // (MAX_LENGTH - 100)
