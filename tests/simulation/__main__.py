"""`python -m simulation`: lives seeds, prints what breaks and the command that replays it."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from simulation import chance, nightly
from simulation.apart import EpisodeError
from simulation.episode import Recipe, Result, live, recipe
from simulation.rows import table
from simulation.shrink import shrunk
from simulation.world import LOGS


def main() -> int:
    """Runs what the command line says; 1 when a promise was broken or a row never fired."""
    chance.fix_hashes()
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", help="this seed alone, and its whole story; else many")
    parser.add_argument("--first", type=int, default=0, help="the first of many seeds")
    parser.add_argument("--hours", type=float, default=24.0, help="simulated hours, all together")
    parser.add_argument("--episode", type=float, default=3.0, help="hours in which things happen")
    parser.add_argument("--machines", type=int, help="how many; else the seed says")
    parser.add_argument("--daemons", type=int, help="how many; else the seed says")
    parser.add_argument("--rate", type=float, default=14.0, help="events in an hour")
    parser.add_argument("--only", default="", help="kinds of events, with commas; else all")
    parser.add_argument("--without", default="", help="kinds of events to leave out, with commas")
    parser.add_argument("--keep", default="", help="numbers of the events to keep, with commas")
    parser.add_argument("--shrink", action="store_true", help="make failing seeds short")
    parser.add_argument("--story", type=Path, help="write the story there")
    parser.add_argument("--logs", help="append the daemons' logs to this file")
    parser.add_argument(
        "--nightly",
        type=Path,
        metavar="FOLDER",
        help="in several processes; keeps results there, and goes on with those that are there; "
        "a row that never fired fails",
    )
    parser.add_argument("--processes", type=int, default=2, help="how many, with --nightly")
    options = parser.parse_args()
    chance.silence()
    if options.logs:
        os.environ[LOGS] = options.logs
    if options.nightly is not None:
        return _nightly(options)
    given = options.seed is not None
    seed = options.first
    hours, cpu, fired, failed = 0.0, _cpu(), Counter[int](), 0
    while True:
        made = _recipe(options, options.seed if given else str(seed))
        result = live(made)
        hours += result.hours
        fired += result.fired
        if options.story or given:
            _tell(result, options.story)
        if result.violations:
            failed += 1
            _report(result, options)
        seed += 1
        if given or hours >= options.hours:
            break
    cpu = _cpu() - cpu
    out = sys.stdout.write
    if not given:
        out(f"{table(fired)}\n")
    out(
        f"{hours:.1f} fleet-hours in {cpu:.1f} CPU-seconds ({hours / cpu * 60:.0f} a CPU-minute), "
        f"{failed} of {1 if given else seed - options.first} seeds broke a promise\n"
    )
    return 1 if failed else 0


def _nightly(options: argparse.Namespace) -> int:
    """Lives many seeds, and writes `report.md` beside their results."""
    folder: Path = options.nightly
    try:
        lived = nightly.run(
            folder,
            lambda seed: _recipe(options, str(seed)),
            first=options.first,
            hours=options.hours,
            processes=options.processes,
        )
    except (nightly.OtherCodeError, EpisodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    text, well = nightly.report(lived.values(), lambda seed: _command(options, str(seed)))
    (folder / "report.md").write_text(text)
    sys.stdout.write(text)
    return 0 if well else 1


def _cpu() -> float:
    """CPU-seconds of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _recipe(options: argparse.Namespace, seed: str) -> Recipe:
    made = recipe(
        seed,
        options.episode,
        machines=options.machines,
        daemons=options.daemons,
        rate=options.rate,
        only=tuple(filter(None, options.only.split(","))),
    )
    without = set(options.without.split(","))
    made = Recipe(
        made.seed, made.shape, made.hours, tuple(e for e in made.events if e.kind not in without)
    )
    if options.keep:
        kept = tuple(made.events[int(number)] for number in options.keep.split(","))
        made = Recipe(made.seed, made.shape, made.hours, kept)
    return made


def _tell(result: Result, where: Path | None) -> None:
    text = "\n".join(result.story) + "\n"
    if where is None:
        sys.stdout.write(text)
    else:
        where.write_text(text)


def _report(result: Result, options: argparse.Namespace) -> None:
    out = sys.stdout.write
    out(f"seed {result.recipe.seed}: {result.violations[0]}\n")
    whole = _recipe(options, result.recipe.seed)
    kept = whole.events.index
    if options.shrink:
        short = shrunk(result)
        out(
            "shrunk to:\n" + "".join(f"  {event.at:9.1f}  {event.kind}\n" for event in short.events)
        )
        numbers = ",".join(str(kept(event)) for event in short.events)
    else:
        numbers = options.keep
    out(f"replay: {_command(options, result.recipe.seed, numbers)}\n")
    sys.stdout.flush()


def _command(options: argparse.Namespace, seed: str, numbers: str = "") -> str:
    """The command that replays a seed, with these events alone."""
    words = [f"SEED={seed}", f"EPISODE={options.episode:g}"]
    words += [f"MACHINES={options.machines}"] if options.machines else []
    words += [f"DAEMONS={options.daemons}"] if options.daemons else []
    words += [f"RATE={options.rate:g}"] if options.rate != 14.0 else []
    words += [f"ONLY={options.only}"] if options.only else []
    words += [f"OPTIONS='--without {options.without}'"] if options.without else []
    words += [f"KEEP={numbers}"] if numbers else []
    return f"make simulate {' '.join(words)}"


if __name__ == "__main__":
    sys.exit(main())
