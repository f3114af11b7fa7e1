"""What measures says what it measures, and measures only when it is asked to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.patience import PATIENCE

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("script", sorted(BENCH.glob("*.py")), ids=lambda path: path.stem)
def test_help_measures_nothing(script: Path) -> None:
    """`--help` tells the options; the written results stay as they are."""
    before = {path: path.stat().st_mtime_ns for path in BENCH.glob("*.md")}
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=PATIENCE, cwd=BENCH
    )
    assert done.stdout.startswith(f"usage: {script.name} ")
    assert {path: path.stat().st_mtime_ns for path in BENCH.glob("*.md")} == before
