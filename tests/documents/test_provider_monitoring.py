"""Alerts and dashboard of the Machine Provider ask for what its processes show."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from documents.test_monitoring import MONITORING, names_in, problems
from gce_backend.localcloud.faults import Fault
from machine_provider.test_service import USER, held, machine, until_ready
from support.provider_harness import place
from support.scraped import Scraped, wrong_names
from support.simulation import VirtualTimeLoop

ALERTS = [
    rule
    for group in yaml.safe_load((MONITORING / "machine-provider-alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
CASES = yaml.safe_load((MONITORING / "machine-provider-alerts_test.yml").read_text())["tests"]
DASHBOARD = json.loads((MONITORING / "machine-provider.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    """All that a process shows when machines were leased, given back and refused."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(live(tmp_path_factory.mktemp("provider")))


async def live(tmp_path: Path) -> Scraped:
    """What a process shows when all that it counts has happened."""
    async with place(tmp_path) as p:
        mp = await p.start()
        await until_ready(p, mp)
        for name in ("vm-1", "vm-2", "vm-3"):
            await p.ok(mp, "catalog.add_machine", machine(name))
        await asyncio.sleep(1)
        p.cloud.faults.add(Fault(method="datastore.projects.lookup", status=503, times=1))
        for name in ("r1", "r2"):
            await held(p, mp, name)
        url = urlsplit(mp.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"no request\r\n\r\n")
        await reader.read()
        writer.close()
        await p.ok(mp, "machine_provider.release", {"request_id": "r1"}, USER)
        await p.call(mp, "catalog.get", {"hostname": "vm-1"}, USER)
        async with p._session.get(mp.url + "/api/v1/whoami", headers=BAD) as response:
            assert response.status == 401
        await asyncio.sleep(5)
        return Scraped((await p.send(mp, "GET", "/metrics"))[1])


BAD = {"Authorization": "Bearer not-a-token"}


def test_the_names_keep_prometheus_rules(shown: Scraped) -> None:
    """Units, suffixes and reserved words; promtool check metrics finds nothing either."""
    labels = {label for names in shown.labels().values() for label in names} - {"le"}
    assert wrong_names(shown.types, labels) == []


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_asks_for_what_is_there_and_says_what_to_do(
    rule: dict[str, Any], shown: Scraped
) -> None:
    """Each metric and label exists; it waits before it wakes somebody."""
    assert problems(rule["expr"], shown) == []
    assert re.fullmatch(r"MachineProvider[A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}


def test_every_alert_has_a_case_in_which_it_fires_and_is_silent_before(shown: Scraped) -> None:
    """What promtool evaluates is complete, and a healthy Machine Provider has no alert."""
    silent, *firing = CASES
    assert [case["name"] for case in firing] == [rule["alert"] for rule in ALERTS]
    assert not any(test["exp_samples"] for test in silent["promql_expr_test"])
    for case in firing:
        before, after = case["promql_expr_test"]
        assert before["exp_samples"] == []
        assert [one["value"] for one in after["exp_samples"]] == [1]
    for series in (series for case in CASES for series in case["input_series"]):
        (name,) = names_in(series["series"])
        assert name in shown.labels() or name == "up"
    asked = {name for rule in ALERTS for name in names_in(rule["expr"])}
    well = {name for series in silent["input_series"] for name in names_in(series["series"])}
    assert asked <= well


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_asks_for_what_is_there(panel: dict[str, Any], shown: Scraped) -> None:
    """Each metric and label exists; it has words and a unit."""
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert problems(target["expr"], shown) == []


def test_every_metric_is_on_the_dashboard(shown: Scraped) -> None:
    """What nobody looks at need not be counted."""
    asked = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in PANELS
        for target in panel["targets"]
        for name in names_in(target["expr"])
    }
    ours = {name for name in shown.types if not name.startswith("machine_provider_process_")}
    assert ours == asked
