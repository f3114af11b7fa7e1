"""deploy/monitoring: alert rules and dashboard ask for what a daemon shows, and are described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from support.metrics_story import tell
from support.scraped import Scraped

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DOC = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
ALERTS = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
CASES = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
DASHBOARD = json.loads((MONITORING / "gce-backend.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus gives to every sample."""
OVER_TIME = {"rate", "increase"}
"""Functions for what only rises."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    """All that a daemon shows at the end of a story in which everything happens."""
    return tell(tmp_path_factory.mktemp("story")).troubled


def parsed(text: str) -> Any:
    """A PromQL expression; Grafana's variables stand for something."""
    for name, value in {"$__rate_interval": "2m", "$instance": ".*"}.items():
        text = text.replace(name, value)
    return promql.parse(re.sub(r"\$\w+", ".*", text))


def walk(node: Any, over: str = "") -> Iterator[tuple[Any, str, bool]]:
    """Every selector of an expression, the function that it is given to, and whether of a range."""
    match node:
        case promql.VectorSelector():
            yield node, over, False
        case promql.MatrixSelector():
            yield node.vector_selector, over, True
        case promql.Call():
            for argument in node.args:
                yield from walk(argument, node.func.name)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr():
            yield from walk(node.expr, over)
        case promql.BinaryExpr():
            yield from walk(node.lhs, over)
            yield from walk(node.rhs, over)
        case promql.SubqueryExpr():
            yield from walk(node.expr, over)


def groupings(node: Any) -> Iterator[tuple[Any, set[str], str]]:
    """Every aggregation and matching: what it is over, its labels, and in which function it is."""
    match node:
        case promql.AggregateExpr():
            labels = set(node.modifier.labels) if node.modifier else set()
            yield node.expr, labels, ""
            yield from groupings(node.expr)
        case promql.Call():
            for argument in node.args:
                for expr, labels, over in groupings(argument):
                    yield expr, labels, over or node.func.name
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from groupings(node.expr)
        case promql.BinaryExpr():
            yield from groupings(node.lhs)
            yield from groupings(node.rhs)


def problems(text: str, shown: Scraped) -> list[str]:
    """What an expression asks for that is not there, or not so, in words."""
    found: list[str] = []
    expression, labels = parsed(text), shown.labels()
    for selector, over, is_range in walk(expression):
        name = selector.name
        if name == "up":
            continue
        if name not in labels:
            found.append(f"{name}: no such metric")
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels[name] | OF_PROMETHEUS:
                found.append(f"{name}: no such label {matcher.name}")
            elif matcher.name not in OF_PROMETHEUS:
                found += _unknown_values(name, matcher, shown)
        rises = name.endswith(("_total", "_bucket", "_sum", "_count"))
        if over in OVER_TIME and not (rises and is_range):
            found.append(f"{name}: {over}() is for counters and histograms, over a range")
        if rises and over not in OVER_TIME:
            found.append(f"{name}: a counter says nothing without rate()")
    for expr, names, over in groupings(expression):
        for selector, _, _ in walk(expr):
            known = labels.get(selector.name, set()) | OF_PROMETHEUS
            found += [f"{selector.name}: no such label {name}" for name in names - known]
            is_buckets = selector.name.endswith("_bucket")
            if over == "histogram_quantile" and not (is_buckets and "le" in names):
                found.append(f"{selector.name}: histogram_quantile() is of buckets, by le")
    return found


def _unknown_values(name: str, matcher: Any, shown: Scraped) -> list[str]:
    """Words of a matcher for equality, or a list of words, that no sample ever has."""
    words = re.split(r"\|", matcher.value) if re.fullmatch(r"[\w|-]+", matcher.value) else []
    seen = {labels[matcher.name] for sample, labels, _ in shown.samples if sample == name}
    return [f"{name}: {matcher.name} is never {word}" for word in words if word not in seen | RARE]


RARE = {
    *("missing", "stopped", "lost", "set-aside", "leased"),  # states of machines
    *("QuotaExceeded", "IpSpaceExhausted", "PermissionDenied", "MeltDown", "BootFailing"),
    *("Abandoned", "webhook"),
}
"""Words that a label has only in troubles that the story does not tell."""


def test_rare_words_are_words_of_the_code() -> None:
    """The list above must not hide a misspelt word."""
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert not {word for word in RARE if f'"{word}"' not in source}


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_asks_for_what_is_there(rule: dict[str, Any], shown: Scraped) -> None:
    """Each metric and label exists, and functions fit the metrics' types."""
    assert problems(rule["expr"], shown) == []


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """Severity, summary, description, a section of the runbook; labels of texts exist."""
    assert re.fullmatch(r"GceBackend[A-Za-z]+", rule["alert"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    waits = re.fullmatch(r"\d+[mh]", rule.get("for", "0m"))
    assert waits or "increase(" in rule["expr"], "one bad moment wakes nobody"
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    texts = rule["annotations"]["summary"] + rule["annotations"]["description"]
    kept = {name for _, labels, _ in groupings(parsed(rule["expr"])) for name in labels}
    for name in re.findall(r"\$labels\.(\w+)", texts):
        assert not kept or name in kept, f"{name} does not come out of the expression"


def test_every_alert_has_a_case_in_which_it_fires_and_is_silent_before(shown: Scraped) -> None:
    """What promtool evaluates is complete, and its series are those that a daemon shows."""
    silent, firing = CASES[:2], CASES[2:]
    assert {case["name"] for case in firing} == {rule["alert"] for rule in ALERTS}
    assert [case["name"] for case in silent] == ["a healthy fleet", "a roll-out to a bad image"]
    assert not any(test["exp_samples"] for case in silent for test in case["promql_expr_test"])
    labels = shown.labels()
    for case in CASES:
        for series in case["input_series"]:
            (selector, _, _), *_ = walk(promql.parse(series["series"]))
            names = {matcher.name for matcher in selector.matchers.matchers}
            if selector.name != "up":
                assert names <= labels[selector.name], series["series"]
    for case in firing:
        before, after = case["promql_expr_test"]
        assert before["exp_samples"] == []
        assert after["exp_samples"] == [
            {"labels": f'{{alertname="{case["name"]}"}}', "value": 1},
        ]
    asked = {name for rule in ALERTS for name in names_in(rule["expr"])}
    healthy = {name for series in CASES[0]["input_series"] for name in names_in(series["series"])}
    unasked = {
        "gce_backend_conditions",
        "gce_backend_pause_since_timestamp_seconds",
        "gce_backend_rollout_order_since_timestamp_seconds",
    }
    assert asked - healthy == unasked, "these have no series while nothing is wrong"


def names_in(text: str) -> set[str]:
    """The metrics that an expression asks for."""
    return {selector.name for selector, _, _ in walk(parsed(text))}


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("gce_backend_machine", "no such metric"),
        ('gce_backend_machines{job_name="x"}', "no such label job_name"),
        ('gce_backend_machines{state="catalogued"}', "state is never catalogued"),
        ("sum by (revision) (gce_backend_machines)", "no such label revision"),
        ("rate(gce_backend_machines[5m])", "is for counters"),
        ("sum(gce_backend_calls_total) > 1", "nothing without rate"),
        (
            "histogram_quantile(0.9, sum(rate(gce_backend_job_lag_seconds_bucket[5m])))",
            "of buckets, by le",
        ),
        (
            "histogram_quantile(0.9, sum by (le) (rate(gce_backend_job_lag_seconds_sum[5m])))",
            "of buckets, by le",
        ),
    ],
)
def test_an_expression_that_is_wrong_is_found(
    expression: str, problem: str, shown: Scraped
) -> None:
    """The check of rules and dashboard can fail."""
    assert any(problem in found for found in problems(expression, shown))


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_asks_for_what_is_there(panel: dict[str, Any], shown: Scraped) -> None:
    """Each metric and label exists; it has a title, a unit, words, and a datasource to choose."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert problems(target["expr"], shown) == []


def test_the_dashboard_can_be_imported() -> None:
    """A recent schema, variables for datasource, daemon, template and zone, rows with panels."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert "id" not in DASHBOARD, "Grafana gives one"
    variables = {found["name"]: found["type"] for found in DASHBOARD["templating"]["list"]}
    assert variables == {
        "datasource": "datasource",
        "instance": "query",
        "template": "query",
        "zone": "query",
    }
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used <= variables.keys() | {"__rate_interval", "__all"}
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Fleet", "Problems", "Jobs", "Calls and budget", "Messages", "Process"]


def test_variables_and_annotations_ask_for_what_is_there(shown: Scraped) -> None:
    """The names of templates and zones come from metrics that a daemon shows."""
    for variable in DASHBOARD["templating"]["list"][1:]:
        text = variable["query"]["query"]
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", text)
        assert match is not None, text
        assert problems(match[1], shown) == []
        (name,) = names_in(match[1])
        assert match[2] in shown.labels()[name] | OF_PROMETHEUS
    for annotation in DASHBOARD["annotations"]["list"]:
        assert problems(annotation["expr"], shown) == []


def test_panels_lie_side_by_side() -> None:
    """None covers another, none leaves the grid, and no id is given twice."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_metric_is_described_with_its_labels(shown: Scraped) -> None:
    """A new metric needs a row in docs/monitoring.md, and none outlives its metric."""
    described = {
        name: set(filter(None, labels.split(", ")))
        for name, labels in re.findall(
            r"^\| `(gce_backend_\w+)` \| ?([\w, ]*?) ?\|", DOC, re.MULTILINE
        )
    }
    labels = shown.labels()
    there = {
        name: labels[f"{name}_bucket"] - {"le"} if kind == "histogram" else labels[name]
        for name, kind in shown.types.items()
        if name.startswith("gce_backend_")
    }
    assert described == there


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    """What nobody looks at need not be counted."""
    asked = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for text in (
            *(target["expr"] for panel in PANELS for target in panel["targets"]),
            *(rule["expr"] for rule in ALERTS),
        )
        for name in names_in(text)
    }
    described = set(re.findall(r"^\| `(gce_backend_\w+)` \|", DOC, re.MULTILINE))
    assert not described - asked
