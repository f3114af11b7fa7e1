"""A real Prometheus with our rules scrapes a running daemon: an alert fires, and clears."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from processes.running import Site, site, until
from support.documents import DOCS, ROOT, text_of
from support.fleet_harness import manager, template
from support.patience import PATIENCE

RULES = ROOT / "deploy" / "monitoring"


class Prometheus:
    """A running Prometheus.

    Args:
        place: where its process runs.
        target: host and port that it scrapes as the daemon.
    """

    def __init__(self, place: Site, target: str) -> None:
        self._place = place
        directory = place.directory / "prometheus"
        directory.mkdir()
        page = text_of(DOCS / "monitoring.md")
        (told,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", page, re.DOTALL)
        config = yaml.safe_load(told)
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        config["scrape_configs"][0]["scrape_interval"] = "1s"
        config["global"] = {"evaluation_interval": "1s"}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        rules = text_of(RULES / "alerts.yml")
        quick = re.sub(r"for: \d+[mh]", "for: 2s", rules)
        (directory / "alerts.yml").write_text(quick, encoding="utf-8")
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [  # noqa: S607
                    "prometheus",
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=data",
                    "--web.listen-address=127.0.0.1:0",
                ],
                cwd=directory,
                stdout=log,
                stderr=log,
            )

    @property
    def url(self) -> str:
        """Where it listens; "" before it does."""
        found = re.search(r'msg="Listening on" address=(\S+)', self._log.read_text("utf-8"))
        return f"http://{found[1]}" if found else ""

    def up(self) -> bool:
        """Whether its last scrape of the daemon succeeded."""
        assert self.process.poll() is None, self._log.read_text("utf-8")
        if not self.url:
            return False
        targets: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return [target["health"] for target in targets] == ["up"]

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        alerts = self._get("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def runbooks(self) -> set[str]:
        """The places in the runbook that its alerts name."""
        return {one["annotations"]["runbook"] for one in self._get("alerts")["alerts"]}

    def _get(self, what: str) -> Any:
        return self._place.get(f"/api/v1/{what}", self.url)["data"]


@contextlib.contextmanager
def prometheus(place: Site, target: str) -> Iterator[Prometheus]:
    """A Prometheus, and its end."""
    made = Prometheus(place, target)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(timeout=PATIENCE)


def order(place: Site, *words: str) -> None:
    """Gives an order by a command."""
    settings = str(place.directory / "state.toml")
    done = place.start(words[0], *words, GCE_BACKEND_SETTINGS=settings)
    assert done.process.wait() == 0, done.log.read_text("utf-8")


def test_a_real_prometheus_tells_of_a_pause_until_it_ends(tmp_path: Path) -> None:
    """It has our rules with short waits, and the scrape job that the documents show."""
    with site(tmp_path) as place:
        (place.config / "templates.cfg").write_text(template(), encoding="utf-8")
        (place.config / "managers.cfg").write_text(manager(minimum=1), encoding="utf-8")
        daemon = place.start_local()
        url = daemon.event("daemon.started")["url"]
        with prometheus(place, url.partition("//")[2]) as prom:
            until(prom.up)
            order(place, "pause", "--reason", "a look")
            until(lambda: "GceBackendPaused" in prom.firing())
            assert "docs/runbook.md#the-fleet-is-paused" in prom.runbooks()
            order(place, "resume")
            until(lambda: "GceBackendPaused" not in prom.firing())
            daemon.kill()
            until(lambda: "GceBackendDown" in prom.firing())
