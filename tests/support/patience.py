"""How long a test waits for another process or thread before it calls that a hang.

Use it wherever a wait needs an end. It bounds hangs alone: a test that must show that something
comes soon makes the alternative endless, and does not measure.

Use it for a test in real time that waits for a process or thread.
"""

PATIENCE = 280.0
"""Seconds; below pytest's own limit, so that the failure says what was waited for."""
