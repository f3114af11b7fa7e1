"""The gauges of `engine.metrics.READINGS`, read at each scrape of `/metrics`. No call, no wait.

The machines' states come from the census, which every page and document shares. Everything else is
read from memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from gce_backend.clients.compute.call_budget import CallBudget
from gce_backend.engine.context import Context
from gce_backend.engine.inbox import Consumer, QueueStatus
from gce_backend.engine.metrics import Sample
from gce_backend.engine.scheduler import Scheduler
from gce_backend.web.health import STANDBY, Check
from gce_backend.web.survey import costs, states
from gce_backend.web.survey.census import Census, Survey

Values = dict[str, Iterable[Sample]]


def checks(ready: Iterable[Check], *, leads: bool, age: float | None) -> Values:
    """The checks of `/readyz`, which exist before the entities are loaded.

    Args:
        ready: the checks.
        leads: whether this daemon works; that another one stands by is no trouble.
        age: seconds since the picture of the entities was current; None before it is loaded.
    """
    told = {"ready": [((check.name,), check.ok) for check in ready if check.name != STANDBY]}
    aged = [] if age is None else _one(age)
    return {**told, "leader": [((), leads)], "picture_age_seconds": aged}


class Readings:
    """Reads the gauges of a running daemon.

    Args:
        context: the jobs' context.
        census: counts the machines.
        consumer: the messages in hand.
        scheduler: the jobs.
        budget: the calls that may be sent.
    """

    def __init__(
        self,
        context: Context,
        census: Census,
        *,
        consumer: Consumer,
        scheduler: Scheduler[Context],
        budget: CallBudget,
    ) -> None:
        self._context = context
        self._census = census
        self._consumer = consumer
        self._scheduler = scheduler
        self._budget = budget

    async def read(self) -> Values:
        """All gauges, by name."""
        survey = await self._census.survey()
        context = self._context
        return {
            "machines": [
                ((*place, state.value), number)
                for place, states in survey.counts.items()
                for state, number in states.items()
            ],
            "machines_useful": survey.useful.items(),
            "machines_lost": _lost(context, survey),
            **_groups(context, survey),
            "conditions": _conditions(context),
            "corrupt_entities": _one(len(context.fleet.corrupt)),
            "deletions_held": list(_held(context)),
            **_costs(context, survey),
            **_demand(context),
            **_configuration(context),
            **_pauses(context),
            **_messages(context, self._consumer.status()),
            **_budgets(self._budget),
            "job_consecutive_failures": [
                ((job.name,), job.consecutive_failures) for job in self._scheduler.status()
            ],
        }


def _held(context: Context) -> Iterator[Sample]:
    """Deletions that the caps hold back: those that a roll-out waits for, and the others."""
    paced = context.memory.deletions.paced_by_permit()
    for permit, number in context.memory.deletions.held_by_permit().items():
        yield (permit.value, "rollout"), paced[permit]
        yield (permit.value, "other"), number - paced[permit]


def _one(number: float) -> list[Sample]:
    return [((), number)]


def _lost(context: Context, survey: Survey) -> Iterable[Sample]:
    """Also zeros: an alert on a series that vanishes would not be reported as resolved."""
    lost = {(manager.base_name, manager.zone): 0 for manager in context.fleet.managers}
    for key, _ in survey.unknown:
        lost[key.base_name, key.zone] += 1
    return lost.items()


def _conditions(context: Context) -> Iterable[Sample]:
    return Counter((found.job, found.reason) for found in context.conditions).items()


def _groups(context: Context, survey: Survey) -> Values:
    minimum: Counter[tuple[str, ...]] = Counter()
    maximum: Counter[tuple[str, ...]] = Counter()
    target: Counter[tuple[str, ...]] = Counter()
    wanted: Counter[tuple[str, ...]] = Counter()
    surplus: Counter[tuple[str, ...]] = Counter()
    for key, manager in context.fleet.managers.items():
        place = (key.base_name, key.zone)
        active = context.fleet.is_active(key)
        if active:
            minimum[place] += manager.minimum_size
        if active and manager.maximum_size:
            maximum[place] += manager.maximum_size
        group = context.memory.seen.groups.get(key)
        if active:
            size = states.wanted(context, key, survey.by_group.get(key, Counter()))
            wanted[place] += size
            surplus[place] += max(0, group.target_size - size) if group is not None else 0
        if group is not None:
            target[*place, "active" if active else "drained"] += group.target_size
    return {
        "group_minimum_size": minimum.items(),
        "group_maximum_size": maximum.items(),
        "group_target_size": target.items(),
        "group_wanted_size": wanted.items(),
        "group_surplus": surplus.items(),
    }


def _costs(context: Context, survey: Survey) -> Values:
    """Where prices are known."""
    found: defaultdict[tuple[str, ...], float] = defaultdict(float)
    idle: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for key, counts in survey.by_group.items():
        if (cost := costs.of_group(context, key, counts)) is not None:
            found[key.base_name, key.zone] += cost.total
            idle[key.base_name, key.zone] += cost.idle
    return {"cost_per_hour": found.items(), "idle_cost_per_hour": idle.items()}


def _demand(context: Context) -> Values:
    demand = context.memory.demand
    places: Counter[tuple[str, ...]] = Counter()
    for key, manager in context.fleet.active_managers():
        if manager.maximum_size:
            places[key.base_name, key.zone] += demand.shares.get(key, (0, 0))[0]
    return {"requests_waiting": places.items(), "requests_unserved": _one(demand.unserved)}


def _configuration(context: Context) -> Values:
    stored = context.fleet.configuration
    if not stored.revision:
        return {}
    info = ((stored.config_set, stored.revision), 1)
    when = [] if stored.imported is None else _one(stored.imported)
    return {"config_info": [info], "config_imported_timestamp_seconds": when}


def _pauses(context: Context) -> Values:
    pauses = context.fleet.control.pauses_in_force
    return {
        "actuation_paused": _one(context.paused),
        "pause_since_timestamp_seconds": [((it.template, it.zone), it.since) for it in pauses],
        "rollout_order_since_timestamp_seconds": [
            *(((it.template, "paused"), it.since) for it in context.fleet.control.rollout_pauses),
            *(((it.template, "undone"), it.since) for it in context.fleet.control.undone),
        ],
    }


def _messages(context: Context, queue: QueueStatus) -> Values:
    return {
        "queue_depth": _one(queue.waiting),
        "queue_working": _one(queue.working),
        "queue_oldest_message_age_seconds": _one(queue.oldest_seconds),
        "set_aside_messages": _one(len(context.fleet.set_aside)),
    }


def _budgets(budget: CallBudget) -> Values:
    usage = list(budget.usage())
    return {
        "call_budget_remaining": [
            ((use.project, use.region, use.group), use.left) for use in usage
        ],
        "call_budget_limit": [((use.project, use.region, use.group), use.limit) for use in usage],
    }
