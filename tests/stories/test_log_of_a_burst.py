"""A burst of machines is a few lines in the log, not some for each."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from pathlib import Path

import structlog

from gce_backend.base import logs
from support.fleet_harness import manager, world

MACHINES = 300
BYTES_OF_A_MACHINE = 100
"""Bytes at most for each machine of a rise: a megabyte for 10,000."""


async def test_a_rise_is_told_in_few_lines(tmp_path: Path) -> None:
    """Each is made, cataloged, subscribed, and its metadata set; their numbers are logged."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    logs.configure("json", "info", stream)
    try:
        async with world(tmp_path, managers=manager(minimum=MACHINES)) as w:
            await w.pass_time(60)
            assert await w.states() == {"cataloged": MACHINES}
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    told: Counter[str] = Counter()
    for line in map(json.loads, stream.getvalue().splitlines()):
        if line["message"] == "job.logged":
            for event, counts in line["counts"].items():
                told[event] += sum(counts.values())
    assert told["instance.cataloged"] == MACHINES
    assert told["metadata.updated"] > MACHINES // 2
    assert len(stream.getvalue()) <= MACHINES * BYTES_OF_A_MACHINE, stream.getvalue()
