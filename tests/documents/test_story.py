"""The drawing of the demonstration in the README: of the story as it is, and well-formed."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import story

from gce_backend.demo.story import TITLES

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing: str) -> list[str]:
    """The texts of a drawing, in order."""
    return ["".join(one.itertext()) for one in ET.fromstring(drawing).iter(f"{SVG}text")]  # noqa: S314


def test_the_drawing_tells_the_chapters_of_the_demonstration() -> None:
    """In their order; `python scripts/story.py` draws it anew."""
    drawn = texts(story.DRAWING.read_text(encoding="utf-8"))
    found = [text for text in drawn if re.match(r"\d\. ", text)]
    assert found == [f"{number}. {title}" for number, title in enumerate(TITLES, start=1)]
    assert drawn[-1].startswith("everything was verified")


def test_the_drawing_asks_nobody_for_anything() -> None:
    """No font, image or script from elsewhere; where nothing moves, all of it is seen."""
    text = story.DRAWING.read_text(encoding="utf-8")
    assert not re.search(r"url\(|href|<script|<image|@import", text)
    assert "prefers-reduced-motion" in text
    assert len(text) < 20_000


def test_lines_are_drawn_when_they_appeared_and_wrapped() -> None:
    """And what would be markup is text."""
    told = story.told_in(
        "   0.2 s  1. A <thing>\n   9.5 s     "
        + "word " * 30
        + "\neverything was verified, in 9 s\n"
    )
    assert [line.at for line in told] == [0.2, 9.5, 9.5]
    drawing = story.drawn(told)
    assert "1. A <thing>" in texts(drawing)
    assert max(map(len, texts(drawing))) <= story.COLUMNS
    height = int(re.findall(r'viewBox="0 0 \d+ (\d+)"', drawing)[0])
    assert max(map(int, re.findall(r' y="(\d+)"', drawing))) < height
    assert "animation-delay:1.9s" in drawing
