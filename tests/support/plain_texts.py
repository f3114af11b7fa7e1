"""What no page and no command may say: numbers that do not agree, doubled words, negative times.

And more that a reader stumbles over, such as dates and numbers that are meant for programs.

Use it on the texts of a troubled fleet.
"""

from __future__ import annotations

import html
import re

from support.fleet_harness import World
from support.html_reader import visit

PAGES = (
    *("/", "/?span=7d&zones=folded", "/machines", "/jobs", "/messages", "/events"),
    "/configuration",
)
_NOUNS = (
    *("VMs", "machines", "groups", "templates", "zones", "messages", "problems", "jobs", "events"),
    *("tries", "characters", "attributes", "deletions", "leases", "requests", "calls", "lines"),
    *("revisions", "orders", "resources", "files", "seconds", "minutes", "hours", "days"),
)
_INLINE = "a|code|span|strong|time"
_FAULTS = {
    "a number and its noun": rf"(?<![\d.,–-])\b1 (?:{'|'.join(_NOUNS)})\b",
    "a word twice": r"\b([a-z]{3,}) \1\b",
    "a maximum of 0": r"maximum_size:? 0\b|maximum of 0\b|\b0 (?:->|→) [1-9]",
    "no time at all": r"(?:\bfor )0 ?(?:s|min)\b|(?<![\d.])0 ?ms\b",
    "a time for programs": (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d|(?<![\w.-])1[4-9]\d{8}(?:\.\d+)?(?![\w.-])"
    ),
    "a number too exact": r"(?<![\w.])\d+\.\d{5,}",
    "a share without its space": r"\d%(?!\w)",
    "an article that does not fit": (
        r"\b[Aa] (?!one\b|once\b|us\b|use|uni|eu)[aeio]\w+"
        r"|\b[Aa]n (?!hour|honest)[b-df-gj-km-np-qs-tv-wyz]\w+"
    ),
    "a mark twice": r"(?<!\.)\.\.(?![./])|,,|;;|[?!]\.(?!\w)| [,;](?= )",
    "a noun in both numbers": r"\w\(s\)",
    "a negative time": r"(?<![\w.:/-])-\d+(?:\.\d+)? ?(?:ms|s|min|h|d)\b",
    "a value of Python's": r"\bNaN\b|\bundefined\b|<class |\bNone\b(?!\.)|\bTrue\b|\bFalse\b",
    "a list of Python's": r"[(\[]'",
}


def faults_in(text: str) -> list[str]:
    """What is wrong with a text, with its place."""
    return [
        f"{what}: {text[max(0, found.start() - 30) : found.end() + 30]!r}"
        for what, pattern in _FAULTS.items()
        for found in re.finditer(pattern, text)
    ]


def faults_on(source: str) -> list[str]:
    """What is wrong with what a page says, which is given as HTML."""
    source = re.sub(r"<pre.*?</pre>", "", source, flags=re.DOTALL)
    said = re.findall(r"(?:title|aria-label)=\"([^\"]+)\"", source)
    said += re.findall(r">([^<]+)<", re.sub(rf"</?(?:{_INLINE})\b[^>]*>", "", source))
    return [fault for text in said for fault in faults_in(html.unescape(text))]


async def faults_on_pages(w: World) -> list[str]:
    """What is wrong on the pages of a daemon: those of all, and those about each problem."""
    problems = (await w.get("/api/status")).get("problems", ())
    about = {it["subject"] for it in problems if it["kind"] in {"machine", "group", "template"}}
    named = [f"/explain?name={name}" for name in sorted(about)]
    found = []
    for path in (*PAGES, *named):
        page = await visit(w, path)
        found += [f"{path}: {fault}" for fault in faults_on(page.source)]
    return found
