"""The documents of this project, and what a reader sees in them.

Use it for a test that a document says what is so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Example(NamedTuple):
    """A block of code: where it is, its language, its lines without their indentation."""

    where: str
    language: str
    text: str


def text_of(path: Path) -> str:
    """A document's text."""
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    """A document's name for people."""
    return path.relative_to(ROOT).as_posix()


def examples(path: Path) -> list[Example]:
    """The blocks of code of a document."""
    text = text_of(path)
    found = []
    for fence in _FENCE.finditer(text):
        indent = len(fence["indent"])
        lines = [line[indent:] for line in fence["text"].splitlines(keepends=True)]
        where = f"{name_of(path)}:{text.count(chr(10), 0, fence.start()) + 1}"
        found.append(Example(where, fence["language"], "".join(lines)))
    return found


def code_of(path: Path) -> list[str]:
    """Everything in a document that is set as code, in blocks and within lines."""
    text = text_of(path)
    return [*(fence["text"] for fence in _FENCE.finditer(text)), *_INLINE.findall(_prose(text))]


def links_of(path: Path) -> list[str]:
    """Where a document's links and pictures lead."""
    return _LINK.findall(_INLINE.sub("", _prose(text_of(path))))


def anchors_of(path: Path) -> set[str]:
    """The anchors that a document's headings get on a repository's page."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_prose(text_of(path))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchors.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return anchors


def tables_of(text: str, *head: str) -> list[tuple[str, ...]]:
    """The rows of all tables of a text whose first columns are headed so.

    Raises:
        AssertionError: there is no such table.
    """
    rows: list[tuple[str, ...]] = []
    heads = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [
            tuple(cell.strip() for cell in line.strip("|\n ").split(" | "))
            for line in table.splitlines()
        ]
        if lines[0][: len(head)] == head:
            heads.append(lines[0])
            rows += lines[2:]
    assert heads, f"there is no table with the columns {head}"
    return rows


def _prose(text: str) -> str:
    return _FENCE.sub("", text)
