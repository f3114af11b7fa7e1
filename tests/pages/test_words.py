"""How values read, and how two configurations differ."""

from __future__ import annotations

import inspect
import re

import pytest

from gce_backend.configuration.diff import MAX_BYTES, MAX_LINES, difference
from gce_backend.web.pages import words
from gce_backend.web.pages.provider_site import ProviderSite
from gce_backend.web.pages.site import Site
from pages.test_provider_pages import PAGES as PROVIDER_PAGES
from support.plain_texts import PAGES


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "<1 ms"),
        (0.0421, "42 ms"),
        (1.0, "1 s"),
        (1.26, "1.3 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (86_400, "1 d"),
        (100_000, "1 d 3 h"),
    ],
)
def test_durations_are_as_exact_as_people_want_them(seconds: float, text: str) -> None:
    """From milliseconds to days."""
    assert words.duration(seconds) == text


def test_times_are_told_from_now_with_the_exact_one_beside_them() -> None:
    """Ago, in, now, never."""
    assert "5 min ago" in words.when(1000.0, 1300.0)
    assert 'datetime="1970-01-01T00:16:40+00:00"' in words.when(1000.0, 1300.0)
    assert 'title="1970-01-01 00:16:40 UTC"' in words.when(1000.0, 1300.0)
    assert "in 20 s" in words.when(1020.0, 1000.0)
    assert ">now<" in words.when(1000.2, 1000.0)
    assert "–" in words.when(None, 1000.0)
    assert words.since(1000.0, 1000.0 + 7200).startswith("for <time")
    assert ">a moment<" in words.since(1000.0, 1000.2)
    assert ">1 s<" in words.lasting(1000.0, 1000.0)


def test_code_in_messages_is_marked_and_everything_escaped() -> None:
    """Backticks in pairs; a lonely one is a character."""
    assert words.prose("run `a <b>` & go") == "run <code>a &lt;b&gt;</code> &amp; go"
    assert words.prose("a ` <b>") == "a ` &lt;b&gt;"


def test_facts_have_names_that_people_read() -> None:
    """Times without their ending, abbreviations as they are written."""
    assert words.label("lease_ends_at") == "Lease ends"
    assert words.label("id") == "Numeric id"
    assert words.label("vm_status") == "VM status"
    assert words.number(1234567) == "1\u202f234\u202f567"


def test_a_difference_names_files_and_lines() -> None:
    """Files that came and went, too."""
    before = {"managers.cfg": "a\nb\nc", "gone.sh": "x"}
    after = {"managers.cfg": "a\nB\nc", "new.sh": "y"}
    told = difference(before, after).splitlines()
    assert {"--- managers.cfg", "-b", "+B", " a", "-x", "+y", "+++ new.sh"} <= set(told)
    assert difference(before, before) == ""


def test_a_difference_is_bounded() -> None:
    """In bytes, also of characters that take several; and in what it costs to find."""
    long = {"a": "\n".join("ü" * 100 + str(number) for number in range(1000))}
    cut = difference({}, long)
    assert MAX_BYTES - 300 < len(cut.encode()) < MAX_BYTES + 100
    assert cut.endswith("the rest is not kept")
    many = {"a": "\n".join(map(str, range(MAX_LINES + 1)))}
    assert "too many to compare" in difference({}, many)
    one_more = {"a": many["a"] + "\nthe end"}
    assert "+the end" in difference(many, one_more)


@pytest.mark.parametrize("moment", [1e12, 1e300, -1e15])
def test_a_moment_that_no_calendar_holds_breaks_no_page(moment: float) -> None:
    """Somebody took microseconds for seconds: the nearest date that there is."""
    drawn = words.when(moment, 0.0)
    assert ("9999-12-30" in drawn) == (moment > 0)
    assert words.instant(moment).endswith(" UTC")


def test_of_a_revision_the_first_characters_are_shown() -> None:
    """Of anything else all of it: an address is no use in part."""
    assert words.short("0123456789abcdef0123456789abcdef01234567") == "0123456789ab"
    assert words.short("https://mp.example.com") == "https://mp.example.com"


def test_every_page_is_read_for_slips() -> None:
    """Also one that is new: `support.plain_texts` and the test of the provider's pages name it."""
    addresses = re.compile(r'web\.get\("(/\w*)"')
    served = set(addresses.findall(inspect.getsource(Site.routes)))
    assert served == {path.partition("?")[0] for path in PAGES} | {"/explain"}
    lent = set(addresses.findall(inspect.getsource(ProviderSite.routes)))
    assert lent == {*PROVIDER_PAGES, "/session"}
