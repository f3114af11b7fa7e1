"""docs/localcloud.md describes exactly what the embedded cloud serves."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from gce_backend.base.clock import SystemClock
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Kind

PAGE = (Path(__file__).parents[2] / "docs" / "localcloud.md").read_text(encoding="utf-8")
SECTIONS = {
    "compute": "Compute Engine",
    "datastore": "Datastore",
    "pubsub": "Pub/Sub",
    "metadata": "metadata server",
    "cloudresourcemanager": "Resource Manager",
    "luci_config": "LUCI Config",
    "machine_provider": "Machine Provider",
}
"""What the page calls the services."""


def section(title: str) -> str:
    """The text of a section, whatever the case of its title."""
    parts = {part.partition("\n")[0].lower(): part for part in PAGE.split("\n## ")}
    return parts[title.lower()]


def rows(text: str, *head: str) -> list[list[str]]:
    """The cells of a text's tables that have this head."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        if lines[0] == list(head):
            found += lines[2:]
    return found


def served() -> Counter[str]:
    """How many routes each method has."""
    cloud = embedded_cloud(None, SystemClock(), CloudOptions())
    return Counter(route.method for service in cloud._services for route in service.routes())


@pytest.mark.parametrize("service", SECTIONS)
def test_every_method_served_is_in_the_table_of_its_service_and_no_other(service: str) -> None:
    """Each once, with what is faithful or simplified, and a source that can be looked up."""
    table = rows(section(SECTIONS[service]), "method", "faithful", "simplified", "source")
    named = Counter(row[0].strip("`") for row in table)
    assert named == Counter({m: n for m, n in served().items() if m.split(".")[0] == service})
    for name, faithful, simplified, source in table:
        assert faithful or simplified, name
        assert re.fullmatch(r"\[[^\]]+\]\((?:https://|machine-provider\.md#)[^)]+\)", source), name


def test_the_page_says_how_many_methods_are_served() -> None:
    """In all, and by service."""
    methods = served()
    [total] = re.findall(r"^(\d+) methods are served", PAGE, re.MULTILINE)
    assert int(total) == len(methods)
    by_service = Counter(method.split(".")[0] for method in methods)
    table = rows(section("Services"), "service", "base URL", "methods", "what")
    stated = {re.sub(r"\[([^\]]+)\].*", r"\1", row[0]): int(row[2]) for row in table}
    assert stated == {SECTIONS[service]: count for service, count in by_service.items()}


def test_the_page_names_every_kind_of_fault() -> None:
    """And none that is no more."""
    table = rows(section("Inspect it, and inject faults"), "kind", "fields", "does")
    named = {re.findall(r"`([a-z-]+)`", row[0])[0] for row in table}
    assert named == set(get_args(Kind))


@pytest.mark.parametrize("title", ["Compute Engine", "Datastore", "Pub/Sub"])
def test_rules_have_sources(title: str) -> None:
    """What the tables of rules state can be looked up."""
    rules = rows(section(title), "rule", "here", "source")
    assert len(rules) > 5
    assert all("](https://" in source for *_, source in rules)
