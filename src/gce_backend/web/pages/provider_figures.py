"""The numbers and charts of a Machine Provider's pages."""

from __future__ import annotations

from collections import Counter

import msgspec

from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.entities import MachineState
from gce_backend.machine_provider.queue import kind_of, matches
from gce_backend.machine_provider.trends import ALL, Trend
from gce_backend.machine_provider.wire import Dimensions, dimension_text
from gce_backend.web.pages.charts import Chart, chart
from gce_backend.web.survey.levels import Level


class KindRow(msgspec.Struct):
    """The machines of one kind.

    Attributes:
        kind: its dimensions as text.
        dimensions: as JSON, with which a form asks for such a machine.
        free: those that can be leased.
        leased: those that somebody holds.
        starting: those that are being set up.
        leaving: those whose lease has ended.
        mute: those that cannot be leased: cordoned, or of silent agents.
        wanted: how many requests wait for; one that fits several kinds counts for each of them.
    """

    kind: str
    dimensions: str
    free: int = 0
    leased: int = 0
    starting: int = 0
    leaving: int = 0
    mute: int = 0
    wanted: int = 0


def charts_of(broker: MachineProvider) -> tuple[Chart, Chart]:
    """The machines of the last hours up to now, and the longest waits for them."""
    trends, records = broker.trends, broker.records
    levels = [Level(*numbers) for numbers in trends.machines.of(ALL)]
    waits = [Level(0, 0, seconds) for (seconds,) in trends.waits.of(ALL)]
    sizes = {state: len(found) for state, found in records.machines.items()}
    free = sum(len(names) for names in records.free.values())
    others = sizes[MachineState.NEW] + sizes[MachineState.RECLAIMED]
    others += sizes[MachineState.AVAILABLE] - free
    now = Level(sizes[MachineState.LEASED], free, others)
    times = [*trends.machines.times, broker.clock.now()]
    drawn = chart(times, [*levels, now], width=600, height=110)
    return drawn, chart(trends.waits.times, waits, width=120, height=24)


def spark(broker: MachineProvider, trend: Trend) -> Chart:
    """The machines of a kind or a group in the last hours."""
    levels = [Level(*numbers) for numbers in broker.trends.machines.of(trend)]
    return chart(broker.trends.machines.times, levels, width=120, height=24)


def count_kinds(broker: MachineProvider) -> list[tuple[Dimensions, KindRow]]:
    """The machines by kind, the kind with the most machines first."""
    rows = []
    wanted = Counter[Dimensions]()
    for lease in broker.records.untriaged.values():
        wanted[kind_of(lease.request.dimensions)] += lease.count
    for kind, states in broker.records.kinds.items():
        sizes = {state: len(machines) for state, machines in states.items()}
        free = len(broker.records.free.get(kind, ()))
        kept = sizes.get(MachineState.AVAILABLE, 0) - free
        taken = 0
        if kept:  # few are neither free nor leased, and mostly none
            available = states[MachineState.AVAILABLE].values()
            taken = sum(machine.preempted_ts is not None for machine in available)
        row = KindRow(
            dimension_text(kind),
            msgspec.json.encode(kind).decode(),
            free=free,
            leased=sizes.get(MachineState.LEASED, 0),
            starting=sizes.get(MachineState.NEW, 0),
            leaving=sizes.get(MachineState.RECLAIMED, 0) + taken,
            mute=kept - taken,
            wanted=sum(count for asked, count in wanted.items() if matches(asked, kind)),
        )
        if row.free or row.leased or row.starting or row.leaving or row.mute:
            rows.append((kind, row))
    return sorted(rows, key=lambda found: (-found[1].free - found[1].leased, found[1].kind))
