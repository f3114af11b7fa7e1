"""Ends a daemon at every await of its own code, one by one, and in pairs.

A life notes where each of the daemon's tasks is suspended after each of its steps. At the step at
which a task is first seen at an await, the life is forked: in the fork the process is killed there
and started again, and what comes after is judged like any other episode; the life itself goes on to
the next await. Nothing is lived twice.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import gc
import multiprocessing
import random
import re
import sys
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import gce_backend
from simulation import chance
from simulation.apart import Branch, apart
from simulation.episode import Recipe, Result, live_here, recipe
from simulation.events import Event
from simulation.loop import Process
from simulation.nodes import Node
from simulation.world import Shape, World

SOURCE = Path(gce_backend.__file__).parent
WATCHED = ("loops", "actions", "engine", "fleet", "daemon")
WRAPPERS = frozenset({"anext_awaitable", "async_generator_asend", "coroutine_wrapper"})
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


def _wraps(awaited: Any) -> bool:
    return type(awaited).__name__ in WRAPPERS


def _chain(awaited: Any) -> Iterator[tuple[str, int]]:
    """Where a coroutine is suspended: file and line of each frame, from the outside in."""
    kinds = (types.CoroutineType, types.AsyncGeneratorType)
    while awaited is not None:
        frame, below = None, None
        if isinstance(awaited, types.CoroutineType):
            frame, below = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, types.AsyncGeneratorType):
            frame, below = awaited.ag_frame, awaited.ag_await
        elif _wraps(awaited):
            found = gc.get_referents(awaited)
            below = next((one for one in found if isinstance(one, kinds) or _wraps(one)), None)
        else:
            return
        if frame is not None:
            yield frame.f_code.co_filename, frame.f_lineno
        awaited = below


Wanted = Callable[[Site], bool]
Came = Callable[[Process, tuple[Site, ...]], None]


class Awaits:
    """Tells when tasks of a process have come to awaits at which none was seen before.

    Args:
        seen: the awaits at which one was seen; others may add to it.
        came: is told of the new ones, at the step at which a kill finds the task there.
    """

    def __init__(self, seen: set[Site], came: Came) -> None:
        self._seen = seen
        self._came = came
        self._before: asyncio.Task[Any] | None = None

    def __call__(self, process: Process, handle: asyncio.Handle) -> None:
        """Looks where the task of the step before has come to."""
        before, callback = self._before, handle._callback  # type: ignore[attr-defined]
        task = getattr(callback, "__self__", None)
        self._before = task if isinstance(task, asyncio.Task) else None
        if before is None or before.done():
            return
        new = []
        for file, line in _chain(before.get_coro()):
            near = [s for s in _by_file().get(file, ()) if s.line <= line <= s.last]
            if near:
                site = max(near, key=lambda s: (s.line, -s.last))
                if site not in self._seen:
                    self._seen.add(site)
                    new.append(site)
        if new:
            self._came(process, tuple(new))


@functools.cache
def _by_file() -> dict[str, list[Site]]:
    found: dict[str, list[Site]] = {}
    for site in sites():
        found.setdefault(str(SOURCE / site.file), []).append(site)
    return found


class Crash(msgspec.Struct, frozen=True):
    """What came of a life in which the daemon was killed, once or twice.

    Attributes:
        at: the awaits at which it was: those of the first kill, then those of the second.
        broken: the promises that were broken.
    """

    at: tuple[tuple[str, ...], ...]
    broken: tuple[str, ...]


class Forks:
    """Forks a life at awaits, and kills the daemon in the fork.

    Args:
        wanted: whether at an await; a kill that meets several is done once.
        pairs: of the awaits that the next process comes to, the share at which it is killed again.
    """

    def __init__(self, wanted: Wanted, pairs: float = 0.0) -> None:
        self.crashes: list[Crash] = []
        self.seen: set[Site] = set()
        self.branch: Branch | None = None
        self.at: tuple[tuple[str, ...], ...] = ()
        self._wanted = wanted
        self._pairs = pairs
        self._chance = random.Random()

    def on_step(self, world: World, node: Node) -> Callable[[Process, asyncio.Handle], None]:
        """What is told of each step of a process of the node; a stranger's daemon is let be."""
        if node not in world.nodes:
            return lambda _, __: None
        return Awaits(self.seen, functools.partial(self._came, world, node))

    def _came(self, world: World, node: Node, process: Process, new: tuple[Site, ...]) -> None:
        if not (any(map(self._wanted, new)) if self.branch is None else self._is_drawn()):
            return
        folder = world.config_dir
        files = {path: path.read_bytes() for path in folder.iterdir()}
        branch = Branch()
        if branch.is_other:
            self._take(branch, world, node, tuple(map(str, new)))
            return
        self.crashes += branch.found
        folder.mkdir(exist_ok=True)  # the other process wrote, and removed, the same files
        for path, content in files.items():
            path.write_bytes(content)

    def _is_drawn(self) -> bool:
        return len(self.at) == 1 and self._chance.random() < self._pairs

    def _take(self, branch: Branch, world: World, node: Node, at: tuple[str, ...]) -> None:
        """Goes the way on which the daemon is killed now."""
        asyncio.set_event_loop(world.loop)
        asyncio._set_running_loop(world.loop)  # it is kept with the number of its process
        self.branch, self.at, self.crashes = branch, (*self.at, at), []
        self.seen.clear()
        self._chance.seed(f"{self.at}")
        world.kill(node)
        world.note(f"{node.name} is killed at {' '.join(at)}")
        world.disturbances.met(1)
        world.loop.call_later(RESTART_SECONDS, self._again, world, node)
        if not self._pairs or len(self.at) > 1:
            world.on_step = None
            for other in world.nodes:
                if other.process is not None:
                    other.process.on_step = None

    @staticmethod
    def _again(world: World, node: Node) -> None:
        world.later(world.start_daemon(node))


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
    (
        (0, "unsized"),
        (40, "outgrow"),
        (60, "look"),
        (100, "terminate"),
        (200, "spoil_config"),
        (260, "size_3"),
        (300, "release_all"),
        (320, "no_maximum"),
        (400, "odd_template"),
        (700, "odd_template"),
        (800, "lease"),
        (830, "false_reclaimed"),
        (900, "large"),
        (930, "undo"),
        (1000, "size_2"),
        (1599, "nothing_is_added"),
        (1600, "size_8"),
        (1616, "steal_name"),
        (1617, "steal_name"),
        (1900, "look"),
    ),
    (
        (1, "snapshots"),
        (2, "from_snapshots"),
        (300, "template_refused"),
        (301, "large"),
        (500, "template_fails"),
        (501, "small"),
        (700, "group_refused"),
        (701, "other_1"),
        (900, "group_fails"),
        (901, "other_0"),
        (902, "other_3"),
        (1100, "group_still_there"),
        (1101, "template_still_there"),
        (1102, "other_0"),
        (1500, "template_unanswered"),
        (1501, "other_1"),
        (1520, "other_0"),
        (1800, "group_unanswered"),
        (1801, "other_1"),
        (1840, "other_0"),
        (2200, "use_templates"),
        (2201, "large"),
        (2800, "small"),
        (3000, "boot_snapshot"),
    ),
    (
        (1, "lease_all"),
        (60, "terminate"),
        (80, "metadata_flood"),
        (120, "fill_metadata"),
        (160, "release_all"),
        (180, "endless_metadata"),
        (181, "lease_all"),
        (900, "release_all"),
        (1000, "kill"),
    ),
    (
        (1, "spot"),
        (100, "preempt"),
        (200, "lease_all"),
        (210, "abandon_vm"),
        (211, "abandon_vm"),
        (260, "release_all"),
        (400, "short_lived"),
        (1300, "preempt"),
        (1400, "lose_entity"),
    ),
)
"""Short lives in which much happens, by seconds and kinds of events."""


SHAPES = {9: Shape(daemons=2, machines=24, resync=120.0, election=True)}
"""What the worlds of some of these lives are made of."""


def lives() -> list[Recipe]:
    """The lives that are crashed: those above, and some that seeds make."""
    busy = [recipe(f"crash {number}", 1.0, machines=6, rate=80.0) for number in range(SEEDS)]
    return [life(number) for number in range(len(LIVES))] + busy


def life(number: int) -> Recipe:
    """One of the lives."""
    rng = random.Random(number)
    events = tuple(Event(float(at), kind, rng.getrandbits(32)) for at, kind in LIVES[number])
    hours = (LIVES[number][-1][0] + 120) / 3600
    shape = SHAPES.get(number, Shape(machines=4, resync=120.0))
    return Recipe(f"life {number}", shape, hours, events)


def recorded(given: Recipe) -> tuple[Result, set[Site]]:
    """A life without a crash, and the awaits at which tasks were seen in it."""

    def work() -> tuple[Result, set[Site]]:
        forks = Forks(lambda _: False)
        return live_here(given, stop_at_first=False, on_step=forks.on_step), forks.seen

    return apart(work)


def crashed(
    given: Recipe, wanted: Wanted, *, pairs: float = 0.0, stories: Path | None = None
) -> tuple[Result, list[Crash]]:
    """A life without a crash, and what came of killing the daemon at these awaits.

    Args:
        given: the life.
        wanted: whether it is killed at an await, each time in a fork of its own.
        pairs: the share of the awaits that come next at which it is killed a second time.
        stories: where the stories of forks that break a promise are written.
    """

    def work() -> tuple[Result, list[Crash]]:
        forks = Forks(wanted, pairs)
        try:
            result = live_here(given, stop_at_first=False, on_step=forks.on_step)
        except Exception:
            if forks.branch is None:
                raise
            error = f"the simulation failed: {traceback.format_exc()}"
            forks.branch.end([Crash(forks.at, (error,)), *forks.crashes])
        if forks.branch is not None:
            crash = Crash(forks.at, tuple(map(str, result.violations)))
            if crash.broken:
                _tell(given, crash, result, stories)
            forks.branch.end([crash, *forks.crashes])
        return result, forks.crashes

    return apart(work)


def _tell(given: Recipe, crash: Crash, result: Result, stories: Path | None) -> None:
    place = " and ".join(at[-1] for at in crash.at)
    sys.stdout.write(f"{place}, {given.seed}: {crash.broken[0]}\n")
    sys.stdout.flush()
    if stories is not None:
        name = re.sub(r"[^a-z0-9_]+", "-", f"{given.seed} {place}")
        (stories / f"{name}.txt").write_text("\n".join(result.story))


class _Task(NamedTuple):
    given: Recipe
    wanted: frozenset[Site]
    pairs: float
    stories: Path | None

    def done(self) -> tuple[Result, list[Crash]]:
        return crashed(self.given, self.wanted.__contains__, pairs=self.pairs, stories=self.stories)


def main() -> int:
    """Crashes at every await that is reached, and at pairs of them; 1 when a promise breaks."""
    chance.fix_hashes()
    chance.silence()
    parser = argparse.ArgumentParser(prog="simulation.crashes", description=__doc__)
    parser.add_argument("--pairs", type=float, default=0.0, help="the share of pairs: 1 is all")
    parser.add_argument("--only", default="", help="a piece of the awaits' names: loops/resize")
    parser.add_argument("--life", action="append", help="the name of one life: 'life 7'; several")
    parser.add_argument("--processes", type=int, default=1, help="how many lives at a time")
    parser.add_argument("--stories", type=Path, help="a folder for lives that break a promise")
    options = parser.parse_args()
    if options.stories:
        options.stories.mkdir(parents=True, exist_ok=True)
    out = sys.stdout.write
    given = [one for one in lives() if not options.life or one.seed in options.life]
    found, tasks, failed = set[Site](), [], 0
    kills: Counter[int] = Counter()
    with multiprocessing.get_context("fork").Pool(options.processes, maxtasksperchild=1) as pool:
        reached = list(pool.imap(_reached, given))
        for one, seen in zip(given, reached, strict=True):
            wanted = frozenset(site for site in seen - found if options.only in str(site))
            found |= seen
            if wanted:
                tasks.append(_Task(one, wanted, options.pairs, options.stories))
        out(f"{len(found)} of {len(sites())} awaits are reached\n")
        out(f"not reached: {' '.join(str(site) for site in sites() if site not in found)}\n")
        sys.stdout.flush()
        for result, crashes in pool.imap_unordered(_Task.done, tasks):
            kills.update(len(crash.at) for crash in crashes)
            broken = sum(1 for crash in crashes if crash.broken)
            if result.violations:
                out(f"{result.recipe.seed} without a crash: {result.violations[0]}\n")
            failed += broken
            out(f"{result.recipe.seed}: {len(crashes)} crashes, {broken} broke a promise\n")
            sys.stdout.flush()
    met = sum(len(task.wanted) for task in tasks)
    out(f"{met} awaits in {kills[1]} crashes, {kills[2]} pairs, {failed} broke a promise\n")
    return 1 if failed else 0


def _reached(given: Recipe) -> set[Site]:
    return recorded(given)[1]


if __name__ == "__main__":
    sys.exit(main())
