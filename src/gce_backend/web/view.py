"""What documents and pages look at: everything that the daemon has once its entities are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gce_backend.context import Context
from gce_backend.history import History
from gce_backend.limits import CallBudget
from gce_backend.pubsub import QueueStatus
from gce_backend.scheduler import Scheduler
from gce_backend.web.census import Census
from gce_backend.web.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The daemon as its readers see it.

    Attributes:
        context: the picture, what was seen at Compute, and what cannot go on.
        history: what happened.
        scheduler: the jobs.
        queue: the Machine Provider's messages in hand.
        budget: calls to Compute.
        census: all machines with their states.
        samples: how many machines there were in the last hours.
    """

    context: Context
    history: History
    scheduler: Scheduler[Any]
    queue: Callable[[], QueueStatus]
    budget: CallBudget
    census: Census
    samples: Samples
