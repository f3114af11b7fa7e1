"""What a VM of the embedded cloud runs to be leased: an SSH server on loopback, and the agent.

`--vm-command 'python3 -m gce_backend.localcloud.guest'`. It needs OpenSSH's server and no rights:
lessees log in as the user who started the cloud. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

AGENT = Path(__file__).parents[1] / "machine_provider" / "agent" / "agent.py"
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where the SSH server is, which not everybody's PATH names."""

_SET_CHILD_SUBREAPER = 36
"""The number of this `prctl`."""
_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
AllowUsers {login}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
LogLevel ERROR
"""


def main() -> None:
    """Runs the agent until SIGTERM or the end of standard input."""
    threading.Thread(target=_watch_input, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if sys.platform == "linux":  # what outlives its session becomes a child of this process
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    directory, login = Path.cwd(), pwd.getpwuid(os.getuid()).pw_name
    port = _ssh_server(directory, login)
    options = ["--address=127.0.0.1", f"--port={port}", f"--login={login}"]
    options += [f"--host-keys={directory}/host_key.pub", f"--state={directory}/state.json"]
    options += [f"--authorized-keys={directory}/authorized_keys", f"--hooks={directory}/hooks"]
    agent: dict[str, Any] = runpy.run_path(str(AGENT))
    agent["main"]([*options, *sys.argv[1:]])


def _ssh_server(directory: Path, login: str) -> int:
    """Starts sshd on a free port; returns the port, or 22 when there is no sshd."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{SBIN}")
    keygen = shutil.which("ssh-keygen")
    if sshd is None or keygen is None:
        print("there is no OpenSSH server: nobody is let in by SSH", file=sys.stderr)  # noqa: T201
        (directory / "host_key.pub").unlink(missing_ok=True)  # of a former run: the agent shows it
        return 22
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)  # sshd's, when it is root
    key = directory / "host_key"
    if not key.exists():
        made = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
        subprocess.run(made, check=True, stdin=subprocess.DEVNULL)  # noqa: S603 (ours)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = directory / "sshd_config"
    config.write_text(_CONFIG.format(port=port, directory=directory, login=login), "utf-8")
    server = [sshd, "-D", "-e", "-f", str(config)]
    subprocess.Popen(server, stdin=subprocess.DEVNULL)  # noqa: S603 (ours; `_kill` ends it)
    return port


def _end(_: int, __: FrameType | None) -> None:
    """Ends this process and all that it has started, wherever it is."""
    _kill(os.getpid())
    os._exit(0)


def _watch_input() -> None:
    """The cloud holds the other end: it ends with the cloud, however that ended."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _kill(root: int) -> None:
    """Kills all that a process has started, also sessions, which leave its process group."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = status.read_text("utf-8", "replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    below = list(children.get(root, ()))
    for pid in below:
        below.extend(children.get(pid, ()))
    for pid in below:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
