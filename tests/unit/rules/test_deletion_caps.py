"""The caps' arithmetic (S5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import Permit
from gce_backend.rules.deletion_caps import EVIDENCE, Evidence, allowance
from gce_backend.settings.settings import DeletionSettings

DEFAULT = DeletionSettings()
PERMITS = st.lists(st.sampled_from(list(Permit)), max_size=60)


def test_every_permit_has_its_evidence() -> None:
    """Only a not-found is weak evidence; what a message or an answer said is explicit."""
    assert set(EVIDENCE) == set(Permit)
    weak = {permit for permit, evidence in EVIDENCE.items() if evidence is Evidence.ABSENCE}
    assert weak == {Permit.ABSENT}


def test_the_narrow_cap_is_the_larger_of_ten_machines_and_a_twentieth() -> None:
    """The defaults of the issue."""
    assert allowance(DEFAULT, [], 30, lifted=False).absence == 10
    assert allowance(DEFAULT, [], 1000, lifted=False).absence == 50
    assert allowance(DEFAULT, [Permit.ABSENT] * 7, 30, lifted=False).absence == 3


def test_the_wide_cap_is_the_larger_of_its_count_and_its_share() -> None:
    """A small fleet may be replaced as a whole, half of a large one."""
    assert allowance(DEFAULT, [], 30, lifted=False).explicit == 500
    assert allowance(DEFAULT, [], 10_000, lifted=False).explicit == 5000


@given(recent=PERMITS, fleet=st.integers(0, 5000), lifted=st.booleans())
def test_what_has_begun_and_what_may_begin_never_exceed_the_caps(
    recent: list[Permit], fleet: int, *, lifted: bool
) -> None:
    """Each kind of evidence has its own cap, and neither borrows from the other."""
    allowed = allowance(DEFAULT, recent, fleet, lifted=lifted)
    used = {e: sum(EVIDENCE[permit] is e for permit in recent) for e in Evidence}
    assert min(allowed.explicit, allowed.absence) >= 0
    if not lifted:
        narrow = max(10, fleet // 20)
        assert allowed.absence == max(0, narrow - used[Evidence.ABSENCE])
        wide = max(500, fleet // 2)
        assert allowed.explicit == max(0, wide - used[Evidence.EXPLICIT])


def test_a_lifted_cap_holds_nothing_back() -> None:
    """An operator has looked."""
    allowed = allowance(DEFAULT, [Permit.ABSENT] * 50, 60, lifted=True)
    assert (allowed.explicit, allowed.absence) == (60, 60)
