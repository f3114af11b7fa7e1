"""Ends a daemon at every await of its own code, one by one, and in pairs.

A first life notes where each of the daemon's tasks is suspended after each of its steps. A later
life, the same to the last byte until then, kills the process at the step at which a task was first
seen at an await. What comes after is judged like any other episode.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import gc
import random
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gce_backend
from simulation import chance
from simulation.apart import apart
from simulation.episode import Recipe, Result, live, live_here, recipe
from simulation.events import Event
from simulation.loop import Process
from simulation.world import Node, Shape, World

SOURCE = Path(gce_backend.__file__).parent
WATCHED = ("loops", "actions", "engine", "fleet", "daemon")
RESTART_SECONDS = 3.0
SEEDS = 12


class Site(NamedTuple):
    """An await in the daemon's code: its file below `gce_backend`, and its first and last line."""

    file: str
    line: int
    last: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def sites() -> list[Site]:
    """Every await, `async for` and `async with` of the daemon's own code."""
    found = set()
    for folder in WATCHED:
        for path in sorted((SOURCE / folder).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Await):
                    last = node.end_lineno or node.lineno
                elif isinstance(node, ast.AsyncFor | ast.AsyncWith):
                    last = node.body[0].lineno - 1
                elif isinstance(node, ast.comprehension) and node.is_async:
                    last = node.iter.end_lineno or node.iter.lineno
                    node = node.iter  # noqa: PLW2901  # a comprehension has no line of its own
                else:
                    continue
                line: int = node.lineno
                found.add(Site(f"{folder}/{path.name}", line, max(line, last)))
    return sorted(found)


def _chain(awaited: Any) -> Iterator[tuple[str, int]]:
    """Where a coroutine is suspended: file and line of each frame, from the outside in."""
    while awaited is not None:
        frame, below = None, None
        if isinstance(awaited, types.CoroutineType):
            frame, below = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, types.AsyncGeneratorType):
            frame, below = awaited.ag_frame, awaited.ag_await
        elif type(awaited).__name__ in {"async_generator_asend", "coroutine_wrapper"}:
            kinds = (types.CoroutineType, types.AsyncGeneratorType)
            below = next((o for o in gc.get_referents(awaited) if isinstance(o, kinds)), None)
        else:
            return
        if frame is not None:
            yield frame.f_code.co_filename, frame.f_lineno
        awaited = below


class Recorder:
    """Notes at which step of a process each await was first seen.

    Attributes:
        first: the step at which a kill finds a task at an await.
    """

    def __init__(self) -> None:
        self.first: dict[Site, int] = {}
        self._sites: dict[str, list[Site]] = {}
        for site in sites():
            self._sites.setdefault(str(SOURCE / site.file), []).append(site)
        self._before: asyncio.Task[Any] | None = None

    def __call__(self, process: Process, handle: asyncio.Handle) -> None:
        """Looks where the task of the step before has come to."""
        before, callback = self._before, handle._callback  # type: ignore[attr-defined]
        if before is not None and not before.done():
            for file, line in _chain(before.get_coro()):
                near = [s for s in self._sites.get(file, ()) if s.line <= line <= s.last]
                if near:
                    site = max(near, key=lambda s: (s.line, -s.last))
                    self.first.setdefault(site, process.steps)
        task = getattr(callback, "__self__", None)
        self._before = task if isinstance(task, asyncio.Task) else None


class Killer:
    """Kills the successive processes of a daemon, each at a step of its own."""

    def __init__(self, world: World, node: Node, steps: Iterable[int]) -> None:
        self._world = world
        self._node = node
        self._steps = list(steps)

    def __call__(self, process: Process, handle: asyncio.Handle) -> None:
        """Kills, if it is time."""
        del handle
        if self._steps and process.steps == self._steps[0]:
            step = self._steps.pop(0)
            self._world.kill(self._node)
            self._world.note(f"{self._node.name} is killed at step {step}")
            self._world.disturbances.met(1)
            self._world.loop.call_later(RESTART_SECONDS, self._again)

    def _again(self) -> None:
        self._world.later(self._world.start_daemon(self._node))


LIVES: tuple[tuple[tuple[float, str], ...], ...] = (
    (
        (1, "lease"),
        (5, "lease"),
        (10, "change_type"),
        (40, "release"),
        (150, "change_zone"),
        (260, "change_zone"),
        (300, "release_all"),
    ),
    (
        (1, "lease_all"),
        (10, "lose_messages"),
        (15, "release_all"),
        (60, "poison"),
        (70, "drain"),
        (80, "pause"),
        (200, "delete_vm"),
        (220, "delete_group"),
        (300, "lose_entity"),
        (320, "empty_config"),
        (330, "approve"),
        (400, "other_template"),
        (500, "other_template"),
    ),
    (
        (1, "bad_answers"),
        (5, "change_type"),
        (20, "bad_answers"),
        (40, "lost_answer"),
        (45, "lost_commit"),
        (50, "abandon_vm"),
        (60, "small_batches"),
        (70, "bad_answers"),
        (90, "half_open"),
        (100, "change_zone"),
        (140, "delete_subscription"),
        (200, "recreate_vm"),
        (210, "long_trouble"),
        (400, "change_size"),
        (420, "stale_answers"),
        (500, "terminate"),
    ),
    (
        (1, "endless_template"),
        (2, "large"),
        (3, "endless_end_of_group"),
        (4, "leave_zone"),
        (900, "enter_zone"),
        (1000, "endless_group"),
        (1001, "endless_end_of_template"),
        (1002, "small"),
        (1900, "size_3"),
    ),
    (
        (1, "names_refused"),
        (2, "size_3"),
        (60, "names_taken"),
        (61, "size_4"),
        (120, "growth_fails"),
        (121, "size_5"),
        (122, "metadata_fails"),
        (200, "mute"),
        (202, "lease"),
        (231, "lease"),
        (260, "fill_metadata"),
        (262, "lease"),
        (300, "nobody_tells_the_end"),
        (301, "false_reclaimed"),
        (400, "release_all"),
        (500, "endless_growth"),
        (501, "size_8"),
        (1600, "size_4"),
    ),
    (
        (1, "no_new_template"),
        (2, "large"),
        (60, "small"),
        (800, "no_new_group"),
        (801, "other_3"),
        (840, "other_1"),
        (880, "other_0"),
        (1700, "no_new_template"),
        (1701, "large"),
        (1720, "names_in_flight_are_taken"),
        (1740, "small"),
        (2500, "no_new_group"),
        (2501, "other_3"),
        (2540, "names_in_flight_are_taken"),
        (2560, "other_0"),
        (2700, "size_3"),
    ),
    (
        (1, "templates_unlisted"),
        (150, "templates_unlisted"),
        (151, "template_denied"),
        (320, "no_end_of_group"),
        (321, "leave_zone"),
        (420, "replace_empty_group"),
        (640, "lose_identity"),
        (800, "large"),
        (1300, "no_end_of_template"),
        (1301, "small"),
        (1420, "delete_templates"),
        (1430, "forget_ids"),
        (2000, "size_3"),
    ),
)
"""Short lives in which much happens, by seconds and kinds of events."""


def lives() -> list[Recipe]:
    """The lives that are crashed: those above, and some that seeds make."""
    busy = [recipe(f"crash {number}", 1.0, machines=6, rate=80.0) for number in range(SEEDS)]
    return [life(number) for number in range(len(LIVES))] + busy


def life(number: int) -> Recipe:
    """One of the lives."""
    rng = random.Random(number)
    events = tuple(Event(float(at), kind, rng.getrandbits(32)) for at, kind in LIVES[number])
    hours = (LIVES[number][-1][0] + 120) / 3600
    shape = Shape(daemons=1, machines=4, resync=120.0)
    return Recipe(f"life {number}", shape, hours, events)


def recorded(given: Recipe) -> tuple[Result, dict[Site, int]]:
    """A life without a crash, and the step at which each await was first seen in it."""
    return apart(lambda: _recorded(given))


def _recorded(given: Recipe) -> tuple[Result, dict[Site, int]]:
    recorder = Recorder()
    return live_here(given, stop_at_first=False, on_step=lambda *_: recorder), recorder.first


def crashed(given: Recipe, *steps: int) -> Result:
    """A life in which the daemon's successive processes are killed at these steps."""
    killers: dict[str, Killer] = {}

    def on_step(world: World, node: Node) -> Any:
        return killers.setdefault(node.name, Killer(world, node, steps))

    return live(given, on_step=on_step)


def reach(some: Iterable[Recipe]) -> dict[Site, tuple[Recipe, int]]:
    """For each await that these lives reach, the first life and the step at which it is killed."""
    found: dict[Site, tuple[Recipe, int]] = {}
    for given in some:
        for site, step in recorded(given)[1].items():
            found.setdefault(site, (given, step))
    return found


def main() -> int:
    """Crashes at every await that is reached, then at pairs of them; 1 when a promise breaks."""
    chance.fix_hashes()
    chance.silence()
    parser = argparse.ArgumentParser(prog="simulation.crashes", description=__doc__)
    parser.add_argument("--pairs", type=int, default=50, help="pairs of crashes, by sample")
    parser.add_argument("--only", default="", help="a piece of the file names of the awaits")
    options = parser.parse_args()
    out, failed, done = sys.stdout.write, 0, 0
    reached = reach(lives())
    chosen = {site: at for site, at in sorted(reached.items()) if options.only in site.file}
    rng = random.Random("pairs")
    places = list(chosen.items())
    tasks: list[tuple[str, Recipe, tuple[int, ...]]] = []
    tasks += [(str(site), given, (step,)) for site, (given, step) in places]
    for _ in range(options.pairs if places else 0):
        site, (given, step) = rng.choice(places)
        tasks.append((f"{site} and again", given, (step, rng.randint(1, 4000))))
    sound: dict[str, bool] = {}
    for name, given, steps in tasks:
        if given.seed not in sound:
            sound[given.seed] = not live(given).violations
        result = crashed(given, *steps)
        done += 1
        if result.violations and sound[given.seed]:
            failed += 1
            out(f"{name}, {given.seed}, steps {steps}: {result.violations[0]}\n")
            sys.stdout.flush()
    unreached = [str(site) for site in sites() if site not in reached]
    out(f"{len(reached)} of {len(sites())} awaits reached, ")
    out(f"{done} crashes, {failed} broke a promise\n")
    out(f"not reached: {' '.join(unreached)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
