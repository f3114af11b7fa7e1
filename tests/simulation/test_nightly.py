"""A long run keeps what it has, goes on after kill -9, and reports what never happened."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from simulation import nightly
from simulation.episode import Recipe
from simulation.nightly import Lived
from simulation.rows import ROWS
from simulation.test_determinism import run


def _never(seed: int) -> Recipe:
    raise AssertionError(f"seed {seed} is lived again")


def test_a_run_that_was_killed_goes_on_with_the_code_that_it_began_with(tmp_path: Path) -> None:
    """The line that it was writing does not count; other code needs another folder."""
    lived = Lived(5, 3.0, 9.0, {1: 2})
    line = msgspec.json.encode(lived) + b"\n"
    (tmp_path / "1.jsonl").write_bytes(line + b'{"seed":6,"hours":3.')
    assert nightly.run(tmp_path, _never, first=5, hours=3.0, processes=2) == {5: lived}
    (tmp_path / nightly.CODE).write_text("another one")
    with pytest.raises(nightly.OtherCodeError):
        nightly.run(tmp_path, _never, first=5, hours=3.0, processes=2)


def test_a_process_whose_parent_was_killed_lives_no_further_seed(tmp_path: Path) -> None:
    """Else it and the one that goes on would both work."""
    nightly._work(tmp_path, _never, range(5, 9), 3.0, parent=-1)
    assert nightly.kept(tmp_path) == {}


def test_a_simulation_that_fails_is_a_finding_and_does_not_go_on_for_ever(tmp_path: Path) -> None:
    """What went wrong stands in the report."""

    def wrong(seed: int) -> Recipe:
        raise OSError(f"no {seed}")

    lived = nightly.run(tmp_path, wrong, first=1, hours=3.0, processes=1)
    assert len(lived) == nightly.MOST_BROKEN + 1
    text, well = nightly.report(lived.values(), lambda seed: f"replay {seed}")
    assert "1: the simulation failed: OSError: no 1 (`replay 1`)" in text
    assert not well


@pytest.mark.parametrize(
    ("missing", "found", "well"), [(0, "", True), (7, "", False), (0, "S1 at 3.0 s: x", False)]
)
def test_the_report_fails_for_a_broken_promise_and_a_row_that_never_fired(
    missing: int, found: str, well: bool
) -> None:
    """Rows are counted over all processes."""
    rows = [row for row in ROWS if row != missing]
    half = len(rows) // 2
    lived = [
        Lived(2, 1000.0, 60.0, dict.fromkeys(rows[half:], 1), found),
        Lived(1, 500.0, 60.0, dict.fromkeys(rows[: half + 1], 1)),
    ]
    text, is_well = nightly.report(lived, str)
    assert is_well is well
    told = f"2: {found} (`2`)" if found else "nothing"
    assert f"| 1 to 2 (2) | 1,500.0 | 120 | {told} |" in text
    assert ("these rows never fired: [7]" in text) is bool(missing)


def test_a_peaceful_life_breaks_no_promise(tmp_path: Path) -> None:
    """Users, crashes, broken answers; the whole list of events runs at night."""
    kinds = "lease,release,release_all,kill,terminate,bad_answers,lost_answer,repeat_messages"
    words = ("--hours", "1", "--episode", "0.7", "--machines", "4", "--daemons", "1")
    night = ("--nightly", str(tmp_path), "--processes", "1")
    ended = run(*words, *night, "--first", "1", "--only", kinds)
    assert "| 1 to 1 (1) |" in ended.stdout, ended.stdout + ended.stderr
    assert "| nothing |" in ended.stdout
    assert (tmp_path / "report.md").read_text() == ended.stdout
    assert nightly.kept(tmp_path)[1].fired.keys() <= ROWS.keys()
