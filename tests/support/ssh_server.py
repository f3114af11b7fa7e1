"""Where OpenSSH's server is, as Debian ships it.

Use it for a test that needs a real sshd.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gce_backend.localcloud.guest import SBIN


def sshd_path() -> str:
    """The program, ready to run.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{SBIN}")
    if found is None:
        raise FileNotFoundError("there is no sshd: `make sshd` installs it")
    if os.getuid() == 0:  # it wants this directory, which Debian makes when the service starts
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    return found
