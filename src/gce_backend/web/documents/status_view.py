"""`GET /api/status`: the summary; problems first, then the fleet by template and zone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from gce_backend import __version__
from gce_backend.engine.context import Context
from gce_backend.engine.job import Verdict
from gce_backend.engine.scheduler import JobStatus
from gce_backend.fleet.picture import Fleet
from gce_backend.model.entities import InstanceGroupManager
from gce_backend.model.keys import GroupKey
from gce_backend.rules.states import GroupState, State
from gce_backend.web.survey import costs, states
from gce_backend.web.survey.census import Survey
from gce_backend.web.survey.problems import bounded, problems
from gce_backend.web.survey.view import View


async def status(view: View) -> dict[str, Any]:
    """The summary for an operator, as plain data."""
    context = view.context
    survey = await view.census.survey()
    jobs, queue = view.scheduler.status(), view.queue()
    cost = costs.of_fleet(context, survey)
    totals: Counter[State] = Counter()
    for counts in survey.counts.values():
        totals.update(counts)
    return {
        "version": __version__,
        "project": context.project,
        "owner": context.settings.owner,
        "now": context.clock.now(),
        "standby": view.standby(),
        "configuration": _configuration(context),
        "paused": context.paused,
        "pauses": context.fleet.control.pauses_in_force,
        "problems": bounded(await problems(context, survey, jobs, queue)),
        "machines": _by_state(totals),
        "cost": costs.in_words(context, cost) if cost is not None else None,
        "fleet": fleet_rows(context, survey),
        "jobs": [job for job in jobs if needs_attention(job)],
        "messages": {**msgspec.structs.asdict(queue), "set_aside": len(context.fleet.set_aside)},
        "calls": [usage._asdict() for usage in view.budget.usage()],
    }


def needs_attention(job: JobStatus) -> bool:
    """Whether the last run of a job did not do all of its work."""
    return job.stuck or (job.last is not None and job.last.verdict is not Verdict.OK)


def fleet_rows(context: Context, survey: Survey) -> list[dict[str, Any]]:
    """Each template in each of its zones, all revisions together; without what is gone."""
    places: dict[tuple[str, str], list[GroupKey]] = {}
    for key in context.fleet.managers:
        places.setdefault((key.base_name, key.zone), []).append(key)
    rows = (_row(context, place, managers, survey) for place, managers in sorted(places.items()))
    return [row for row in rows if row["groups"]]


def _row(
    context: Context, place: tuple[str, str], managers: list[GroupKey], survey: Survey
) -> dict[str, Any]:
    counts = survey.counts.get(place, Counter())
    active = _active(context.fleet, managers)
    machines = {key: survey.by_group.get(key, Counter()) for key in managers}
    all_shown = {key: states.group(context, key, machines[key]) for key in managers}
    there = [
        key
        for key, shown in all_shown.items()
        if shown.state != GroupState.DELETED or machines[key]
    ]
    told = active[0] if active else (there or managers)[0]
    shown = all_shown[told]
    groups = [context.memory.seen.groups.get(key) for key in managers]
    new, old = Counter[State](), Counter[State]()
    for key, found in machines.items():
        (new if active and context.fleet.is_active(key) else old).update(found)
    targets = [group.target_size for group in groups if group is not None]
    pool = active[1].pool if active else None
    return {
        "template": place[0],
        "zone": place[1],
        "state": shown.state,
        "reason": states.with_trouble(context, told, shown.reason),
        "minimum": active[1].minimum_size if active else 0,
        "maximum": (active[1].maximum_size or None) if active else None,
        "pool": pool.kinds[0] if pool and pool.kinds else place[0] if pool else None,
        "pool_zones": list(pool.zones) if pool else [],
        "target": sum(targets) if targets else None,
        "wanted": states.wanted(context, active[0], machines[active[0]]) if active else 0,
        "new": new[State.LEASED] + new[State.CATALOGED],
        "old": old.total() - old[State.LEASED],
        "old_leased": old[State.LEASED],
        "groups": len(there),
        "machines": _by_state(counts),
    }


def _active(fleet: Fleet, managers: list[GroupKey]) -> tuple[GroupKey, InstanceGroupManager] | None:
    for key in managers:
        if fleet.is_active(key):
            return key, fleet.managers[key]
    return None


def _by_state(counts: Counter[State]) -> dict[str, int]:
    """Counts of all states, in the order of a machine's life."""
    return {state.value: counts[state] for state in State if state is not State.DELETED}


def _configuration(context: Context) -> dict[str, Any]:
    configuration = context.fleet.configuration
    return {
        "config_set": configuration.config_set,
        "revision": configuration.revision or None,
        "imported_at": configuration.imported,
        "previous_revision": configuration.previous_revision or None,
        "held_revision": context.fleet.configuration.held_revision or None,
    }
