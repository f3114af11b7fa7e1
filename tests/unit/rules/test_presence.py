"""rules.presence: another daemon is one whose signs of life change, and nothing else is."""

from __future__ import annotations

from gce_backend.model.entities import Beat, Daemons
from gce_backend.rules.presence import beaten, gone, is_alone, others

ALONE = beaten(Daemons(), "me", "here", 1000.0)
BOTH = beaten(ALONE, "you", "there", 1010.0)


def test_a_sign_that_changes_between_two_looks_is_another_daemons() -> None:
    """One look proves nothing: its process may have been killed just before."""
    assert others(None, BOTH, "me") == []
    assert others(ALONE, BOTH, "me") == []
    assert others(BOTH, BOTH, "me") == []
    assert others(BOTH, beaten(BOTH, "you", "there", 1610.0), "me") == ["there"]
    assert others(BOTH, beaten(BOTH, "me", "here", 1610.0), "me") == []


def test_a_clock_that_is_wrong_hides_no_daemon() -> None:
    """What counts is that the sign changes, not what time it tells."""
    slow = beaten(BOTH, "you", "there", 900.0)
    assert others(BOTH, slow, "me") == ["there"]


def test_who_ends_takes_its_signs_back_and_old_ones_are_dropped() -> None:
    """The entity stays as small as the number of daemons of an hour."""
    assert gone(BOTH, "me") == Daemons({"you": Beat("there", 1010.0)})
    assert beaten(BOTH, "me", "here", 5000.0).running.keys() == {"me"}


def test_alone_a_daemon_need_not_give_signs() -> None:
    """So a quiet fleet writes nothing; with the sign of another one, both give theirs."""
    assert is_alone(ALONE, "me")
    assert not is_alone(BOTH, "me")
    assert not is_alone(Daemons(), "me")
    assert not is_alone(ALONE, "you")
