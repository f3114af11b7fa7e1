"""Numbers with their nouns, in the singular or the plural."""

from __future__ import annotations


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: `1 machine`, `2 machines`.

    Args:
        count: the number.
        noun: the noun in the singular.
        nouns: its plural; by default, the singular with an s.
    """
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
