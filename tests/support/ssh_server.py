"""Where OpenSSH's server is, as Debian ships it.

Use it for a test that needs a real sshd.
"""

from __future__ import annotations

import os
import shutil

from gce_backend.localcloud.guest import SBIN


def sshd_path() -> str:
    """The program.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{SBIN}")
    if found is None:
        raise FileNotFoundError("there is no sshd: `make sshd` installs it")
    return found
