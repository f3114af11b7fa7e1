"""The commands: read options, put parts together, and print the outcome.

What may live here: click, the composition of one command, its messages and exit codes. What may
not: decisions, wire formats, and anything that another command could use without a terminal.
"""

from gce_backend.cli.main import main

__all__ = ["main"]
