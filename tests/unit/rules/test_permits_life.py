"""S1 as a property: whatever happens in whatever order, nobody's machine is destroyed by us."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gce_backend.model.entities import Permit
from support.permit_life import Life

LIVES = 500
MOVES = 60


class Permits(RuleBasedStateMachine):
    """Sequences that can be shrunk to the shortest one that does harm."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One of the things that may happen now."""
        moves = [move for weight, move in self.life.moves() for _ in range(weight)]
        data.draw(st.sampled_from(moves))()

    @invariant()
    def it_is_safe(self) -> None:
        """No decision breaks the rules; a destroyed machine that is held raises by itself."""
        self.life.check()


TestPermits = Permits.TestCase
TestPermits.settings = settings(
    max_examples=60,
    stateful_step_count=MOVES,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("seed", range(4))
def test_no_long_life_ends_with_a_machine_destroyed_that_somebody_holds(seed: int) -> None:
    """Many random lives; all permits are met, or the walk has not been where it hurts."""
    rng = random.Random(seed)
    met: Counter[Permit] = Counter()
    for _ in range(LIVES):
        life = Life()
        for _ in range(MOVES):
            weights, moves = zip(*life.moves(), strict=True)
            rng.choices(moves, weights)[0]()
            life.check()
        met += life.destroyed
    assert all(met[permit] > 20 for permit in Permit), met
