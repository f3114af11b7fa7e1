"""Prometheus's own tool reads the rules, tries their cases, and checks the metrics."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from documents.test_monitoring import MONITORING
from documents.test_provider_monitoring import live
from support.metrics_story import tell
from support.patience import PATIENCE

RULES = ("alerts.yml", "machine-provider-alerts.yml")


def promtool(*arguments: str, given: str = "") -> str:
    """What promtool says; it must find nothing wrong.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which("promtool")
    if found is None:
        raise FileNotFoundError("there is no promtool: `make promtool` installs it")
    done = subprocess.run(
        [found, *arguments],
        input=given,
        cwd=MONITORING,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("rules", RULES)
def test_prometheus_takes_the_rules(rules: str) -> None:
    """Their syntax and their expressions."""
    assert "SUCCESS" in promtool("check", "rules", rules)


@pytest.mark.parametrize("rules", RULES)
def test_each_alert_fires_in_its_case_and_not_before(rules: str) -> None:
    """As Prometheus evaluates them."""
    assert "SUCCESS" in promtool("test", "rules", rules.replace(".yml", "_test.yml"))


def test_a_daemons_metrics_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    """Names, units, help texts: at the end of a story in which everything happens."""
    assert promtool("check", "metrics", given=tell(tmp_path).troubled.text) == ""


async def test_so_are_the_machine_providers(tmp_path: Path) -> None:
    """When machines were leased, given back and refused."""
    assert promtool("check", "metrics", given=(await live(tmp_path)).text) == ""
