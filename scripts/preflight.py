"""Checks what `make` needs before it makes the virtual environment; runs on any Python 3."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "gce-backend needs Python 3.11 or newer, and this is %d.%d. Install one and name it: "
        "make run PYTHON=python3.11" % sys.version_info[:2]  # noqa: UP031 -- old Pythons run this
    )
try:
    import ensurepip  # noqa: F401 -- only whether it is there
    import venv  # noqa: F401 -- only whether it is there
except ImportError:
    sys.exit(
        "This Python has no venv module. On Debian and Ubuntu: "
        "apt-get install python3-venv; elsewhere install Python's venv and ensurepip."
    )
