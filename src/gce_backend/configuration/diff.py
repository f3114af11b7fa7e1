"""How one configuration's texts differ from another's, as a unified diff of bounded size. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import unified_diff

MAX_BYTES = 30_000
"""Beyond this the diff is cut: it is kept beside the texts, which fill an entity almost."""
MAX_LINES = 2000
"""Lines in which two texts may differ to be compared line by line: more take too long."""


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A unified diff of all files; "" when they are the same.

    Args:
        before: texts by file name; no files when there was no configuration.
        after: the newer texts.
    """
    lines: list[str] = []
    left = MAX_BYTES
    for line in _lines(before, after):
        left -= len(line.encode()) + 1
        if left < 0:
            lines.append("... and more: the rest is not kept")
            break
        lines.append(line)
    return "\n".join(lines)


def _lines(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        if max(len(old), len(new)) - _same_edges(old, new) > MAX_LINES:
            yield f"--- {name}"
            yield f"+++ {name}"
            yield f"... more than {MAX_LINES} lines differ: too many to compare"
        else:
            yield from unified_diff(old, new, name, name, lineterm="")


def _same_edges(old: list[str], new: list[str]) -> int:
    """Lines that two texts share at their beginnings and ends."""
    shorter = min(len(old), len(new))
    head = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    rest = shorter - head
    tail = next((at for at in range(rest) if old[-1 - at] != new[-1 - at]), rest)
    return head + tail
