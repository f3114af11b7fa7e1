"""The contract against servers that variables name: here those of another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.servers import VARIABLES, options_from
from processes.running import PROJECT, Site, site
from support.fleet_harness import manager, template
from support.patience import PATIENCE

HERE = Path(__file__).parent


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A cloud as a process of its own."""
    with site(tmp_path) as made:
        (made.config / "templates.cfg").write_text(template("one"))
        (made.config / "managers.cfg").write_text(manager("one"))
        made.start_cloud("--no-latency")
        yield made


def variables(place: Site) -> dict[str, str]:
    """All services of that process, each by its variable."""
    services = {
        "PROJECT": PROJECT,
        "COMPUTE": f"{place.url}/compute/v1/",
        "DATASTORE": f"{place.url}/v1",
        "PUBSUB": f"{place.url}/v1",
        "METADATA": place.url,
        "CONFIG_V1": place.url,
        "CONFIG_V2": place.url,
        "MACHINE_PROVIDER": place.url,
    }
    return {f"{VARIABLES}{name}": value for name, value in services.items()}


@pytest.mark.skipif(bool(options_from(os.environ).named), reason="is itself such a run")
def test_another_process_keeps_the_contract_and_nothing_is_left_there(place: Site) -> None:
    """The whole contract in a process of its own, told by variables; then the cloud is empty."""
    before = place.existing()
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", HERE],
        env={**os.environ, **variables(place)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed, 1 skipped" in ran.stdout
    calls = place.get("/_localcloud/calls")
    assert calls["compute.instanceGroupManagers.insert"] > 0
    assert calls["datastore.projects.commit"] > 0
    assert calls["pubsub.projects.subscriptions.pull"] > 0
    assert calls["machine_provider.machine_provider.lease"] > 0
    assert place.existing() == before


def test_what_a_killed_run_has_left_is_taken_away_and_nothing_else(place: Site) -> None:
    """Leftovers of an earlier run beside things of somebody else's."""
    ours, others = "gcebct-0123ab-topic", "somebodys-topic"
    for name in (ours, others):
        place.authorized("PUT", f"/v1/projects/{PROJECT}/topics/{name}", {})
    cleaned = subprocess.run(
        [sys.executable, "-m", "contract.leftovers"],
        env={**os.environ, **variables(place), "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert cleaned.stdout == f"removed projects/{PROJECT}/topics/{ours}\n"
    left = place.authorized("GET", f"/v1/projects/{PROJECT}/topics")["topics"]
    assert [topic["name"].rpartition("/")[2] for topic in left] == [others]


def test_a_cleaning_that_is_told_no_server_cleans_nothing() -> None:
    """It does not guess where."""
    inherited = {name: value for name, value in os.environ.items() if VARIABLES not in name}
    refused = subprocess.run(
        [sys.executable, "-m", "contract.leftovers"],
        env={**inherited, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert refused.returncode == 1
    assert "compute, datastore, pubsub" in refused.stderr
