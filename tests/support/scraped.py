"""What a daemon's /metrics says, as a scraper reads it.

Use it for a test of the values of metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from support.fleet_harness import World

PREFIX = "gce_backend_"


class Scraped:
    """One scrape.

    Attributes:
        text: what was scraped.
        types: of each family, by the name that its TYPE line has.
        samples: name, labels and value of each sample.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.types: dict[str, str] = {}
        self.samples: list[tuple[str, dict[str, str], float]] = []
        for family in text_string_to_metric_families(text):
            suffix = "_total" if family.type == "counter" else ""
            self.types[family.name + suffix] = family.type
            self.samples += [(it.name, dict(it.labels), it.value) for it in family.samples]

    def of(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric that have these labels, by the values of their other labels."""
        return {
            tuple(value for key, value in found.items() if key not in labels): number
            for sample, found, number in self.samples
            if sample == PREFIX + name and labels.items() <= found.items()
        }

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that have these labels."""
        return sum(self.of(name, **labels).values())

    def labels(self) -> dict[str, set[str]]:
        """The names of the labels of each sample's name."""
        found: dict[str, set[str]] = {}
        for name, labels, _ in self.samples:
            found.setdefault(name, set()).update(labels)
        return found


async def scrape(w: World, name: str = "") -> Scraped:
    """What the daemon says now.

    Args:
        name: of the metric that is wanted alone; to parse all is most of what a scrape costs.
    """
    async with w.session.get(w.daemon.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = (await response.text()).splitlines(keepends=True)
        return Scraped("".join(line for line in lines if name in line))


def wrong_names(types: dict[str, str], labels: Iterable[str]) -> list[str]:
    """What breaks Prometheus's rules for names and units, in words."""
    units = ("seconds", "bytes", "total", "info", "ratio")
    abbreviated = {"ms", "sec", "secs", "minutes", "hours", "kb", "mb", "gb", "percent", "msec"}
    problems = []
    for name, kind in types.items():
        words = name.split("_")
        if kind == "counter" and words[-1] != "total":
            problems.append(f"{name}: a counter ends with _total")
        if kind != "counter" and words[-1] == "total":
            problems.append(f"{name}: only a counter ends with _total")
        if kind in {"histogram", "summary"} and words[-1] not in units:
            problems.append(f"{name}: a distribution ends with its unit")
        if {"age", "lag", "duration", "timestamp"} & set(words) and "seconds" not in words:
            problems.append(f"{name}: a time is in seconds, and says so")
        if any(unit in words[:-1] for unit in ("total", "info")):
            problems.append(f"{name}: _total and _info come last")
        if abbreviated & set(words):
            problems.append(f"{name}: a base unit, in full")
        if words[-1] in {"count", "sum", "bucket"}:
            problems.append(f"{name}: reserved for the series of distributions")
    reserved = {"job", "instance", "le", "quantile"}
    problems += [f"{label}: Prometheus's own label" for label in labels if label in reserved]
    return problems
