"""What documents and pages read: everything that the daemon has once its entities are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gce_backend.clients.compute.call_budget import CallBudget
from gce_backend.engine.context import Context
from gce_backend.engine.inbox import QueueStatus
from gce_backend.engine.scheduler import Scheduler
from gce_backend.fleet.history import History
from gce_backend.web.survey.census import Census
from gce_backend.web.survey.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """What a daemon that stands by says of itself.

    Attributes:
        leader: the daemon that leads; "" when none is known.
        age: seconds since the picture was last known to be current; None before it is loaded.
    """

    leader: str
    age: float | None

    def __str__(self) -> str:
        leads = f"{self.leader} leads" if self.leader else "no daemon leads"
        return f"this daemon stands by: {leads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What documents and pages read.

    Attributes:
        context: the picture, what was seen at Compute, and the conditions.
        history: what happened.
        scheduler: the jobs.
        queue: the Machine Provider's messages in hand.
        budget: calls to Compute.
        census: all machines with their states.
        samples: how many machines there were in the last hours.
        standby: says that this daemon stands by, and shows what another one does; None while it
            leads.
    """

    context: Context
    history: History
    scheduler: Scheduler[Any]
    queue: Callable[[], QueueStatus]
    budget: CallBudget
    census: Census
    samples: Samples
    standby: Callable[[], Standby | None]
