"""Many seeds in several processes: each result is kept at once, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

import gce_backend
from simulation.apart import EpisodeError, apart
from simulation.episode import Recipe, live_here
from simulation.rows import missing, table

TESTS = Path(__file__).parent.parent
CODE = "code"
"""The file with the digest of the code that the results are of."""
LAST_SEED = 2**31
MOST_BROKEN = 5
"""After more seeds that the simulation could not live, it is given up."""


class Lived(msgspec.Struct, frozen=True):
    """What came of a seed.

    Attributes:
        seed: its number.
        hours: simulated hours.
        cpu: CPU-seconds.
        fired: how often each row of safety.md was met.
        found: the first promise that was broken, or why the simulation failed; "" for none.
    """

    seed: int
    hours: float
    cpu: float
    fired: dict[int, int]
    found: str = ""


class OtherCodeError(Exception):
    """The results in the folder are of other code."""


def kept(folder: Path) -> dict[int, Lived]:
    """The results in a folder, by seed; a line that a killed process has not finished is none."""
    found: dict[int, Lived] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_bytes().split(b"\n")[:-1]:
            lived = msgspec.json.decode(line, type=Lived, strict=False)
            found[lived.seed] = lived
    return found


def run(
    folder: Path, recipe_of: Callable[[int], Recipe], *, first: int, hours: float, processes: int
) -> dict[int, Lived]:
    """Lives seeds, one after the other from the first, until so many hours are in the folder.

    Args:
        folder: where results are, and will be.
        recipe_of: what a seed stands for.
        first: the first seed.
        hours: simulated hours, all together.
        processes: how many live at the same time.

    Returns:
        All results in the folder.

    Raises:
        OtherCodeError: the folder has results of other code.
        EpisodeError: a process of this run died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder)
    children, parent = [], os.getpid()
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            try:
                _work(folder, recipe_of, range(first + number, LAST_SEED, processes), hours, parent)
            except BaseException:  # noqa: BLE001  # the parent tells of it
                os._exit(1)
            os._exit(0)
        children.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        raise EpisodeError(f"a process died; the same command goes on with what is in {folder}")
    return kept(folder)


def _work(
    folder: Path,
    recipe_of: Callable[[int], Recipe],
    seeds: Iterable[int],
    hours: float,
    parent: int,
) -> None:
    """Lives those of the seeds that the folder does not have, for as long as the parent lives."""
    # A file of its own: that of a killed process may end within a line.
    file, _ = tempfile.mkstemp(suffix=".jsonl", dir=folder)
    for seed in seeds:
        done = kept(folder)
        broken = sum(not lived.hours for lived in done.values())
        if sum(lived.hours for lived in done.values()) >= hours or broken > MOST_BROKEN:
            return
        if os.getppid() != parent:
            return
        if seed not in done:
            os.write(file, msgspec.json.encode(_lived(seed, recipe_of)) + b"\n")


def _lived(seed: int, recipe_of: Callable[[int], Recipe]) -> Lived:
    def work() -> Lived:
        result = live_here(recipe_of(seed))
        times = os.times()
        found = str(result.violations[0]) if result.violations else ""
        return Lived(seed, result.hours, times.user + times.system, dict(result.fired), found)

    try:
        return apart(work)
    except EpisodeError as error:
        last = str(error).strip().rpartition("\n")[2]
        return Lived(seed, 0.0, 0.0, {}, f"the simulation failed: {last}")


def _claim(folder: Path) -> None:
    """Stores which code the results are of.

    Raises:
        OtherCodeError: some are of other code.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    for root in (Path(gce_backend.__file__).parent, TESTS / "simulation", TESTS / "support"):
        for file in sorted(root.rglob("*.py")):
            digest.update(file.read_bytes())
    code = folder / CODE
    if not code.exists():
        code.write_text(digest.hexdigest())
    elif code.read_text() != digest.hexdigest():
        raise OtherCodeError(f"the results in {folder} are of other code: name another folder")


def report(lived: Iterable[Lived], command_of: Callable[[int], str]) -> tuple[str, bool]:
    """The results as docs/testing.md has them, and whether all is well.

    Args:
        lived: the results.
        command_of: the command that replays a seed.
    """
    known = sorted(lived, key=lambda one: one.seed)
    fired = Counter[int]()
    for one in known:
        fired.update(one.fired)
    found = [f"{one.seed}: {one.found} (`{command_of(one.seed)}`)" for one in known if one.found]
    hours, cpu = sum(one.hours for one in known), sum(one.cpu for one in known)
    seeds = f"{known[0].seed} to {known[-1].seed} ({len(known)})" if known else "none"
    never = missing(fired)
    lines = [
        "| seeds (how many) | fleet-hours | CPU-seconds | found |",
        "| --- | --- | --- | --- |",
        f"| {seeds} | {hours:,.1f} | {cpu:,.0f} | {'<br>'.join(found) or 'nothing'} |",
        "",
        table(fired),
    ]
    if never:
        lines += ["", f"these rows never fired: {never}"]
    return "\n".join(lines) + "\n", not found and not never
