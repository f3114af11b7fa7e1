"""actions.prices: what machines cost is in metrics, pages and plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.cli.comparison import compare
from gce_backend.cli.plan_text import told
from support.fleet_harness import manager, template, world
from support.scraped import scrape


async def test_metrics_explanation_and_plan_tell_what_machines_cost(tmp_path: Path) -> None:
    """By the prices of the settings; a type that has none is left out."""
    templates = template("linux", machine_type="e2-standard-4") + template(
        "other", machine_type="a2-highgpu-1g"
    )
    managers = manager("linux", minimum=3) + manager("other", minimum=1)
    async with world(tmp_path, templates=templates, managers=managers) as w:
        await w.until_states(cataloged=4)
        await w.lease(num_cpus=4)
        price = 4 * 0.021811 + 16 * 0.002923
        found = await scrape(w)
        assert found.sum("cost_per_hour", template="linux") == pytest.approx(3 * price)
        assert found.sum("idle_cost_per_hour", template="linux") == pytest.approx(2 * price)
        assert not found.of("cost_per_hour", template="other")
        await w.pass_time(900)
        name, later = "idle_machine_seconds_total", await scrape(w)
        seconds = later.sum(name, template="linux") - found.sum(name, template="linux")
        assert seconds == pytest.approx(1800, abs=150)
        (name,) = [key.partition("/")[2] for key in await w.groups() if "linux" in key]
        shown = await w.get(f"/api/explain?name={name}")
        assert "about 0.40 USD an hour, 0.27 of it idle" in str(shown)
        status = await w.get("/api/status")
        assert status["cost"] == "about 0.40 USD an hour, 0.27 of it idle"
        async with w.session.get(w.daemon.url + "/") as page:
            assert status["cost"] in await page.text()
        for request in ("r2", "r3"):
            await w.lease(request, num_cpus=4)
        shown = await w.get(f"/api/explain?name={name}")
        assert "about 0.40 USD an hour, none of it idle" in str(shown)
        directory = tmp_path / "proposed"
        directory.mkdir()
        (directory / "templates.cfg").write_text(templates)
        (directory / "managers.cfg").write_text(
            manager("linux", minimum=5) + manager("other", minimum=1)
        )
        document = await compare(w.settings, directory)
        assert f"This change adds about {2 * 24 * price:.2f} USD a day" in document.cost
        assert "Without a2-highgpu-1g: no price is known" in document.cost
        assert document.cost in list(told(document))
