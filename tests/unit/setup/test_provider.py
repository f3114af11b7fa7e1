"""`gce-backend setup --role machine-provider`: what it grants, checks, and says."""

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

ACCOUNT = "machine-provider@example.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """A cloud in which the daemon's setup has been run."""
    with served_cloud() as cloud:
        CliRunner().invoke(main, ["setup"], env=cloud.environment)
        yield cloud


def set_up(served: ServedCloud, access: Path | None, *more: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the steps by what they are about."""
    named = {} if access is None else {"GCE_BACKEND_PROVIDER__ACCESS": str(access)}
    command = ["setup", "--role", "machine-provider", "--json", *more]
    done = CliRunner().invoke(main, command, env={**served.environment, **named})
    steps = msgspec.json.decode(done.stdout)["steps"]
    return done.exit_code, {step["what"]: step for step in steps}


def test_it_lets_the_account_publish_once_and_checks_the_rest(
    served: ServedCloud, tmp_path: Path
) -> None:
    """A dry run changes nothing; a second run finds everything."""
    access = tmp_path / "access.cfg"
    access.write_text(ACCESS, "utf-8")
    served.cloud.faults.clear()
    account = ("--machine-provider-account", ACCOUNT)
    outcomes = []
    for more in (("--dry-run",), (), ()):
        code, steps = set_up(served, access, *account, *more)
        assert code == 0, steps
        outcomes.append([step["outcome"] for step in steps.values()])
    well = ["present"] * 4
    assert outcomes == [
        [*well, "would change", "unset"],
        [*well, "changed", "unset"],
        [*well, "present", "unset"],
    ]


def test_what_is_missing_is_named_with_its_remedy(served: ServedCloud, tmp_path: Path) -> None:
    """No access.cfg, no permission, no database, no account, and an address out of place."""
    served.cloud.faults.clear()
    query, reason = "datastore.projects.runQuery", "NOT_FOUND"
    served.cloud.faults.add(Fault(method=query, status=404, reason=reason, times=None))
    granted = Fault(method="cloudresourcemanager.*", kind="answer", body={}, times=None)
    served.cloud.faults.add(granted)
    code, steps = set_up(served, None)
    assert code == 1
    assert steps["access.cfg"]["outcome"] == "missing"
    namespace = steps["Datastore namespace machine-provider"]
    assert (namespace["outcome"], "Datastore mode" in namespace["remedy"]) == ("failed", True)
    pubsub = next(step for what, step in steps.items() if what.startswith("pubsub permissions"))
    assert all(name in pubsub["remedy"] for name in PROVIDER_PUBSUB)
    access = tmp_path / "access.cfg"
    access.write_text("groups { }", "utf-8")
    _, steps = set_up(served, access)
    assert "name: is required" in steps[f"access.cfg: {access}"]["remedy"]
    command = ["setup", "--role", "machine-provider", "--config-set", "services/x"]
    done = CliRunner().invoke(main, command, env=served.environment)
    assert done.exit_code == 1
    assert "no addresses to store" in done.stderr
