"""`gce-backend doctor --machine-provider`: what a Machine Provider needs, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gce_backend.cli import main
from gce_backend.localcloud.faults import Fault
from gce_backend.setup.permissions import PROVIDER_PUBSUB
from support.provider_harness import ACCESS
from support.served_cloud import ServedCloud, served_cloud

CHECKS = [
    *("access.cfg", "datastore permissions", "pubsub permissions"),
    *("Datastore namespace machine-provider", "running process"),
]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """A cloud, which has a Machine Provider of its own."""
    with served_cloud() as cloud:
        yield cloud


def examine(served: ServedCloud, access: Path, **more: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the rows by what was checked."""
    variables = {**served.environment, "GCE_BACKEND_PROVIDER__ACCESS": str(access), **more}
    done = CliRunner().invoke(main, ["doctor", "--machine-provider", "--json"], env=variables)
    rows = msgspec.json.decode(done.stdout)["checks"]
    return done.exit_code, {row["check"]: row for row in rows}


@pytest.fixture
def access(tmp_path: Path) -> Path:
    """A valid access.cfg."""
    file = tmp_path / "access.cfg"
    file.write_text(ACCESS, "utf-8")
    return file


def test_a_prepared_project_passes(served: ServedCloud, access: Path) -> None:
    """Nothing is changed; without an address there is no process to look for."""
    served.cloud.faults.clear()
    served.cloud.calls.clear()
    code, rows = examine(served, access)
    assert code == 0, rows
    assert list(rows) == CHECKS
    assert [row["verdict"] for row in rows.values()] == ["ok"] * 4 + ["skipped"]
    assert not [call for call in served.cloud.calls if "commit" in call or "create" in call]


def test_what_is_missing_is_named_with_its_remedy(served: ServedCloud, access: Path) -> None:
    """Permissions, the store, access.cfg, and nobody at the address."""
    access.write_text("groups { }", "utf-8")
    query, reason = "datastore.projects.runQuery", "PERMISSION_DENIED"
    served.cloud.faults.clear()
    served.cloud.faults.add(Fault(method=query, status=403, reason=reason, times=None))
    granted = Fault(method="cloudresourcemanager.*", kind="answer", body={}, times=None)
    served.cloud.faults.add(granted)
    nowhere = "http://127.0.0.1:1"
    code, rows = examine(served, access, GCE_BACKEND_PROVIDER__URL=nowhere)
    assert code == 1
    assert "name: is required" in rows["access.cfg"]["seen"]
    assert all(name in rows["pubsub permissions"]["remedy"] for name in PROVIDER_PUBSUB)
    assert rows["Datastore namespace machine-provider"]["verdict"] == "failed"
    assert rows["running process"]["verdict"] == "warning"
    assert nowhere in rows["running process"]["seen"]


def test_without_access_cfg_it_says_which_setting(served: ServedCloud) -> None:
    """It would not start."""
    served.cloud.faults.clear()
    done = CliRunner().invoke(main, ["doctor", "--machine-provider"], env=served.environment)
    assert done.exit_code == 1
    assert "provider.access is not set" in done.output
