"""What Prometheus makes of a daemon's metrics: which alerts fire, phase by phase of a story.

Use it for a test of alerts on a simulated world. A phase is scraped twice, a minute apart, and
Prometheus sees it go on like that for as long as the test says: gauges stay, counters and ages go
on as they went.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import yaml

from support.documents import ROOT
from support.fleet_harness import World
from support.patience import PATIENCE

RULES = ROOT / "deploy" / "monitoring" / "alerts.yml"
PROVIDER_RULES = RULES.with_name("machine-provider-alerts.yml")
STEP = 60.0
"""Seconds between scrapes."""
_COUNTED = ("_bucket", "_count", "_sum", "_total")
_GROWING = ("_age_seconds", "_waiting_longest_seconds")
"""Gauges that grow with time while nothing happens."""
_LASTING = {"gce_backend_job_last_success_timestamp_seconds": 300.0}
"""Times that are set anew again and again, unless they are older than this."""
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_NAMES = frozenset(
    name
    for rules in (RULES, PROVIDER_RULES)
    for name in re.findall(r"(?:gce_backend|machine_provider)_[a-z_]+", rules.read_text("utf-8"))
)

_Values = Mapping[str, float]
"""Values by series, as Prometheus writes them."""


class Phase(NamedTuple):
    """A part of a story.

    Attributes:
        before: the values at its first scrape.
        after: the values a minute later.
        at: the time of the second scrape, Unix seconds.
        minutes: how long it lasts for Prometheus.
        expected: the alerts that are to fire in it.
    """

    before: _Values
    after: _Values
    at: float
    minutes: int
    expected: frozenset[str]


class Prometheus:
    """Watches a world, and asks promtool which alerts fire.

    Args:
        w: the world.
        name: of the story.
        job: the scrape job: of the daemon, or of its Machine Provider.

    Attributes:
        w: the world.
        url: of what is scraped; "" for the world's daemon.
    """

    def __init__(self, w: World, name: str, job: str = "gce-backend") -> None:
        self.w = w
        self.url = ""
        self._name = name
        self._job = job
        self._phases: list[Phase] = []

    async def see(self, *expected: str, minutes: int = 30) -> None:
        """Watches a phase of the story.

        Args:
            expected: the alerts that fire in it, and no other.
            minutes: how long it lasts.
        """
        before = await self._scrape()
        await self.w.pass_time(STEP)
        after, at = await self._scrape(), self.w.clock.now()
        self._phases.append(Phase(before, after, at, minutes, frozenset(expected)))

    async def _scrape(self) -> _Values:
        instance = 'instance="vm:8080"'
        up = f'up{{job="{self._job}",{instance}}}'
        url = self.url or self.w.daemon.url
        try:
            async with self.w.session.get(url + "/metrics") as response:
                text = await response.text()
        except aiohttp.ClientError:
            return {up: 0.0}
        told = {up: 1.0}
        for name, labels, value in _SAMPLE.findall(text):
            if name in _NAMES:
                told[f"{name}{{{labels + ',' if labels else ''}{instance}}}"] = float(value)
        return told

    def case(self) -> dict[str, Any]:
        """The story as a case for `promtool test rules`."""
        series = sorted({name for phase in self._phases for name in (*phase.before, *phase.after)})
        end, checks = 0, []
        for phase in self._phases:
            end += phase.minutes
            firing = 'ALERTS{alertstate="firing"}'
            if phase.expected:
                firing = f"max_over_time({firing}[{phase.minutes - 1}m])"
            expected = [
                {"labels": f'{{alertname="{name}"}}', "value": 1} for name in phase.expected
            ]
            checks.append(
                {
                    "expr": f"group by (alertname) ({firing})",
                    "eval_time": f"{end - 1}m",
                    "exp_samples": sorted(expected, key=str),
                }
            )
        return {
            "name": self._name,
            "interval": "1m",
            "input_series": [{"series": name, "values": self._values(name)} for name in series],
            "promql_expr_test": checks,
        }

    def _values(self, series: str) -> str:
        """The values of a series, in promtool's shorthand."""
        name = series.partition("{")[0]
        told, minute, last = [], 0, 0.0
        for phase in self._phases:
            more = phase.minutes - 1
            if series not in phase.after:
                told.append(f"_x{phase.minutes}")
            else:
                value = phase.after[series]
                slope = value - phase.before.get(series, value)
                if name.endswith("_timestamp_seconds"):
                    age = phase.at - value
                    value, slope = (
                        60.0 * minute - age,
                        STEP if age < _LASTING.get(name, 0.0) else 0.0,
                    )
                elif name.endswith(_COUNTED):
                    value = last = max(value, last)
                    last += slope * more
                elif name.endswith(_GROWING):
                    slope = STEP if value else 0.0
                else:
                    slope = 0.0
                told.append(f"{value!r}+{slope!r}x{more}".replace("+-", "-"))
            minute += phase.minutes
        return " ".join(told)


def wrong_alerts(cases: list[dict[str, Any]], directory: Path, rules: Path = RULES) -> str:
    """What promtool finds wrong with the cases; "" when all alerts fire as expected.

    Args:
        cases: from `Prometheus.case`.
        directory: where the file for promtool is written.
        rules: the alert rules.
    """
    document = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": cases}
    file = directory / "story.yml"
    file.write_text(yaml.safe_dump(document, width=10_000), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def commands_of(section: str) -> Iterator[str]:
    """The commands that a section of the runbook tells to run, in order."""
    do = section.partition("**Do:**")[2].partition("**Check:**")[0]
    yield from re.findall(r"`gce-backend ([^`]+)`", do)
