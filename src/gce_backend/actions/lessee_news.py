"""Tells lessees, by the Machine Provider, that the VM of their machine has stopped or is gone.

The lease of a machine that has stopped goes on. That of a machine whose VM Compute no longer has,
or takes back, ends: our Machine Provider ends it, and says why.
"""

from __future__ import annotations

from gce_backend.actions.vm_looks import is_gone
from gce_backend.base.errors import BackendError
from gce_backend.engine.context import Context
from gce_backend.fleet.memory import ToldNews
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.facets import Facet
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.sightings import news_for_lessee

MOST = 50
"""Most machines that one run tells of."""
AGAIN_SECONDS = 600.0
"""After which it is told again: a Machine Provider restored from a backup has forgotten it."""


async def tell(context: Context) -> None:
    """Tells what has changed since it was last told; what gets no answer is told again later."""
    told = context.memory.catalog.news
    now = context.clock.now()
    for key in tuple(told):
        instance = context.fleet.instances.get(key)
        if instance is None or not lease_runs(instance, now):
            del told[key]
    instances = context.fleet.instances
    talked_of = dict(context.fleet.having(Facet.TROUBLED))
    talked_of |= {key: instances[key] for key in told if key in instances}
    due = [
        (key, instance)
        for key, instance in talked_of.items()
        if lease_runs(instance, now) and _is_due(context, instance, told.get(key))
    ]
    for key, instance in due[:MOST]:
        try:
            await _tell(context, key, instance)
        except BackendError:  # the jobs that need the service report it
            return


def _is_due(context: Context, instance: Instance, told: ToldNews | None) -> bool:
    """Whether a lessee does not know what became of the VM, or may not know it any longer."""
    news = news_for_lessee(instance, context.clock.elapsed)
    if news is None or told is None:
        return (news is None) is not (told is None)
    age = context.clock.monotonic() - told.at
    return (news, instance.lease) != (told.news, told.lease) or age >= AGAIN_SECONDS


async def _tell(context: Context, key: MachineKey, instance: Instance) -> None:
    news = news_for_lessee(instance, context.clock.elapsed)
    gone = news is not None and news.is_gone
    if gone and not await is_gone(context, key):
        return
    preempted = news is not None and news.is_preempted
    message = "" if news is None else str(news)
    await context.broker().report_trouble(key.name, message, gone=gone, preempted=preempted)
    told = context.memory.catalog.news
    if news is None:
        told.pop(key, None)
    else:
        told[key] = ToldNews(news, instance.lease, context.clock.monotonic())
