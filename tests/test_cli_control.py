"""The orders as commands: written to Datastore, with no daemon anywhere."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gce_backend.app import Clients
from gce_backend.cli import main
from gce_backend.fleet import Fleet
from gce_backend.localcloud.faults import Fault
from gce_backend.models import CONTROL_KEY, Control
from gce_backend.store import Store
from served_cloud import PROJECT, ServedCloud, served_cloud

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """One cloud for all tests of this module: each sets what it looks at."""
    with served_cloud() as running:
        yield running


@pytest.fixture
def command(served: ServedCloud) -> Command:
    """Runs a command against the cloud."""

    def invoke(*arguments: str, **environment: str) -> Result:
        variables = {**served.environment, **environment}
        return CliRunner().invoke(main, list(arguments), env=variables)

    return invoke


def stored(served: ServedCloud) -> Control:
    """The Control entity."""

    async def read(clients: Clients) -> Control:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONTROL_KEY])
        return fleet.control

    return served.ask(read)


def test_pause_and_resume_are_stored(served: ServedCloud, command: Command) -> None:
    """The reason and the moment are kept; resumed, nothing of it is left."""
    done = command("pause", "--reason", "a leak in the roof")
    assert (done.exit_code, done.output.splitlines()[0][:7]) == (0, "paused.")
    found = stored(served)
    assert (found.paused, found.pause_reason) == (True, "a leak in the roof")
    assert found.paused_since == pytest.approx(time.time(), abs=60)
    assert command("pause", "--reason", "still").exit_code == 0
    assert stored(served).paused_since == found.paused_since
    assert command("resume").exit_code == 0
    after = stored(served)
    assert (after.paused, after.pause_reason, after.paused_since) == (False, "", None)


def test_resume_says_when_the_settings_pause(command: Command) -> None:
    """The operator learns why the daemon will stay paused."""
    done = command("resume", GCE_BACKEND_ACTUATE="false")
    assert done.exit_code == 0
    assert "actuate = false" in done.output


def test_approve_is_stored_once(served: ServedCloud, command: Command) -> None:
    """The second time it says so, and exits 0 as well."""
    assert "is approved" in command("approve", "0123abcd").output
    assert stored(served).approved_revision == "0123abcd"
    again = command("approve", "0123abcd")
    assert (again.exit_code, again.output) == (0, "0123abcd was approved before.\n")


@pytest.mark.parametrize("revision", ["", "two words", "a\nb", "x" * 201, "rév"])
def test_approve_refuses_what_is_no_revision(
    served: ServedCloud, command: Command, revision: str
) -> None:
    """It says where to find the right one, and changes nothing."""
    before = stored(served)
    done = command("approve", revision)
    assert done.exit_code == 1
    assert "GET /api/control" in done.output
    assert stored(served) == before


def test_lift_cap_is_stored_and_ended(served: ServedCloud, command: Command) -> None:
    """Ten minutes unless told otherwise; 0 ends it."""
    assert command("lift-cap").exit_code == 0
    assert stored(served).cap_lifted_until == pytest.approx(time.time() + 600, abs=60)
    assert command("lift-cap", "--minutes", "3").exit_code == 0
    assert stored(served).cap_lifted_until == pytest.approx(time.time() + 180, abs=60)
    assert command("lift-cap", "--minutes", "0").exit_code == 0
    assert stored(served).cap_lifted_until <= time.time()


@pytest.mark.parametrize("minutes", ["-1", "1441", "nan", "1.5", "soon"])
def test_lift_cap_refuses_senseless_times(command: Command, minutes: str) -> None:
    """A usage error, exit code 2."""
    assert command("lift-cap", "--minutes", minutes).exit_code == 2


def test_an_order_leaves_the_other_orders_alone(served: ServedCloud, command: Command) -> None:
    """All of them are in one entity."""
    for arguments in (["approve", "r1"], ["lift-cap"], ["pause"]):
        assert command(*arguments).exit_code == 0
    found = stored(served)
    assert (found.paused, found.approved_revision) == (True, "r1")
    assert found.cap_lifted_until > time.time()
    command("resume")


def test_an_order_that_cannot_be_stored_says_so(served: ServedCloud, command: Command) -> None:
    """A message and exit code 1, no traceback; nothing is claimed to be done."""
    fault = Fault(method="datastore.projects.lookup", status=403, reason="PERMISSION_DENIED")
    fault.times = None
    served.cloud.faults.add(fault)
    done = command("pause")
    served.cloud.faults.clear()
    assert fault.fired > 0
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "PERMISSION_DENIED" in done.output
    assert "paused" not in done.output
    assert not stored(served).paused


def test_localcloud_prints_its_url_first(tmp_path: Path) -> None:
    """Alone on the first line of standard output, for scripts; SIGTERM ends it with 0."""
    arguments = ["localcloud", "--port", "0", "--state", str(tmp_path / "s.sqlite")]
    with subprocess.Popen(
        [sys.executable, "-m", "gce_backend", *arguments, "--config", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/_localcloud/calls", timeout=5) as response:  # noqa: S310
            assert response.status == 200
        process.terminate()
        assert process.wait(timeout=10) == 0
