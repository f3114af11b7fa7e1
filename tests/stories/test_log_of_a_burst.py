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
BYTES_OF_A_MACHINE = 120
"""Bytes at most for each machine of a rise, without warnings: about a megabyte for 10,000."""


BYTES_OF_FAILURES = 40_000
MOST_FAILURES = 40
"""Lines at most that tell of failures, however many machines fail: three for each longer pause."""


async def test_a_rise_is_told_in_few_lines_also_when_each_machine_fails(tmp_path: Path) -> None:
    """Each is made, cataloged, subscribed; its metadata is refused for minutes, and then set.

    Their numbers are logged. They back off together, or each would have its run and its line.
    """
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    logs.configure("json", "info", stream)
    try:
        async with world(tmp_path, managers=manager(minimum=MACHINES)) as w:
            await w.inject("compute.instances.setMetadata", status=403, times=None)
            await w.pass_time(300)
            assert await w.states() == {"cataloged": MACHINES}
            await w.clear_faults()
            await w.pass_time(600)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    told: Counter[str] = Counter()
    lines = list(map(json.loads, stream.getvalue().splitlines()))
    failures = [line["count"] for line in lines if line["message"] == "subject.failed"]
    assert sum(failures) > 3 * MACHINES
    assert len(failures) <= MOST_FAILURES
    for line in lines:
        if line["message"] == "job.logged":
            for event, counts in line["counts"].items():
                told[event] += sum(counts.values())
    assert told["instance.cataloged"] == MACHINES
    assert told["metadata.updated"] > MACHINES // 2
    failing = sum(len(json.dumps(it)) for it in lines if it["severity"] == "WARNING")
    assert failing <= BYTES_OF_FAILURES
    size = len(stream.getvalue()) - failing
    assert size <= MACHINES * BYTES_OF_A_MACHINE, stream.getvalue()
