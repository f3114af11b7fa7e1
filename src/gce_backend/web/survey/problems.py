"""The problems of the fleet, the most severe first.

Machines with the same problem are shown together, so that the list stays short in a fleet of any
size. A machine that waits as planned is not a problem.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from gce_backend.actions import unknown_machines
from gce_backend.actions.broker_turns import BROKER
from gce_backend.actions.resources import beside, use_of
from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.context import SELF_CHECK, Context
from gce_backend.engine.inbox import QueueStatus
from gce_backend.engine.scheduler import JobStatus
from gce_backend.fleet.conditions import Alike, Condition, Subject
from gce_backend.model.keys import GroupKey, Key, MachineKey, RevisionKey
from gce_backend.model.orders import Pause, RolloutPause, Undone
from gce_backend.rules.group_sizes import replaced
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.sightings import is_stopped_for_good
from gce_backend.rules.states import State
from gce_backend.web.survey.census import Survey

MAX_ALIKE = 20
"""Problems of one severity, kind and reason that are shown one by one."""
MAX_EXAMPLES = 5
"""Most examples in a problem that many subjects have."""
GRAVE = frozenset({"HeldForApproval", "InvalidConfiguration", "DeletionCap"})
"""Reasons that wait for an operator."""
PATIENT = frozenset({"Leased", "Unsettled"})
"""Reasons for which a machine waits as it should."""
ORDINARY = frozenset({"PacedByCap"})
"""Reasons for which something goes on later, as it should."""


class Severity(StrEnum):
    """How severe a problem is."""

    CRITICAL = "critical"
    """The daemon cannot do its work, or waits for an operator."""
    WARNING = "warning"
    """Something makes no progress; the daemon tries again."""
    NOTICE = "notice"
    """Somebody ordered it, or it is over."""


class FleetProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong.

    Attributes:
        severity: how severe it is.
        kind: what it is about: `pause`, `configuration`, `deletions`, `machine`, `group`,
            `template`, `messages`, `job`, `entity`, or another word for what is neither.
        subject: its name, as `/api/explain` takes it for the kinds that it knows.
        reason: one CamelCase word, constant.
        message: the explanation and, where there is one, the remedy.
        since: since when, Unix seconds; None when that is not known.
        count: how many subjects have it.
        examples: some of them, by the names that `/api/explain` takes.
        retry_at: when the daemon tries again, Unix seconds; None when that is not planned.
    """

    severity: Severity
    kind: str
    subject: str
    reason: str
    message: str
    since: UnixSeconds | None = None
    count: int = 1
    examples: tuple[str, ...] = ()
    retry_at: UnixSeconds | None = None


async def problems(
    context: Context, survey: Survey, jobs: Iterable[JobStatus], queue: QueueStatus
) -> list[FleetProblem]:
    """All problems, the most severe first, then the oldest.

    Other tasks run between the looks at the machines of two places.
    """
    found = [
        *_pauses(context),
        *_rollouts(context),
        *_jobs(jobs),
        *_messages(context, queue),
        *_corrupt(context),
        *(
            _of_one(context, survey, condition, _key(context, condition.subject))
            for condition in context.conditions.of_others()
            if condition.reason not in PATIENT
        ),
    ]
    for looks in (_lost(context, survey), _cordoned(survey), _conditions(context, survey)):
        for problem in looks:
            found.append(problem)
            await asyncio.sleep(0)
    order = list(Severity)
    now = context.clock.now()
    return sorted(
        found, key=lambda one: (order.index(one.severity), one.since or now, one.kind, one.subject)
    )


def bounded(found: Iterable[FleetProblem]) -> list[FleetProblem]:
    """Problems in their order; of those of one severity, kind and reason, the first ones alone.

    The others are one problem, so that the list stays short whatever befalls a large fleet.
    """
    shown: list[FleetProblem] = []
    numbers: Counter[tuple[str, str, str]] = Counter()
    others: dict[tuple[str, str, str], list[FleetProblem]] = {}
    for problem in found:
        sort = (problem.severity, problem.kind, problem.reason)
        numbers[sort] += 1
        if numbers[sort] <= MAX_ALIKE:
            shown.append(problem)
            continue
        if sort not in others:
            shown.append(problem)  # in its place stands what tells of all of them
            others[sort] = []
        others[sort].append(problem)
    return [_and_others(others, problem) for problem in shown]


def _and_others(
    others: Mapping[tuple[str, str, str], list[FleetProblem]], problem: FleetProblem
) -> FleetProblem:
    """A problem, or what tells of it and those after it."""
    same = others.get((problem.severity, problem.kind, problem.reason), [])
    if len(same) < 2 or same[0] is not problem:
        return problem
    times = [at for one in same if (at := one.retry_at) is not None]
    return msgspec.structs.replace(
        problem,
        subject=f"{len(same):,} others",
        message=f"The same reason holds for {len(same):,} others. The first one: {problem.message}",
        since=min((one.since for one in same if one.since is not None), default=None),
        count=sum(one.count for one in same),
        examples=tuple(one.subject for one in same[:MAX_EXAMPLES]),
        retry_at=min(times, default=None),
    )


def _pauses(context: Context) -> Iterator[FleetProblem]:
    if not context.settings.actuate:
        yield FleetProblem(
            severity=Severity.NOTICE,
            kind="pause",
            subject="everything",
            reason="Paused",
            message="The settings have actuate = false: the daemon observes, and changes nothing.",
        )
    for pause in context.fleet.control.pauses_in_force:
        part = f" in {pause.scope}" if pause.template or pause.zone else ""
        yield FleetProblem(
            severity=Severity.NOTICE,
            kind="pause",
            subject=pause.scope,
            reason="Paused",
            message=f"The daemon changes nothing{part} until `{pause.ended_by}`.{_ordered(pause)}",
            since=pause.since,
        )


def _rollouts(context: Context) -> Iterator[FleetProblem]:
    """Roll-outs that an operator has paused or undone, so that nobody forgets them."""
    control = context.fleet.control
    paused = "The roll-out replaces no old machine"
    undone = "The revision that the configuration describes is undone, and an earlier one is active"
    for reason, told, orders in (
        ("RolloutPaused", paused, control.rollout_pauses),
        ("Undone", undone, control.undone),
    ):
        for one in orders:
            yield FleetProblem(
                severity=Severity.NOTICE,
                kind="template",
                subject=one.template,
                reason=reason,
                message=f"{told} until `gce-backend rollout resume {one.template}`.{_ordered(one)}",
                since=one.since,
            )


def _ordered(order: Pause | RolloutPause | Undone) -> str:
    """Who gave an order, and why."""
    by = f" Ordered by {order.by}." if order.by else ""
    return f"{by} Reason: {order.reason}" if order.reason else by


def _jobs(jobs: Iterable[JobStatus]) -> Iterator[FleetProblem]:
    for job in jobs:
        if job.stuck:
            yield FleetProblem(
                severity=Severity.CRITICAL,
                kind="job",
                subject=job.name,
                reason="Stuck",
                message=f"It runs past its deadline of {job.timeout:g} s.",
                since=job.running_since,
            )
        elif job.consecutive_failures and job.last is not None:
            yield FleetProblem(
                severity=Severity.WARNING,
                kind="job",
                subject=job.name,
                reason="Timeout" if job.last.error is None else "Failing",
                message=job.last.error or f"It reached its deadline of {job.timeout:g} s.",
                since=job.failing_since,
                count=job.consecutive_failures,
            )


def _messages(context: Context, queue: QueueStatus) -> Iterator[FleetProblem]:
    if queue.problem:
        yield FleetProblem(
            severity=Severity.CRITICAL,
            kind="messages",
            subject="subscription",
            reason="NotPulled",
            message=queue.problem,
            retry_at=context.clock.now() + queue.retry_seconds if queue.retry_seconds else None,
        )
    kept = context.fleet.set_aside.items()
    aside = {key: message for key, message in kept if message.seen is None}
    if aside:
        oldest = min(aside.values(), key=lambda message: message.received)
        yield FleetProblem(
            severity=Severity.WARNING,
            kind="messages",
            subject="set aside",
            reason="SetAside",
            message=(
                f"Messages could not be understood. The oldest: {oldest.reason}. "
                "Once you have looked at them: `gce-backend messages ack`"
            ),
            since=oldest.received,
            count=len(aside),
            examples=tuple(key.name for key in list(aside)[:MAX_EXAMPLES]),
        )


def _corrupt(context: Context) -> Iterator[FleetProblem]:
    for key, message in context.fleet.corrupt.items():
        yield FleetProblem(
            severity=Severity.CRITICAL,
            kind="entity",
            subject=str(key),
            reason="CorruptEntity",
            message=f"{message}. Its resource is not touched: correct or delete the entity.",
        )


def _lost(context: Context, survey: Survey) -> Iterator[FleetProblem]:
    """Machines that their group, or the catalog, no longer holds."""
    for reason, message, machines in (
        (
            "Missing",
            "Its group no longer lists the VM: somebody else deleted it.",
            survey.missing,
        ),
        ("Stopped", "The VM does not run, and is not offered.", survey.stopped),
        (
            "NotInCatalog",
            "The machine was added to the catalog, and the catalog no longer holds it.",
            survey.unknown,
        ),
    ):
        for place, found in _by_place(machines).items():
            told = f"{message} {after(context, reason, [key for key, _ in found])}"
            yield _of_many(place, reason, told, found, _without(context, survey, found))


def _cordoned(survey: Survey) -> Iterator[FleetProblem]:
    """Machines that an operator keeps, so that nobody forgets them."""
    message = "It is not offered, and its VM is kept until `gce-backend uncordon NAME`."
    for place, found in _by_place(survey.cordoned).items():
        yield _of_many(place, "Cordoned", message, found, severity=Severity.NOTICE)


def _by_place(
    machines: Iterable[tuple[MachineKey, float]],
) -> dict[str, list[tuple[MachineKey, float]]]:
    """Machines and since when, by template and zone."""
    places: dict[str, list[tuple[MachineKey, float]]] = {}
    for key, since in machines:
        places.setdefault(_place(key), []).append((key, since))
    return places


def after(context: Context, reason: str, machines: Sequence[MachineKey]) -> str:
    """What happens to machines of no use, as a sentence.

    Args:
        context: all that is known.
        reason: why they are of no use: `Missing`, `Stopped` or `NotInCatalog`.
    """
    instances, now = context.fleet.instances, context.clock.now()
    free = [key for key in machines if key in instances and not lease_runs(instances[key], now)]
    if reason == "Missing" and not free:
        return "As far as the daemon knows, somebody holds it until its lease ends."
    if not free:
        return "As far as the daemon knows, somebody holds it: it is kept until the lease ends."
    if any(context.is_paused(key) for key in free):
        return "Nothing is done about it until a pause ends."
    if reason == "Missing":
        rest = "" if len(free) == len(machines) else ", or when its lease ends if somebody holds it"
        return f"It leaves the catalog now{rest}."
    if all(unknown_machines.awaits(context, key, instances[key], patience=0.0) for key in free):
        return unknown_machines.kept_message(free[0].name if len(free) == 1 else "NAME")
    end = "It is deleted once it has left the catalog"
    patience, elapsed = context.settings.deletion.stopped_seconds, context.clock.elapsed
    stopped = [key for key in free if not is_stopped_for_good(instances[key], elapsed, patience)]
    if reason == "Stopped" and stopped:
        end = f"Unless it runs again within {patience:g} s, it is deleted"
    number = _replaced(context, free)
    if number is None:
        return f"{end}."
    if number == 0:
        return f"{end}, and no other takes its place: there are enough without it."
    if number == len(free):
        return f"{end}, and another takes its place."
    return f"{end}. {number} of {len(free)} are replaced: with them there are enough."


def _replaced(context: Context, machines: Sequence[MachineKey]) -> int | None:
    """How many of these machines the daemon replaces; None when that is not known."""
    number = 0
    for group, leaving in Counter(key.group for key in machines).items():
        if not context.fleet.is_active(group):
            continue
        seen, manager = context.memory.seen.groups.get(group), context.fleet.managers[group]
        others = beside(context, group, manager)
        if seen is None or others is None:
            return None
        use = use_of(context, group)
        number += replaced(manager, seen.target_size, leaving, others, use)
    return number


def _conditions(context: Context, survey: Survey) -> Iterator[FleetProblem]:
    """What many machines have in common: of one template and zone, over all its groups."""
    together: dict[tuple[str, str, str], list[Alike]] = {}
    for alike in context.conditions.of_machines():
        if alike.reason not in PATIENT:
            place = f"{alike.group.base_name}/{alike.group.zone}"
            together.setdefault((place, alike.job, alike.reason), []).append(alike)
    for (place, _, reason), parts in together.items():
        # Some may have ended since.
        known = [context.conditions.of_machines().get(alike, {}) for alike in parts]
        found = [condition for conditions in known for condition in conditions.values()]
        if not found:
            continue
        machines = [(key, one.since) for conditions in known for key, one in conditions.items()]
        zones = {it for alike in parts for it in _zones_without(context, survey, alike.group)}
        problem = _of_many(place, reason, found[0].message, machines, sorted(zones))
        now = context.clock.monotonic()
        planned = (one for one in found if one.retry_at > now)
        first = min(planned, key=lambda condition: condition.retry_at, default=None)
        retry_at = first.retried(context.clock) if first is not None else None
        yield msgspec.structs.replace(problem, retry_at=retry_at)


def _of_one(
    context: Context, survey: Survey, condition: Condition, key: Key | None
) -> FleetProblem:
    kind, subject = _named(context, condition.subject, key)
    held = condition.job == SELF_CHECK or condition.reason in GRAVE
    without = _zones_without(context, survey, condition.subject if key is None else key)
    lesser = Severity.NOTICE if condition.reason in ORDINARY else Severity.WARNING
    return FleetProblem(
        severity=Severity.CRITICAL if held or without else lesser,
        kind=kind,
        subject=subject,
        reason=condition.reason,
        message=_with_zones(condition.message, without),
        since=condition.since,
        retry_at=condition.retried(context.clock),
    )


def _zones_without(context: Context, survey: Survey, subject: Subject) -> list[str]:
    """The zones in which a problem leaves a group that should have machines without one of use.

    Args:
        context: all that is known.
        survey: the machines.
        subject: what has the problem: a machine, a group, a revision or the Machine Provider.
    """
    groups: Iterable[GroupKey] = ()
    if isinstance(subject, MachineKey):
        groups = [subject.group]
    elif isinstance(subject, GroupKey):
        groups = [subject]
    elif isinstance(subject, RevisionKey):
        groups = [group for group, _ in context.fleet.managers_of(subject)]
    elif subject == BROKER:  # it keeps machines that run out of the catalog
        groups = [group for group, counts in survey.by_group.items() if counts[State.RUNNING]]
    return sorted(
        {
            group.zone
            for group in groups
            if context.fleet.is_active(group)
            and context.fleet.managers[group].minimum_size
            and not survey.useful.get((group.base_name, group.zone))
        }
    )


def _without(
    context: Context, survey: Survey, machines: Iterable[tuple[MachineKey, float]]
) -> list[str]:
    """The zones of these machines in which their groups have no machine of use."""
    groups = {key.group: key for key, _ in machines}.values()
    return sorted({zone for key in groups for zone in _zones_without(context, survey, key)})


def _with_zones(message: str, zones: Sequence[str]) -> str:
    """A problem's message, with the zones in which it leaves nobody a machine."""
    if not zones:
        return message
    stop = "" if message.endswith((".", "!", "?", "`")) else "."
    more = len(zones) - MAX_EXAMPLES
    places = ", ".join(zones[:MAX_EXAMPLES]) + (f" and {more} more zones" if more > 0 else "")
    return f"{message}{stop} No machine is leased or can be leased in {places}."


def _of_many(
    place: str,
    reason: str,
    message: str,
    machines: Sequence[tuple[MachineKey, float]],
    without: Sequence[str] = (),
    severity: Severity = Severity.WARNING,
) -> FleetProblem:
    oldest = sorted((since, key.name) for key, since in machines)
    return FleetProblem(
        severity=Severity.CRITICAL if without else severity,
        kind="machine",
        subject=oldest[0][1] if len(oldest) == 1 else place,
        reason=reason,
        message=_with_zones(message, without),
        since=oldest[0][0],
        count=len(oldest),
        examples=tuple(name for _, name in oldest[:MAX_EXAMPLES]),
    )


def _key(context: Context, subject: Subject) -> Key | None:
    """The entity that a condition's subject names; None when it names something else."""
    is_stored = isinstance(subject, Key) and context.fleet.get(subject) is not None
    return subject if isinstance(subject, Key) and is_stored else None


def _named(context: Context, subject: Subject, key: Key | None) -> tuple[str, str]:
    if key is None:
        kind, _, name = str(subject).partition(" ")
        return (kind, name) if name else (kind, kind)
    if isinstance(key, GroupKey):
        return "group", context.fleet.group_name(key)
    return "template", key.base_name


def _place(machine: MachineKey) -> str:
    return f"{machine.base_name}/{machine.zone}"
