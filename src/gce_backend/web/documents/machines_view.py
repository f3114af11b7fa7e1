"""`GET /api/machines`: the machines that match a filter, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.context import Context
from gce_backend.model.entities import Instance
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.selector import MACHINE_KEYS, Candidate
from gce_backend.rules.states import State
from gce_backend.web.documents.answers import chosen_by
from gce_backend.web.survey import states
from gce_backend.web.survey.census import Survey, SurveyedMachine
from gce_backend.web.survey.names import numeric_id

Sort: TypeAlias = Annotated[
    str, Meta(pattern=r"^-?(name|state|template|zone|age|idle|lease)\Z|^\Z")
]
"""What machines are ordered by: "" is by template, revision, zone and name; `-` turns around."""
MOST = 1000
"""Most machines on a page."""


class MachineFilter(msgspec.Struct, frozen=True):
    """Which machines are wanted; an empty field matches all.

    Attributes:
        state: in this state.
        template: of this template.
        zone: in this zone.
        q: with this text in the name, or with this numeric id.
    """

    state: State | None = None
    template: str = ""
    zone: str = ""
    q: str = ""


class MachinesQuery(MachineFilter, frozen=True, forbid_unknown_fields=True):
    """The parameters of `/api/machines`.

    Attributes:
        selector: that match it (`rules.selector`), too.
        limit: machines on the page.
        cursor: `next` of the page before.
    """

    selector: str = ""
    limit: Annotated[int, Meta(ge=1, le=MOST)] = 100
    cursor: str = ""


def matching(context: Context, survey: Survey, wanted: MachineFilter) -> list[SurveyedMachine]:
    """The machines that a filter wants, in order; deleted ones only when it asks for them."""
    text = wanted.q.strip().lower()
    by_id = numeric_id(text)
    return [
        machine
        for machine in survey.machines
        if (
            machine.state is not State.DELETED
            if wanted.state is None
            else machine.state is wanted.state
        )
        and wanted.template in {"", machine.key.base_name}
        and wanted.zone in {"", machine.zone}
        and (not text or text in machine.key.name or _has_id(context, machine, by_id))
    ]


def machines(context: Context, survey: Survey, query: MachinesQuery) -> dict[str, Any]:
    """A page of machines as plain data; `next` is the cursor of the next page.

    Raises:
        RefusedError: the selector cannot be understood.
    """
    chosen = chosen_by(query.selector, MACHINE_KEYS)
    found = [
        machine
        for machine in matching(context, survey, query)
        if machine.key in context.fleet.instances
        and (not query.selector or chosen.matches(_candidate(context, machine)))
    ]
    if query.cursor:
        after = tuple(query.cursor.split("/"))
        rest = [machine for machine in found if machine.place > after]
    else:
        rest = found
    page = rest[: query.limit]
    more = len(rest) > len(page)
    return {
        "machines": rows(context, page),
        "total": len(found),
        "next": str(page[-1].key) if more else None,
    }


def _candidate(context: Context, machine: SurveyedMachine) -> Candidate:
    instance, key = context.fleet.instances[machine.key], machine.key
    since = instance.listed_since
    return Candidate(
        template=key.base_name,
        zone=key.zone,
        state=machine.state,
        age=None if since is None else context.clock.elapsed(since),
        leased=lease_runs(instance, context.clock.now()),
    )


def rows(context: Context, page: Sequence[SurveyedMachine]) -> list[Mapping[str, Any]]:
    """Machines as plain data; machines that are gone since the survey are left out."""
    return [_row(context, machine) for machine in page if machine.key in context.fleet.instances]


def _row(context: Context, machine: SurveyedMachine) -> Mapping[str, Any]:
    key = machine.key
    instance = context.fleet.instances[key]
    active = context.fleet.is_active(key.group)
    state, reason = states.machine(context, key, instance, active=active)
    return {
        "name": key.name,
        "subject": str(key),
        "template": key.base_name,
        "zone": machine.zone,
        "state": state.value,
        "reason": states.with_trouble(context, key, reason),
        "id": str(instance.gce_id) if instance.gce_id is not None else None,
        "catalog": instance.catalog.value,
        "since": instance.listed_since,
        "leased": lease_runs(instance, context.clock.now()),
        "idle_since": idle_since(instance, state),
        "lease_expiration": instance.lease.expiration if instance.lease else None,
    }


def idle_since(instance: Instance, state: State) -> UnixSeconds | None:
    """Since when a machine has been offered to whoever wants it; None when it is not offered.

    Args:
        instance: the machine.
        state: the state that it is in.
    """
    return instance.adding_since if state is State.CATALOGED else None


_ORDER = {state: place for place, state in enumerate(State)}
_SORTED_BY: Mapping[str, Callable[[SurveyedMachine, Instance], Any]] = {
    "name": lambda machine, _: machine.key.name,
    "state": lambda machine, _: _ORDER[machine.state],
    "template": lambda machine, _: (machine.key.base_name, machine.zone),
    "zone": lambda machine, _: (machine.zone, machine.key.base_name),
    "age": lambda _, instance: _earlier(instance.listed_since),
    "idle": lambda machine, instance: _earlier(idle_since(instance, machine.state)),
    "lease": lambda _, instance: instance.lease.expiration if instance.lease else None,
}
"""What machines are ordered by; None comes last in any order."""


def _earlier(moment: UnixSeconds | None) -> float | None:
    """The order of durations until now."""
    return None if moment is None else -moment


def ordered(
    context: Context, machines: Sequence[SurveyedMachine], sort: str
) -> list[SurveyedMachine]:
    """Machines in an order; those that have been removed since the survey are left out.

    Args:
        context: the picture of the fleet.
        machines: ordered by template, revision, zone and name, which decides between equals.
        sort: what to order them by; "" keeps the order.
    """
    known = context.fleet.instances
    there = [machine for machine in machines if machine.key in known]
    if not sort:
        return there
    key, turned = _SORTED_BY[sort.removeprefix("-")], sort.startswith("-")
    values = [(key(machine, known[machine.key]), machine) for machine in there]
    with_value = [pair for pair in values if pair[0] is not None]
    with_value.sort(key=itemgetter(0), reverse=turned)
    return [machine for _, machine in with_value] + [it for value, it in values if value is None]


def _has_id(context: Context, machine: SurveyedMachine, gce_id: int | None) -> bool:
    if gce_id is None:
        return False
    instance = context.fleet.instances.get(machine.key)
    return instance is not None and instance.gce_id == gce_id
