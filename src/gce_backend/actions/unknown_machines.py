"""Machines that the catalog does not know, where the settings leave them to an operator."""

from __future__ import annotations

from gce_backend.engine.context import Context
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.permits import awaits_drain

TOPIC = "unknown-machines"
AWAITS_DRAIN = "AwaitsDrain"


def awaits(
    context: Context, key: MachineKey, instance: Instance, patience: float | None = None
) -> bool:
    """Whether a machine is kept until an operator drains it.

    Args:
        patience: seconds for which the catalog must lack it; by default as the settings say.
    """
    settings = context.settings.machine_provider
    if settings.lost_machines != "wait":
        return False
    patience = settings.lost_seconds if patience is None else patience
    active = context.fleet.is_active(key.group)
    return awaits_drain(instance, context.clock.elapsed, patience, active=active)


def kept_message(name: str) -> str:
    """How long a machine is kept that the catalog does not know.

    Args:
        name: the machine, or a word for it.
    """
    return (
        'It is kept (machine_provider.lost_machines = "wait"). When nobody uses it, '
        f"`gce-backend drain {name}` has it deleted within the cap on unconfirmed deletions."
    )


def note(context: Context) -> None:
    """Reports each machine that waits for an operator, and ends the reports of the others."""
    conditions = context.conditions.of_job(TOPIC)
    some = context.fleet.having(Facet.UNCATALOGED, Facet.TROUBLED)
    waiting = {key for key, one in some if awaits(context, key, one)}
    for condition in conditions.mine():
        if condition.subject not in waiting:
            conditions.clear(condition.subject)
    for key in waiting:
        message = f"The catalog does not hold it. {kept_message(key.name)}"
        conditions.note(key, AWAITS_DRAIN, message)
