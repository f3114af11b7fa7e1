"""rules.selector: which machines somebody means, and what cannot be understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.rules.selector import (
    GROUP_KEYS,
    MAX_SELECTOR,
    Candidate,
    parse_selector,
)

ONE = Candidate("linux", "zone-a", "stopped", age=7200.0, leased=True)
TEXTS = st.text("template=,!<>ageszono-12hm .", max_size=40)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("template=linux", True),
        ("template=linu", False),
        ("template=mac,template=linux", True),
        ("template!=linux", False),
        ("template!=mac,template!=win", True),
        (" zone=zone-a , state=stopped ", True),
        ("zone=zone-a,state=lost", False),
        ("lease=yes", True),
        ("lease=no", False),
        ("age>1h", True),
        ("age>2h", False),
        ("age<2h,age>1h59m", False),
        ("age<1d,age>3600", True),
    ],
)
def test_what_a_selector_chooses(text: str, matches: bool) -> None:
    """All terms hold; values of one key are alternatives."""
    assert parse_selector(text).matches(ONE) is matches


def test_an_unknown_age_is_neither_old_nor_young() -> None:
    """A bulk order must not hit what nothing is known of."""
    unknown = ONE._replace(age=None)
    assert not parse_selector("age>0s").matches(unknown)
    assert not parse_selector("age<9d").matches(unknown)
    assert parse_selector("state=stopped").matches(unknown)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("linux", "is no term of a selector"),
        ("template", "is no term"),
        ("template=", "is no term"),
        ("template=a=b", "is no term"),
        ("name=x", "the keys are template, zone, state, age, lease"),
        ("age=2h", "write age>2h or age<30m"),
        ("state>stopped", "write state=stopped"),
        ("age>soon", "'soon' is no duration"),
        ("state=broken", "state is one of active, cataloged, "),
        ("lease=maybe", "lease is one of yes, no"),
        ("template=" + "x" * MAX_SELECTOR, "is longer than"),
    ],
)
def test_what_cannot_be_understood_says_what_would_be(text: str, says: str) -> None:
    """No slip of the pen chooses machines."""
    with pytest.raises(ValueError, match=says):
        parse_selector(text)


def test_groups_have_no_age() -> None:
    """Their keys are named."""
    with pytest.raises(ValueError, match=r"the keys are template, zone, state$"):
        parse_selector("age>2h", GROUP_KEYS)


@given(TEXTS)
def test_any_text_is_a_selector_or_is_refused(text: str) -> None:
    """And nothing else happens."""
    try:
        found = parse_selector(text)
    except ValueError:
        return
    assert found.matches(ONE) in {True, False}
