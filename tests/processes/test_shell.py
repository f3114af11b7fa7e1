"""`shell` and `exec` through a real sshd, on machines that a daemon keeps: nothing stays leased."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gce_backend.cli.ssh import new_key, ssh_command
from gce_backend.machine_provider.lease_documents import SshAccess
from processes.running import Site, site, until
from support.config_texts import manager, template
from support.patience import PATIENCE
from support.ssh_server import sshd_path

GUEST = f"'{sys.executable}' -m gce_backend.localcloud.guest"


class Fleet:
    """A fleet whose machines run an SSH server and the agent.

    Attributes:
        settings: the file by which commands find it.
    """

    def __init__(self, made: Site) -> None:
        self.site = made
        self.settings = made.directory / "state.toml"

    def command(self, *arguments: str) -> list[str]:
        """A command on this fleet."""
        first, *others = arguments
        own = ("--settings", str(self.settings))
        return [sys.executable, "-m", "gce_backend", first, *own, *others]

    def start(self, *arguments: str, stdin: Any = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Starts a command."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def leased(self) -> list[str]:
        """The machines that are leased."""
        catalog = self.site.get("/_localcloud/state")["machine_provider"]["catalog"]
        return [name for name, state in catalog.items() if state == "LEASED"]

    def until_released(self) -> None:
        """Waits until nothing is leased."""
        until(lambda: not self.leased())


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three machines, all in the catalog."""
    sshd_path()
    with site(tmp_path_factory.mktemp("fleet")) as made:
        linux = template(project="local-project", dimensions=["os_family:LINUX"])
        (made.config / "templates.cfg").write_text(linux, "utf-8")
        three = manager(minimum_size=3, maximum_size=6)
        (made.config / "managers.cfg").write_text(three, "utf-8")
        local = made.start_local("--vm-command", GUEST)
        local.event("fleet.ready")
        found = Fleet(made)
        made.url = tomllib.loads(found.settings.read_text("utf-8"))["provider"]["url"]
        yield found
        assert local.stop() == 0


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return False


def begun(process: subprocess.Popen[str]) -> int:
    """The remote process of an `exec` whose command prints its process id."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip().isdigit(), line + process.communicate()[1]
    return int(line)


def test_a_command_runs_there_with_its_input_output_and_exit_code(fleet: Fleet) -> None:
    """Its words arrive as they are; the machine is given back."""
    words = ("sh", "-c", 'cat; echo "$0" "$1" >&2; exit 7', "two words", "$HOME")
    process = fleet.start("exec", "--template", "linux", "--", *words, stdin=subprocess.PIPE)
    out, err = process.communicate("some input\n", timeout=PATIENCE)
    assert (process.returncode, out) == (7, "some input\n"), err
    assert err.splitlines()[-1] == "two words $HOME"
    fleet.until_released()


def test_a_shell_is_a_terminal_there(fleet: Fleet) -> None:
    """What one types is carried out there; its end gives the machine back."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        fleet.command("shell", "--dimension", "os_family:LINUX"),
        stdin=there,
        stdout=there,
        stderr=there,
        start_new_session=True,
    )
    os.close(there)
    os.write(here, b"echo $((40 + 2)); tty; exit 3\n")
    seen = b""
    while True:
        try:
            data = os.read(here, 4096)
        except OSError:  # how the end of a terminal is read
            break
        if not data:
            break
        seen += data
    os.close(here)
    assert process.wait(timeout=PATIENCE) == 3, seen
    assert b"42\r\n/dev/pts/" in seen
    fleet.until_released()


def test_a_machine_that_was_held_after_a_failure_is_looked_at(fleet: Fleet) -> None:
    """With a shell whose end leaves the lease as it is."""
    failing = fleet.start(
        *("exec", "--dimension", "os_family:LINUX", "--hold-failed", "10m", "--", "false")
    )
    _, err = failing.communicate(timeout=PATIENCE)
    assert failing.returncode == 1
    lease = err.split()[-1]
    [machine] = fleet.leased()
    shell = fleet.start("shell", "--lease", lease, stdin=subprocess.PIPE)
    out, err = shell.communicate("echo in; exit 4\n", timeout=PATIENCE)
    assert (shell.returncode, out.splitlines()[-1]) == (4, "in"), err
    assert fleet.leased() == [machine]
    released = fleet.start("release", lease)
    released.communicate(timeout=PATIENCE)
    assert released.returncode == 0
    fleet.until_released()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_end_command_and_lease(
    fleet: Fleet, number: signal.Signals
) -> None:
    """Also what runs on the machine."""
    process = fleet.start(
        "exec", "--dimension", "os_family:LINUX", "--", "sh", "-c", "echo $$; sleep 600"
    )
    with process:
        pid = begun(process)
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) == 130
    fleet.until_released()
    until(lambda: not is_alive(pid))


def test_the_end_of_the_vm_ends_the_connection(fleet: Fleet) -> None:
    """Its lessee notices at once, and nothing of it runs on."""
    process = fleet.start(
        "exec", "--dimension", "os_family:LINUX", "--", "sh", "-c", "echo $$; sleep 600"
    )
    with process:
        pid = begun(process)
        [machine] = fleet.leased()
        fleet.site.happen(machine, "host-error")
        assert process.wait(timeout=PATIENCE) != 0
    until(lambda: not is_alive(pid))
    fleet.until_released()


def test_a_machine_with_another_host_key_is_not_trusted(tmp_path: Path) -> None:
    """Somebody else's server gets nothing; the guest ends with its standard input."""
    guest = subprocess.Popen(
        [sys.executable, "-m", "gce_backend.localcloud.guest"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GCE_METADATA_HOST": "127.0.0.1:9"},
    )
    until(lambda: "Port " in (tmp_path / "sshd_config").read_text("utf-8"))
    lines = (tmp_path / "sshd_config").read_text("utf-8").splitlines()
    config = dict(line.split(maxsplit=1) for line in lines)
    (tmp_path / "authorized_keys").write_text(new_key(tmp_path) + "\n", "utf-8")

    def connect(*keys: str) -> subprocess.CompletedProcess[str]:
        access = SshAccess(
            machine="vm-1",
            address="127.0.0.1",
            port=int(config["Port"]),
            login=config["AllowUsers"],
            host_keys=keys,
            ready=True,
        )
        command: Sequence[str] = ssh_command(access, tmp_path, ("echo", "in"))
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    own = " ".join((tmp_path / "host_key.pub").read_text("utf-8").split()[:2])
    until(lambda: connect(own).stdout == "in\n")
    (tmp_path / "other").mkdir()
    other = connect(new_key(tmp_path / "other"))
    assert (other.returncode, other.stdout) == (255, "")
    assert "Host key verification failed" in other.stderr
    assert guest.stdin is not None
    guest.stdin.close()
    assert guest.wait(timeout=PATIENCE) == 0
    refused = connect(own)
    assert "Connection refused" in refused.stderr
