"""JSON in which one part is another: for tests that nothing odd does harm.

Use it to spoil what a peer or a store gives, and look that only what was spoiled is lost.
"""

from __future__ import annotations

from random import Random
from typing import Any


def mutated(value: Any, chance: Random, odd: Any) -> Any:
    """A copy of a JSON value in which one part, chosen by chance, is another."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(sorted(value))
        if chance.random() < 0.1:
            return {key: part for key, part in value.items() if key != name}
        return {**value, name: mutated(value[name], chance, odd)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        index = chance.randrange(len(value))
        return [*value[:index], mutated(value[index], chance, odd), *value[index + 1 :]]
    return odd
