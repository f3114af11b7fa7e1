"""Checks what `make` needs before it makes the virtual environment; runs on any Python 3."""

import importlib.util
import sys

if sys.version_info < (3, 11, 3):
    sys.exit(
        "gce-backend needs Python 3.11.3 or newer, and this is %d.%d.%d. Install one and name it: "
        "make run PYTHON=/path/to/python3" % sys.version_info[:3]
    )
if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
    sys.exit(
        "This Python has no venv module. On Debian and Ubuntu: "
        "apt-get install python3-venv; elsewhere install Python's venv and ensurepip."
    )
