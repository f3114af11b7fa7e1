"""The same seed gives the same story, byte for byte, in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from simulation.chance import HASH_SEED
from support.patience import PATIENCE

TESTS = Path(__file__).parent.parent
FIXED = {"PYTHONHASHSEED": HASH_SEED}


def run(*words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the simulator in a process of its own; one that has its hash seed starts once."""
    return subprocess.run(
        [sys.executable, "-m", "simulation", *words],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS), **FIXED, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_a_seed_gives_the_same_story_in_two_processes(tmp_path: Path) -> None:
    """Also where one of them has a longer environment and another hash seed."""
    stories = []
    for number, more in enumerate(({}, {"PYTHONHASHSEED": "7", "LONGER": "x" * 5000})):
        story = tmp_path / str(number)
        words = ("--seed", "same", "--episode", "0.12", "--daemons", "2", "--rate", "60")
        run(*words, "--machines", "6", "--story", str(story), environ=more)
        stories.append(story.read_bytes())
    assert stories[0] == stories[1]
    assert stories[0].count(b"\n") > 50
