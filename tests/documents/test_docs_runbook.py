"""docs/runbook.md: who is woken by an alert finds what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from support.documents import DOCS, ROOT, tables_of, text_of

RUNBOOK = text_of(DOCS / "runbook.md")
ALERTS: list[dict[str, Any]] = [
    rule
    for name in ("alerts.yml", "machine-provider-alerts.yml")
    for group in yaml.safe_load(text_of(ROOT / "deploy" / "monitoring" / name))["groups"]
    for rule in group["rules"]
]
SECTIONS = {
    re.sub(r"[^\w\- ]", "", part.partition("\n")[0].lower()).replace(" ", "-"): part
    for part in re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)[1:]
}
"""The sections on symptoms, by their anchors."""


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_leads_to_the_section_that_names_it(rule: dict[str, Any]) -> None:
    """The anchor is there, and what one sees there is this alert."""
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/runbook.md"
    seen = SECTIONS[anchor].partition("**You see:**")[2].partition("**Why:**")[0]
    assert f"`{rule['alert']}`" in seen


def test_the_table_has_every_alert_with_its_severity_and_section() -> None:
    """In the order of the rules, and none that no longer exists."""
    rows = tables_of(RUNBOOK, "what you see", "alert", "severity")
    table = [(row[1], row[2], row[0].partition("(#")[2].strip(")")) for row in rows]
    assert table == [
        (
            rule["alert"],
            rule["labels"]["severity"],
            rule["annotations"]["runbook"].partition("#")[2],
        )
        for rule in ALERTS
    ]


@pytest.mark.parametrize("anchor", SECTIONS)
def test_a_section_says_what_why_what_to_do_and_how_to_check(anchor: str) -> None:
    """Each in a paragraph of its own, in this order, and said at the top of the page."""
    told = re.findall(r"^\*\*([A-Z][a-z ]+):\*\* \S", SECTIONS[anchor], re.MULTILINE)
    assert told == ["You see", "Why", "Do", "Check"]
    assert f"(#{anchor})" in RUNBOOK.partition("\n## ")[0]
