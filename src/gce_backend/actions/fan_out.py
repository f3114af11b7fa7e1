"""Bounded fan-out for jobs that act on many subjects; a failure affects only its own subject."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TypeAlias, TypeVar

from gce_backend.base.errors import BackendError, NotFoundError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Outcome, joined
from gce_backend.model.keys import Key, MachineKey

K = TypeVar("K", bound=Key)
Found = TypeVar("Found")
Failures: TypeAlias = dict[str, list[tuple[Key, BackendError]]]
"""What failed, and why, by the reason of its condition."""


class Result(StrEnum):
    """The result for one subject."""

    CHANGED = "changed"
    """It made progress; jobs downstream may have work."""
    WAITING = "waiting"
    """It is under way and must be checked again soon."""
    HELD = "held"
    """It must wait; its condition gives the reason."""
    LATER = "left"
    """It was not started for lack of time. Nothing is known of it."""
    NOTHING = "unchanged"
    """There was nothing to do."""


ENOUGH_SECONDS = 30.0
"""Seconds after which a run begins no slice: another run goes on at once."""
SLICE = 500
"""Subjects that are looked at together."""
MAX_NAMED = 5
"""Subjects that one log line names."""
LOOK_AGAIN = 1.0
"""Seconds after which something under way is checked again."""
OBSERVER = "fetch-instances"
"""The job that finds out how the VMs are."""


async def act_on_each(
    context: Context,
    subjects: Sequence[K],
    act: Callable[[K], Awaitable[Result]],
    *,
    observing: bool = False,
    failed: Failures | None = None,
) -> Outcome:
    """Acts on every subject that is not paused and does not back off, a bounded number at a time.

    A failure becomes the subject's condition and backs off only that subject; success ends the
    condition. Subjects that are paused during the run are skipped from then on.

    Args:
        act: acts on one subject.
        observing: whether it only observes, and so continues while paused.
        failed: takes the failures, which the caller reports; None: they are reported here.

    Returns:
        The run's outcome: the changes, the problems, and when to run again.
    """
    failures: Failures = {} if failed is None else failed
    before = sum(map(len, failures.values()))
    conditions = context.conditions
    slots = asyncio.Semaphore(context.settings.compute.max_concurrency)
    counts = dict.fromkeys(Result, 0)
    waits: list[float] = []
    paused: list[Key] = []

    async def attempt(subject: K) -> None:
        async with slots:
            if not observing and context.is_paused(subject):
                paused.append(subject)
                return
            try:
                step = await act(subject)
            except BackendError as error:
                if isinstance(error, NotFoundError) and isinstance(subject, MachineKey):
                    doubt(context, subject)
                condition = conditions.fail(subject, error)
                failures.setdefault(condition.reason, []).append((subject, error))
                waits.append(condition.retry_at - context.clock.monotonic())
                return
        counts[step] += 1
        if step is Result.WAITING:
            waits.append(LOOK_AGAIN)
        elif step is Result.HELD:
            waits.append(conditions.wait(subject) or LOOK_AGAIN)
        elif step is not Result.LATER and conditions.clear(subject):
            context.log.info("subject.recovered", subject=str(subject))

    ready = [subject for subject in subjects if not conditions.blocked(subject)]
    held = [subject for subject in subjects if conditions.blocked(subject)]
    waits += [conditions.wait(subject) or 0.0 for subject in held]
    async with asyncio.TaskGroup() as group:
        for subject in ready:
            group.create_task(attempt(subject), name=f"{context.job}: {subject}")
    number = sum(map(len, failures.values())) - before
    facts = {step.value: count for step, count in counts.items() if count}
    if paused:
        facts["paused"] = len(paused)
    if held:
        facts["backing_off"] = len(held)
    if number:
        facts["failed"] = number
    doubtful = any(isinstance(it, MachineKey) and is_doubted(context, it) for it in ready)
    return Outcome(
        wakes=(OBSERVER,) if doubtful else (),
        changed=counts[Result.CHANGED],
        again_after=min(waits, default=None),
        facts=facts,
        problems=report(context, failures) if failed is None else (),
    )


async def act_in_slices(
    context: Context,
    subjects: Sequence[K],
    look: Callable[[Context, Sequence[K]], Awaitable[Found]],
    act: Callable[[K, Found], Awaitable[Result]],
    *,
    observing: bool = False,
) -> Outcome:
    """Acts on every subject as `act_on_each` does, after a look at many of them together.

    Where there are so many that a run would take long, it ends between two slices and asks for the
    next run at once: other subjects' jobs hear of what it has achieved, and no deadline ends it.

    Args:
        look: finds out about a slice of those that do not back off.
        act: acts on one subject; what was found out about its slice is not older than the slice.
    """
    outcomes: list[Outcome] = []
    failed: Failures = {}
    enough = context.clock.monotonic() + ENOUGH_SECONDS
    for start in range(0, len(subjects), SLICE):
        if context.clock.monotonic() >= enough:
            outcomes.append(Outcome(again_after=0.0, facts={"left": len(subjects) - start}))
            break
        some = subjects[start : start + SLICE]
        found = await look(context, [one for one in some if not context.conditions.blocked(one)])

        async def act_on(subject: K, found: Found = found) -> Result:
            return await act(subject, found)

        outcomes.append(
            await act_on_each(context, some, act_on, observing=observing, failed=failed)
        )
    return joined([*outcomes, Outcome(problems=report(context, failed))])


def doubt(context: Context, machine: MachineKey) -> None:
    """Notes that a machine's VM was not found: its group's members are listed at once."""
    if machine.group in context.memory.seen.groups:
        context.memory.seen.doubted.add(machine.group)


def is_doubted(context: Context, machine: MachineKey) -> bool:
    """Whether the members of a machine's group are to be listed at once."""
    return machine.group in context.memory.seen.doubted


def report(context: Context, failures: Failures) -> tuple[str, ...]:
    """Says what failed: a log line for each reason and template, a sentence for each reason."""
    problems = []
    for reason, failed in failures.items():
        by_template: dict[str, list[tuple[Key, BackendError]]] = {}
        for subject, error in failed:
            by_template.setdefault(subject.base_name, []).append((subject, error))
        for template, some in by_template.items():
            context.log.warning(
                "subject.failed",
                template=template,
                reason=reason,
                count=len(some),
                subjects=[str(subject) for subject, _ in some[:MAX_NAMED]],
                error=str(some[0][1]),
            )
        others = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
        problems.append(f"{failed[0][0]}{others}: {failed[0][1]}")
    return tuple(problems)
