"""Compute's `filter` for resources of known names: one list answers what many calls would.

The pattern is a regular expression that must match a whole name. Names that differ only behind
their last hyphen, as the members of a group do, share what is before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

MAX_NAMES: Final = 500
"""Names of one filter: as many as a page of a list holds."""
MAX_LENGTH: Final = 4000
"""Characters of one filter, which is a part of a URL."""

_HEAD, _TAIL = 'name eq "', '"'


class NameFilter(NamedTuple):
    """A filter.

    Attributes:
        text: what Compute gets.
        names: the names that pass it.
    """

    text: str
    names: frozenset[str]


def name_filters(names: Iterable[str]) -> Iterator[NameFilter]:
    """Filters that only these names pass, each name in exactly one of them.

    Args:
        names: valid names of resources: lower-case letters, digits and hyphens.
    """
    stems: dict[str, list[str]] = {}
    some: list[str] = []
    length = len(_HEAD) + len(_TAIL)
    for name in sorted(set(names)):
        stem, hyphen, end = name.rpartition("-")
        stem += hyphen
        more = len(end) + 1 + (0 if stem in stems else len(stem) + 3)
        if some and (length + more > MAX_LENGTH or len(some) == MAX_NAMES):
            yield _filter(stems, some)
            stems, some = {}, []
            length = len(_HEAD) + len(_TAIL)
            more = len(end) + len(stem) + 4
        stems.setdefault(stem, []).append(end)
        some.append(name)
        length += more
    if some:
        yield _filter(stems, some)


def _filter(stems: dict[str, list[str]], names: list[str]) -> NameFilter:
    parts = (
        f"{stem}{ends[0]}" if len(ends) == 1 else f"{stem}({'|'.join(ends)})"
        for stem, ends in stems.items()
    )
    return NameFilter(f"{_HEAD}{'|'.join(parts)}{_TAIL}", frozenset(names))
