"""The progress of a fleet that comes up, for people who watch it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gce_backend.engine.context import Context
from gce_backend.model.entities import CatalogState

LOOK_SECONDS = 0.1
MAX_TROUBLES = 5


class ProgressStage(msgspec.Struct, frozen=True):
    """One stage of the progress: how many are done, and how many the configuration asks for."""

    name: str
    done: int
    wanted: int


class Progress(msgspec.Struct, frozen=True):
    """The progress of the fleet.

    Attributes:
        stages: templates, groups, instances created, machines cataloged.
        troubles: the conditions.
    """

    stages: tuple[ProgressStage, ...]
    troubles: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether everything that the configuration asks for exists."""
        return self.stages[0].wanted > 0 and all(s.done >= s.wanted for s in self.stages)


def measure(context: Context | None) -> Progress:
    """The present progress; all zeros before the entities are loaded."""
    names = ("templates", "groups", "instances created", "machines cataloged")
    if context is None:
        return Progress(tuple(ProgressStage(name, 0, 0) for name in names), ())
    fleet = context.fleet
    revisions = list(fleet.active_revisions())
    managers = list(fleet.active_managers())
    machines = sum(manager.minimum_size for _, manager in managers)
    created = cataloged = 0
    for key, manager in managers:
        instances = [
            instance for _, instance in fleet.instances_of(key) if instance.deletion is None
        ]
        created += min(manager.minimum_size, sum(i.gce_id is not None for i in instances))
        entries = sum(i.catalog is CatalogState.CATALOGED for i in instances)
        cataloged += min(manager.minimum_size, entries)
    counts = (
        (sum(revision.url is not None for _, revision in revisions), len(revisions)),
        (sum(manager.url is not None for _, manager in managers), len(managers)),
        (created, machines),
        (cataloged, machines),
    )
    troubles = tuple(f"{c.subject}: {c.reason}: {c.message}" for c in context.conditions)
    stages = tuple(ProgressStage(name, *count) for name, count in zip(names, counts, strict=True))
    return Progress(stages, troubles)


async def watch(look: Callable[[], Progress], console: Console) -> Progress:
    """Shows the progress live, until the fleet is ready.

    Args:
        look: returns the progress.
        console: a terminal.
    """
    both = sys.stderr.isatty()  # what is written meanwhile appears above the display, if in sight
    with Live(console=console, auto_refresh=False, transient=True, redirect_stderr=both) as live:
        while not (progress := look()).ready:
            live.update(_drawn(progress), refresh=True)
            await asyncio.sleep(LOOK_SECONDS)
    return progress


async def until(look: Callable[[], Progress], *, ready: bool) -> Progress:
    """Waits until the fleet is ready, or no longer ready; shows nothing."""
    while (progress := look()).ready is not ready:  # noqa: ASYNC110 -- nobody tells an observer
        await asyncio.sleep(LOOK_SECONDS)
    return progress


def _drawn(progress: Progress) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for stage in progress.stages:
        bar = ProgressBar(total=max(stage.wanted, 1), completed=stage.done, width=30)
        table.add_row(stage.name, bar, f"{stage.done}/{stage.wanted}")
    troubles = [Text(f"! {text}", style="yellow") for text in progress.troubles[:MAX_TROUBLES]]
    return Group(table, *troubles)
