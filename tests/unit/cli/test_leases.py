"""`lease` and `release`: one machine, however often it is asked for, and back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest

from gce_backend.cli import leasing
from gce_backend.localcloud.faults import Fault
from gce_backend.settings.settings import load
from support.patience import PATIENCE
from support.served_fleet import ServedFleet, served_fleet

LINUX = ("--dimension", "os_family:LINUX")
LEASE = "machine_provider.machine_provider.lease"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """Six machines in the catalog; the daemon has stopped, so that none comes back."""
    with served_fleet(tmp_path_factory.mktemp("config"), machines=6) as running:
        running.until(lambda: set(catalog(running).values()) == {"AVAILABLE"})
        running.ask(running.daemon.abort)
        yield running


@pytest.fixture
def fleet(place: ServedFleet) -> ServedFleet:
    """The same without faults."""
    place.cloud.faults.clear()
    return place


def catalog(fleet: ServedFleet) -> dict[str, str]:
    """What the Machine Provider has, and its states there."""
    found: dict[str, str] = fleet.get("/_localcloud/state")["machine_provider"]["catalog"]
    return found


def waiting(fleet: ServedFleet) -> int:
    """How many requests wait."""
    return int(fleet.get("/_localcloud/state")["machine_provider"]["waiting_requests"])


def leased(fleet: ServedFleet) -> set[str]:
    """The machines that somebody holds."""
    return {name for name, state in catalog(fleet).items() if state == "LEASED"}


def test_a_machine_is_leased_and_given_back(fleet: ServedFleet) -> None:
    """Which one, until when, and the command that gives it back."""
    done = fleet.run("lease", *LINUX, "--duration", "15m", "--request-id", "mine")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    (name,) = leased(fleet)
    assert first.startswith(f"{name} is leased until 20")
    assert second == "give it back: gce-backend release mine"
    assert fleet.run("release", "mine").output == "mine is released\n"
    fleet.until(lambda: leased(fleet) == set())
    over = fleet.run("lease", *LINUX, "--duration", "15m", "--request-id", "mine")
    assert (over.exit_code, over.stdout) == (1, "")
    assert "the lease mine is over" in over.stderr


def test_the_same_request_is_the_same_lease(fleet: ServedFleet) -> None:
    """Repeated, it leases nothing more; given back twice, it is no error."""
    ask = ("lease", "--dimension", "os_family=LINUX", "--request-id", "again")
    first, second = fleet.json(*ask), fleet.json(*ask)
    assert first == second
    assert leased(fleet) == {first["hostname"]}
    assert fleet.json("release", "again") == {
        "request_id": "again",
        "released": True,
        "ended_before": False,
        "cancelled": False,
    }
    fleet.until(lambda: leased(fleet) == set())
    done = fleet.run("release", "again")
    assert (done.exit_code, done.output) == (0, "again had ended before\n")


def test_a_lost_answer_leases_nothing_twice(fleet: ServedFleet) -> None:
    """The request is sent again under the same id, which made the lease the first time."""
    fault = Fault(method=LEASE, kind="drop", when="after")
    fleet.cloud.faults.add(fault)
    found = fleet.json("lease", *LINUX)
    assert fault.fired == 1
    assert leased(fleet) == {found["hostname"]}
    assert fleet.run("release", found["request_id"]).exit_code == 0


def test_without_an_answer_the_request_is_named(fleet: ServedFleet) -> None:
    """Exit code 1; whether it took effect is not known, so it can be asked again."""
    fleet.cloud.faults.add(Fault(method=LEASE, kind="drop", times=None))
    done = fleet.run("lease", *LINUX, "--request-id", "lost", "--wait", "0")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "The result is not known" in done.stderr
    assert "--request-id lost" in done.stderr


def test_what_failed_before_the_request_leaves_none_open(fleet: ServedFleet) -> None:
    """Exit code 1; a store that does not answer says nothing of a request that was never made."""
    fleet.cloud.faults.add(Fault(method="datastore.projects.lookup", status=503, times=None))
    done = fleet.run("lease", "--template", "linux", "--request-id", "unasked")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "datastore" in done.stderr
    assert "request" not in done.stderr


def test_only_a_template_needs_the_daemons_store(fleet: ServedFleet) -> None:
    """The Machine Provider is the one of `provider.url`, as for all commands that lease."""
    fleet.cloud.faults.add(Fault(method="datastore.*", status=403, times=None))
    found = fleet.json("lease", *LINUX)
    assert leased(fleet) == {found["hostname"]}
    assert fleet.run("release", found["request_id"]).exit_code == 0
    for command in (("lease", *LINUX), ("release", "x"), ("leases",), ("catalog",)):
        done = fleet.run(*command, GCE_BACKEND_PROVIDER__URL="")
        assert (done.exit_code, "provider.url is not set" in done.stderr) == (1, True)


def test_a_template_names_the_dimensions(fleet: ServedFleet) -> None:
    """All that its machines have in common; further ones are added."""
    found = fleet.json("lease", "--template", "linux", "--dimension", "disk_gb:20")
    assert found["hostname"].startswith("linux-")
    assert fleet.run("release", found["request_id"]).exit_code == 0
    more = ("--dimension", "num_cpus:96", "--wait", "0", "--request-id", "big")
    done = fleet.run("lease", "--template", "linux", *more)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "there is no machine yet" in done.stderr


def test_an_unknown_template_names_those_there_are(fleet: ServedFleet) -> None:
    """Exit code 1, and no request was made."""
    done = fleet.run("lease", "--template", "lunix", "--request-id", "never")
    assert done.exit_code == 1
    assert "'lunix'. Known: linux." in done.output
    assert "knows no lease" in fleet.run("release", "never").output


def test_a_machine_that_does_not_come_is_not_waited_for_for_ever(fleet: ServedFleet) -> None:
    """Exit code 1 after --wait; how to go on is told, and JSON is JSON."""
    ask = ("lease", "--dimension", "os_family:WINDOWS", "--request-id", "none", "--wait", "1s")
    done = fleet.run(*ask, "--json")
    assert done.exit_code == 1
    assert msgspec.json.decode(done.stdout) == {
        "request_id": "none",
        "state": "UNTRIAGED",
        "hostname": None,
        "lease_ends_at": None,
    }
    assert "the same command with --request-id none continues it" in done.stderr
    early = fleet.run("release", "none")
    assert (early.exit_code, early.output) == (0, "none is cancelled: it had no machine yet\n")
    again = fleet.run(*ask)
    assert (again.exit_code, "there is no machine yet" in again.stderr) == (1, False)


def test_a_lease_without_end_runs_until_it_is_released(fleet: ServedFleet) -> None:
    """It says so; its release ends it."""
    done = fleet.run("lease", *LINUX, "--indefinite", "--request-id", "endless")
    assert done.exit_code == 0
    (name,) = leased(fleet)
    assert done.stdout.splitlines()[0] == f"{name} is leased without end"
    assert fleet.run("release", "endless").output == "endless is released\n"
    fleet.until(lambda: leased(fleet) == set())


def test_a_request_that_cannot_be_cancelled_is_said_to_wait(fleet: ServedFleet) -> None:
    """A Machine Provider such as the original has no API for it."""
    ask = ("lease", "--dimension", "os_family:WINDOWS", "--request-id", "old", "--wait", "0")
    fleet.run(*ask)
    fleet.cloud.faults.add(Fault(method="machine_provider.leases.*", status=404, times=None))
    early = fleet.run("release", "old")
    assert (early.exit_code, "nothing to release" in early.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--duration", "22d"), "LEASE_TOO_LONG. Your leases may last 21d at most: --duration."),
        (("--request-id", "taken", "--duration", "2h"), "REQUEST_ID_REUSE"),
    ],
)
def test_a_refusal_is_told_in_the_machine_providers_word(
    fleet: ServedFleet, arguments: tuple[str, ...], word: str
) -> None:
    """Exit code 1, at once."""
    fleet.run("lease", "--dimension", "os_family:OSX", "--request-id", "taken", "--wait", "0")
    done = fleet.run("lease", *LINUX, *arguments)
    assert done.exit_code == 1
    assert word in done.stderr
    assert leased(fleet) == set()


def test_a_machine_provider_that_does_not_say_how_long_is_believed(fleet: ServedFleet) -> None:
    """Such as the original: its word alone is shown."""
    fleet.cloud.faults.add(Fault(method="machine_provider.users.*", status=404, times=None))
    done = fleet.run("lease", *LINUX, "--duration", "22d")
    assert done.exit_code == 1
    assert "refused: LEASE_TOO_LONG\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--dimension or --template"),
        (("--dimension", "os_family"), "write e.g. os_family:LINUX"),
        (("--dimension", "num_cpus:many"), "num_cpus is a number"),
        ((*LINUX, "--duration", "soon"), "write e.g. 90s, 15m"),
        ((*LINUX, "--duration", "0"), "1s at least"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    fleet: ServedFleet, arguments: tuple[str, ...], words: str
) -> None:
    """Exit code 2, before anything is asked."""
    fleet.cloud.calls.clear()
    done = fleet.run("lease", *arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert LEASE not in fleet.cloud.calls


def test_an_interrupted_wait_leaves_no_request(fleet: ServedFleet) -> None:
    """Ctrl-C: exit code 130, no traceback, and the request is cancelled."""
    before = waiting(fleet)
    fleet.cloud.calls.clear()
    environment = {**os.environ, **fleet.environment}
    ask = ("lease", "--dimension", "os_family:OSX", "--request-id", "cut")
    command = [sys.executable, "-m", "gce_backend", *ask]
    with subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        fleet.until(lambda: fleet.cloud.calls["machine_provider.leases.list"] > 0)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        watchdog.cancel()
    assert process.returncode == 130
    assert "interrupted; the request cut is cancelled: it had no machine yet" in said
    assert waiting(fleet) == before


async def test_a_request_that_is_interrupted_and_cannot_be_cancelled_is_known(
    fleet: ServedFleet,
) -> None:
    """A Machine Provider such as the original has no API for it; the caller tells how to go on."""
    fleet.cloud.calls.clear()
    fleet.cloud.faults.add(Fault(method="machine_provider.leases.*", status=404, times=None))
    settings = load(None, fleet.environment)
    asking = asyncio.create_task(
        leasing.lease(settings, {"os_family": "OSX"}, None, 60, 60, "cut-too"), name="asking"
    )
    await asyncio.to_thread(fleet.until, lambda: fleet.cloud.calls[LEASE] > 0)
    asking.cancel()
    with pytest.raises(leasing.InterruptedRequestError) as interrupted:
        await asking
    assert interrupted.value.done is None
