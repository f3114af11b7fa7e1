"""`leases`, `machines`, `extend`, `hold`, `with-machine`: on the embedded Machine Provider."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from click.testing import CliRunner, Result
from msgspec.structs import replace

from gce_backend.cli import main
from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.machine_provider import MachineProviderService
from support.lendable import add, catalog, until
from support.patience import PATIENCE
from support.served_cloud import ACCOUNT, ServedCloud, served_cloud

LINUX = ("--dimension", "os_family:LINUX")
SHOW = (sys.executable, "-c", "import os; print(os.environ['MACHINE'], os.environ['MACHINES'])")


@pytest.fixture
def cloud() -> Iterator[ServedCloud]:
    """A cloud with two machines, whose log is nowhere in what the commands say."""
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    with served_cloud() as served:
        served.environment["GCE_BACKEND_PROVIDER__URL"] = served.url
        for name in ("vm-1", "vm-2"):
            add(served, name)
        until(lambda: set(catalog(served.cloud).values()) == {"AVAILABLE"})
        yield served
    structlog.reset_defaults()


def waiting(cloud: Cloud) -> int:
    """Requests that wait."""
    (service,) = [one for one in cloud._services if isinstance(one, MachineProviderService)]
    return int(service.state()["waiting_requests"])


def hold_failures(cloud: Cloud) -> None:
    """Lets access.cfg say that machines are held after a failure."""
    (service,) = [one for one in cloud._services if isinstance(one, MachineProviderService)]
    assert service.provider is not None
    assert service.provider.working is not None
    working, policy = service.provider.working, service.provider.working.policy()
    groups = tuple(
        replace(group, limits=replace(group.limits, hold_failed=1200)) for group in policy.groups
    )
    working.policy = lambda: replace(policy, groups=groups)


def run(served: ServedCloud, *arguments: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(main, arguments, env=served.environment)


def start(served: ServedCloud, *arguments: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "gce_backend", *arguments],
        env={**os.environ, **served.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lease(served: ServedCloud, name: str) -> None:
    """A lease of this name."""
    done = run(served, "lease", *LINUX, "--duration", "10m", "--request-id", name)
    assert done.exit_code == 0, done.output


def token_of(served: ServedCloud, account: str) -> str:
    """A token of an account."""

    async def ask(clients: Any) -> str:
        url = f"{served.url}/_localcloud/tokens/{account}"
        async with clients.session.post(url) as response:
            return str((await response.json())["access_token"])

    return served.ask(ask)


def released(served: ServedCloud) -> bool:
    """Whether nothing is leased and nobody waits."""
    return "LEASED" not in catalog(served.cloud).values() and waiting(served.cloud) == 0


def test_leases_and_machines_are_listed_and_cordoned(cloud: ServedCloud) -> None:
    """Also those of `lease`; whoever waits is told why; a refusal of a cordon says who may."""
    lease(cloud, "mine")
    run(cloud, "lease", "--dimension", "os_family:WINDOWS", "--wait", "0", "--request-id", "odd")
    listed = run(cloud, "leases").output
    assert "mine" in listed
    assert "vm-1" in listed
    assert "place 1: no machine fits: the nearest differs in os_family (LINUX)" in listed
    document = msgspec.json.decode(run(cloud, "leases", "--json").stdout)
    assert {one["request_id"] for one in document["leases"]} == {"mine", "odd"}
    assert "mine" not in run(cloud, "leases", "--tag", "branch:main").output
    rows = {line.split()[0]: line.split()[1] for line in run(cloud, "catalog").output.splitlines()}
    assert rows == {"MACHINE": "STATE", "vm-1": "LEASED", "vm-2": "AVAILABLE"}
    document = msgspec.json.decode(run(cloud, "catalog", "--json").stdout)
    assert [one["name"] for one in document["machines"]] == ["vm-1", "vm-2"]
    done = run(cloud, "catalog", "cordon", "vm-2", "vm-9")
    assert done.exit_code == 1
    assert done.stdout == "vm-2: AVAILABLE, cordoned\n"
    assert done.stderr == "vm-9: The catalog has no such machine.\n"
    assert "AVAILABLE, cordoned" in run(cloud, "catalog").output
    again = run(cloud, "catalog", "uncordon", "vm-2", "--backend", "GCE", "--json")
    (machine,) = msgspec.json.decode(again.stdout)["machines"]
    assert (machine["name"], machine["leasable"]) == ("vm-2", True)
    assert run(cloud, "catalog", "cordon").exit_code == 2
    cloud.environment["GCE_BACKEND_PROVIDER__TOKEN"] = token_of(cloud, "eve@example.com")
    denied = run(cloud, "catalog", "cordon", "vm-1", "vm-2")
    assert denied.exit_code == 1
    assert "machines.cordon needs the role ADMINISTRATOR; the caller is in others" in denied.output
    assert denied.output.endswith("Ask an administrator of the Machine Provider.\n")


def test_a_lease_is_extended_held_and_transferred(cloud: ServedCloud) -> None:
    """By the name that `lease` gave it; what is not there is named."""
    lease(cloud, "mine")
    assert run(cloud, "extend", "mine", "2h").output.startswith("vm-1: active until ")
    found = msgspec.json.decode(run(cloud, "extend", "mine", "3h", "--json").stdout)
    assert found["ends_at"] > time.time() + 10_000
    assert run(cloud, "hold", "mine", "30m").output.startswith("vm-1: held until ")
    unknown = run(cloud, "extend", "nobody", "2h")
    assert unknown.exit_code == 1
    assert "there is no lease 'nobody'" in unknown.output
    too_long = run(cloud, "hold", "mine", "20d")
    assert "7200 s at most" in too_long.output
    moved = run(cloud, "transfer", "mine", "bob@example.com")
    assert moved.output.startswith("vm-1: held until "), moved.output
    assert "it is bob@example.com's now: gce-backend shell --lease " in moved.output
    assert msgspec.json.decode(run(cloud, "leases", "--json").stdout) == {"leases": []}
    assert "knows no lease" in run(cloud, "release", "mine").output
    other = moved.output.split()[-1]
    cloud.environment["GCE_BACKEND_PROVIDER__TOKEN"] = token_of(cloud, "bob@example.com")
    (theirs,) = msgspec.json.decode(run(cloud, "leases", "--json").stdout)["leases"]
    assert (theirs["id"], theirs["state"]) == (other, "held")
    del cloud.environment["GCE_BACKEND_PROVIDER__TOKEN"]
    back = run(cloud, "transfer", "mine", ACCOUNT, "--json")
    assert msgspec.json.decode(back.stdout)["requester"] == ACCOUNT
    assert "mine is released" in run(cloud, "release", "mine").output
    lease(cloud, "second")
    listed = msgspec.json.decode(run(cloud, "leases", "--json").stdout)["leases"]
    (second,) = [one for one in listed if one["request_id"] == "second"]
    run(cloud, "transfer", "second", "bob@example.com")
    assert "is released" in run(cloud, "release", second["id"]).output


def test_a_command_runs_with_a_machine_and_its_exit_code_is_handed_on(cloud: ServedCloud) -> None:
    """And the machine is given back, whatever the code."""
    tag = ("--tag", "branch:main")
    assert run(cloud, "with-machine", *LINUX, "--tag", "main", "--", *SHOW).exit_code == 2
    done = start(cloud, "with-machine", *LINUX, *tag, "--", *SHOW)
    out, err = done.communicate(timeout=PATIENCE)
    assert (done.returncode, out) == (0, "vm-1 vm-1\n"), err
    until(lambda: released(cloud))
    failing = start(
        cloud, "with-machine", *LINUX, "--", sys.executable, "-c", "raise SystemExit(7)"
    )
    failing.communicate(timeout=PATIENCE)
    assert failing.returncode == 7
    until(lambda: released(cloud))


def test_the_machine_of_a_command_that_fails_is_held_if_wanted(cloud: ServedCloud) -> None:
    """Or if access.cfg says so; and is told of, with the way to give it back."""
    failing = start(cloud, "with-machine", *LINUX, "--hold-failed", "20m", "--", "false")
    _, err = failing.communicate(timeout=PATIENCE)
    assert failing.returncode == 1
    assert "vm-1 held until" in err
    assert "gce-backend release" in err
    assert catalog(cloud.cloud)["vm-1"] == "LEASED"
    hold_failures(cloud.cloud)
    failed = run(cloud, "with-machine", *LINUX, "--", "false")
    assert failed.exit_code == 1
    assert "vm-2 held until" in failed.stderr
    assert "gce-backend release" in failed.stderr
    assert catalog(cloud.cloud)["vm-2"] == "LEASED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_lease(cloud: ServedCloud, number: int, tmp_path: Path) -> None:
    """While the command runs: it is ended, too."""
    begun = tmp_path / "begun"
    command = ("sh", "-c", 'touch "$0"; exec sleep 600', str(begun))
    running = start(cloud, "with-machine", *LINUX, "--", *command)
    until(begun.exists)
    assert "LEASED" in catalog(cloud.cloud).values()
    running.send_signal(number)
    running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    until(lambda: released(cloud))


def test_ctrl_c_while_waiting_leaves_no_request(cloud: ServedCloud) -> None:
    """No machine is taken later."""
    asking = start(cloud, "with-machine", "--dimension", "os_family:WINDOWS", "--", *SHOW)
    until(lambda: waiting(cloud.cloud) == 1)
    asking.send_signal(signal.SIGINT)
    out, _ = asking.communicate(timeout=PATIENCE)
    assert (asking.returncode, out) == (130, "")
    until(lambda: released(cloud))


def test_what_cannot_be_is_said(cloud: ServedCloud) -> None:
    """No machine in time, no such program, no such dimension, no address."""
    late = run(
        cloud, "with-machine", "--dimension", "os_family:WINDOWS", "--wait", "1", "--", "true"
    )
    assert late.exit_code == 1
    assert "in time: no machine fits: the nearest differs in os_family" in late.output
    missing = run(cloud, "with-machine", *LINUX, "--", "no-such-program")
    assert missing.exit_code == 1
    assert "no-such-program: cannot be run" in missing.output
    until(lambda: released(cloud))
    odd = run(cloud, "with-machine", "--dimension", "os_family:BEOS", "--", "true")
    assert odd.exit_code == 2
    del cloud.environment["GCE_BACKEND_PROVIDER__URL"]
    assert "provider.url is not set" in run(cloud, "leases").output
