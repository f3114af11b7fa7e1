"""A daemon as a process, with a Machine Provider of 60 ms a machine: hole 22 over sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from processes.running import Command, Site, site
from support.fleet_harness import manager, template

MACHINES, TOGETHER, SECONDS = 30, 10, 0.06
CATALOG = "catalog-instances"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A place to run in, with a template of thirty machines."""
    with site(tmp_path) as made:
        (made.config / "templates.cfg").write_text(template("one"))
        (made.config / "managers.cfg").write_text(manager("one", minimum=MACHINES))
        yield made


def test_hole_22_every_run_catalogs_more_although_none_comes_to_its_end(place: Site) -> None:
    """Two batches take longer than the job's deadline; runs that are cut short keep the first."""
    place.start_cloud("--no-latency")
    place.set_up()
    slow = SECONDS * TOGETHER
    method = "machine_provider.catalog.add_machines"
    place.inject(method=method, kind="latency", seconds=slow, times=None)
    daemon = place.start_daemon(
        GCE_BACKEND_MACHINE_PROVIDER__BATCH_SIZE=str(TOGETHER),
        GCE_BACKEND_JOBS__CATALOG_INSTANCES__TIMEOUT=str(2 * slow),
        GCE_BACKEND_JOBS__CATALOG_INSTANCES__CRON="* * * * * *",
    )
    place.until_counts(1, 1, MACHINES, MACHINES)
    steps = _steps(daemon)
    cuts = [index for index, step in enumerate(steps) if step == "cut"]
    assert len(cuts) >= 2
    assert "cataloged" in steps[: cuts[0]]
    assert "cataloged" in steps[cuts[0] : cuts[-1]]
    assert daemon.stop() == 0


def _steps(daemon: Command) -> list[str]:
    """What the job did, in order: machines that it cataloged, and runs that were cut short."""
    steps = []
    for line in daemon.log.read_bytes().splitlines():
        event = msgspec.json.decode(line)
        if event["message"] == "instance.cataloged":
            steps.append("cataloged")
        elif event["message"] == "job.timeout" and event.get("job") == CATALOG:
            steps.append("cut")
    return steps
